"""Scores of single examples: a bound on log p(x) and the reconstruction error.

    log p̂(x) = log 1/K Σ_k w_k,   w_k = p(x, z_k) / r(z_k|x),   z_k ~ r(z|x)
    stderr   = std(w) / (mean(w) √K)                                           (delta method)

This is the importance-weighted bound (IWAE-K), for K = 1 a one-sample ELBO. The proposal r is the encoder, where it
scores its own samples, otherwise a normal with its moments. The weights have the mean p(x) for any proposal, so the
expectation of log p̂(x) is a lower bound on log p(x) in either case; a proposal far from p(z|x) makes it a loose one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from advae.devices import default_torch_modes
from advae.errors import CheckpointError, ConfigError, WriteError
from advae.evaluation.eval_config import Proposal
from advae.evaluation.eval_data import ErrorScale, num_dims, scores_levels
from advae.evaluation.likelihood.base import no_encoder
from advae.evaluation.likelihood.bounds import log_weights, resolve_proposal
from advae.evaluation.resumable import model_fingerprint
from advae.io import read_npz, write_npz
from advae.metrics.image_similarity import mean_squared_error
from advae.model import LatentModel
from advae.random import seeded
from advae.run import Run

NUM_SAMPLES = 64
BATCH_SIZE = 256  # examples encoded at once
MAX_DECODED_VALUES = 2**23  # numbers in the observations decoded at once
MAX_DECODED = 4096
SCORES_FILE, SCORES_FORMAT = "scores.npz", 1


@dataclass(frozen=True)
class Scores:
    """Scores of N examples, on the CPU.

    Attributes:
        rmse: root mean squared error per dimension of the reconstruction from the mean of q(z|x), ``[N]``.
        unit: of ``rmse``: gray levels, or for tables the standard deviations of the columns.
        log_prob: lower bound on log p(x) of the preprocessed example in nats, ``[N]``; −inf where it is too small for
            floating-point numbers; None if p(x|z) has no density.
        stderr: its standard error over the latents that were sampled, ``[N]``; NaN for one latent. It is too small
            where few weights dominate.
        bits_per_dim: ``−log_prob`` in bits per dimension, ``[N]``; None unless the levels of 8-bit images are scored.
    """

    rmse: Tensor
    unit: str
    log_prob: Tensor | None = None
    stderr: Tensor | None = None
    bits_per_dim: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rmse)

    @property
    def normality(self) -> Tensor:
        """What examples are ranked by, lowest for the most unusual: ``log_prob`` or, without one, ``−rmse``."""
        return -self.rmse.nan_to_num(math.inf) if self.log_prob is None else self.log_prob

    def columns(self) -> dict[str, Tensor]:
        """Return the scores that exist, by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("rmse", "unit")}
        return {name: value for name, value in values.items() if value is not None} | {"rmse": self.rmse}

    def percentiles(self, reference: Tensor) -> Tensor:
        """Return the share of ``reference [M]``, the normality of other examples, that is below each, in percent."""
        below = torch.searchsorted(reference.sort().values, self.normality.to(reference.dtype))
        return 100 * below.double() / len(reference)

    def first(self, count: int) -> Scores:
        """Return the scores of the first examples."""
        columns: dict[str, Any] = {name: values[:count] for name, values in self.columns().items()}
        return replace(self, **columns)

    @classmethod
    def concatenate(cls, parts: Iterable[Scores]) -> Scores:
        """Return the scores of all parts."""
        parts = list(parts)
        columns: dict[str, Any] = {
            name: torch.cat([part.columns()[name] for part in parts]) for name in parts[0].columns()
        }
        return replace(parts[0], **columns)


def score(
    model: LatentModel,
    x: Tensor,
    *,
    num_samples: int = NUM_SAMPLES,
    proposal: Proposal = "auto",
    seed: int = 0,
) -> Scores:
    """Score single observations: how probable the model finds each, and how well it reconstructs it.

    With a normal proposal the scores of an example depend on the example and the seed alone: on no other example, and
    not on its place. Other proposals sample noise for each place. The random state, the caller's modes and the
    model's training mode are not changed.

    Args:
        x: preprocessed observations ``[N, *x_shape]``.
        num_samples: latents per example, ``K``.
        proposal: "auto", "encoder", "diagonal" or "full": see :mod:`advae.evaluation.likelihood.bounds`.
        seed: of the latents.

    Raises:
        UnsupportedError: the model has no encoder.
        NoDensityError: proposal "encoder" for an encoder that cannot score its samples.
        ConfigError: ``x`` has another shape, or there are no examples.
    """
    if not model.has_encoder:
        raise no_encoder(model)
    if len(x) == 0 or num_samples < 1:
        what = "There are no examples to score." if len(x) == 0 else "num_samples must be 1 or more."
        raise ConfigError(what, given=num_samples if len(x) else list(x.shape))
    was_training = model.training
    model.eval()
    try:
        with default_torch_modes(model.dtype), torch.no_grad():
            resolved = resolve_proposal(model, proposal) if model.decoder_has_density() else None
            batches = (
                x[start : start + BATCH_SIZE].to(model.device) for start in range(0, len(x), BATCH_SIZE)
            )
            return Scores.concatenate([_score_batch(model, b, num_samples, resolved, seed) for b in batches])
    finally:
        model.train(was_training)


def _score_batch(model: LatentModel, x: Tensor, num_samples: int, proposal: str | None, seed: int) -> Scores:
    preprocessing = model.preprocessing
    with seeded(seed, model.device):
        scores = _reconstruction_error(model, x)
    if proposal is None:
        return scores
    discretize = preprocessing is not None and scores_levels(model, preprocessing)
    decoded = max(1, min(MAX_DECODED, MAX_DECODED_VALUES // num_dims(model)))
    with seeded(seed, model.device):
        noise = model.prior.rsample((num_samples,))
        log_w = log_weights(model, x, num_samples, discretize, proposal, decoded, noise).double()
        log_w = log_w.nan_to_num(-math.inf, math.inf, -math.inf)  # no weight, where z or p(x|z) overflows
    log_prob, stderr = log_mean_exp(log_w)
    bits = -log_prob / (num_dims(model) * math.log(2)) if discretize else None
    values = {"log_prob": log_prob, "stderr": stderr, "bits_per_dim": bits}
    on_cpu: dict[str, Any] = {name: None if v is None else v.cpu() for name, v in values.items()}
    return replace(scores, **on_cpu)


def log_mean_exp(log_w: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``log 1/K Σ_k w_k`` of ``log w [K, N]``, and its standard error by the delta method, ``[N]`` each."""
    k = len(log_w)
    log_mean = torch.logsumexp(log_w, 0) - math.log(k)
    if k == 1:
        return log_mean, torch.full_like(log_mean, math.nan)
    return log_mean, (log_w - log_mean).exp().std(0) / math.sqrt(k)


def _reconstruction_error(model: LatentModel, x: Tensor) -> Scores:
    """Return the errors of reconstructions of ``x [B, *x_shape]``, under which 8-bit images have no noise."""
    reconstruction, preprocessing = model.decode(model.encode(x).mean).point_estimate(), model.preprocessing
    unit = "units of the observations"
    if preprocessing is not None:
        unit, from_x, _ = ErrorScale.of(preprocessing)
        x, reconstruction = from_x(x), from_x(reconstruction)
        x = x.round() if preprocessing.support == "8-bit" else x
    return Scores(mean_squared_error(reconstruction, x).sqrt().double().cpu(), unit)


# --- the run's own test data --------------------------------------------------------------------------------


def load_or_compute_scores(
    run: Run, model: LatentModel, settings: Mapping[str, Any], compute: Callable[[], Scores]
) -> Scores:
    """Return the scores of a run's own test examples, from ``eval/scores.npz`` if they are those of the model.

    The file is written atomically, with a key of weights and settings, and under another key computed again.

    Args:
        settings: what the scores depend on besides the weights: data, number of examples and latents, seed.
        compute: returns them.

    Raises:
        CheckpointError: a link leads out of the run's directory.
    """
    path = run.file(run.eval_folder, SCORES_FILE)
    key = json.dumps({**settings, "format": SCORES_FORMAT, "model": model_fingerprint(model)}, sort_keys=True)
    with suppress(CheckpointError, KeyError, TypeError):  # none yet, damaged, or edited
        arrays = read_npz(path)
        if str(arrays.pop("key", "")) == key:
            unit = str(arrays.pop("unit"))
            return Scores(unit=unit, **{name: torch.from_numpy(values) for name, values in arrays.items()})
    scores = compute()
    with suppress(WriteError):  # of a run that can only be read
        write_npz(path, {"key": key, "unit": scores.unit, **scores.columns()})
    return scores
