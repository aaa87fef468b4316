"""The evaluation that every run gets: what can be said of this model, and nothing that cannot."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from advae.data import Dataset, protocol_from
from advae.errors import ConfigError, nearest
from advae.evaluation.adversarial import adversarial_elbo
from advae.evaluation.annealing import ais
from advae.evaluation.bounds import elbo, iwae
from advae.evaluation.estimate import Estimates
from advae.evaluation.observed import Observed, unit_dims
from advae.evaluation.reconstruction import reconstruction, rmse
from advae.model import LatentModel, seeded

LIKELIHOODS = ("elbo", "iwae", "ais")


def evaluate(
    model: LatentModel,
    data: Dataset,
    *,
    likelihood: str | Sequence[str] = ("elbo", "iwae"),
    split: str = "test",
    importance: int = 64,
    draws: int = 16,
    chains: int = 16,
    temperatures: int = 1000,
    seed: int = 0,
    limit: int | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Estimates:
    """Judge a model on data.

    Args:
        model: a trained model.
        data: the data set it is judged on, under the observation protocol it was trained for.
        likelihood: which of "elbo", "iwae" and "ais", where the model has them. Annealing needs no density of
            the encoder, and minutes to hours.
        split: "train", "validation" or "test".
        importance: K of the importance-weighted bound; 0 leaves it out.
        draws: codes an image for the ELBO.
        chains: chains an image for annealing.
        temperatures: of annealing.
        seed: of every draw.
        limit: the first so many images only.
        tick: called after each transition of annealing, for a progress bar.

    Returns:
        Reconstruction error in nats (decoders with a density) and in grey levels; for encoders with a density
        too the ELBO and IWAE-K, also in bits per dimension for 8-bit images; for the others the critic's
        adversarial estimate, labelled so; and the annealed estimate, if asked for.

    Raises:
        ConfigError: an unknown likelihood or split.
    """
    asked = [likelihood] if isinstance(likelihood, str) else list(likelihood)
    for name in asked:
        if name not in LIKELIHOODS:
            raise ConfigError(f"there is no likelihood {name!r}", remedy=nearest(name, LIKELIHOODS))
    model.eval()
    observed = Observed(as_trained(model, data), split, seed, limit)
    q, p = _kinds(model)
    found = Estimates()
    with seeded(seed, model.device):
        found.append(rmse(model, observed))
        if p:
            found.append(reconstruction(model, observed))
        bounds = []
        if p and q:
            bounds += [elbo(model, observed, draws)] if "elbo" in asked else []
            bounds += [iwae(model, observed, importance)] if "iwae" in asked and importance else []
        elif not q and model.critics:
            found += adversarial_elbo(model, observed)
        if p and "ais" in asked:
            annealed, each = ais(model, observed, chains=chains, count=temperatures, tick=tick)
            bounds.append(annealed)
            found.images["ais"] = vars(each)
        found += bounds
        if observed.scores_bins(model):
            per_dim = -1 / (unit_dims(model) * math.log(2))
            found += [bound.scaled(per_dim, "bits/dim") for bound in bounds]
    return found


def as_trained(model: LatentModel, data: Dataset) -> Dataset:
    """The data under the model's own protocol, where it is one of the same name with other numbers.

    Standardised data keep the mean and scale of the data that the model was trained on.
    """
    described = (model.info.get("data") or {}).get("protocol", {})
    if described.get("name") != data.protocol.name:
        return data
    return replace(data, protocol=protocol_from(described))


@torch.no_grad()
def _kinds(model: LatentModel) -> tuple[bool, bool]:
    """Whether encoder and decoder have densities."""
    q = model.encode(torch.zeros(2, *model.x_shape, device=model.device))
    return q.has_log_prob, model.decode(q.sample()).has_log_prob
