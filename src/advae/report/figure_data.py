"""What a report shows of a model: it is looked at here, on data it was not trained on, once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from advae.evaluation.eval_data import EvalData
from advae.evaluation.posterior_grid import posterior_grid
from advae.random import seeded
from advae.report.figures.image_grid import columns_for
from advae.report.figures.posteriors import Posteriors

if TYPE_CHECKING:
    from advae.data import Dataset, Split
    from advae.model import LatentModel

Array = NDArray[Any]

SEED = 0  # the same model gives the same report
ROWS = 5  # of samples, and of interpolations
CODES = 2000  # at least so many codes; small data sets give several draws an observation
OBSERVATIONS = 5000  # at most so many observations are encoded
BATCH = 500
POSTERIORS = 6  # observations whose true posterior is drawn


@dataclass(frozen=True)
class Study:
    """Arrays for the figures: images in gray levels 0..255 [n, C, H, W], vectors in their own units [n, k].

    Attributes:
        images: whether observations are images; else they are shown as vectors.
        split: the split that was looked at, and how many observations of it were encoded.
        data: observations, to set beside samples (vectors only).
        reconstructions: of the originals; None without an encoder.
        paths, ends: interpolations [r, steps, C, H, W] and the observations between which they run, or None.
        codes: draws from q(z|x) [N, d], ``draws`` of them for each observation, or None; labels [N] or None.
        posteriors: true posteriors of the first originals, and the encoder's draws; None where they have no picture.
        kind: of the samples, in words.
    """

    images: bool
    split: str
    encoded: int
    draws: int
    originals: Array
    reconstructions: Array | None
    samples: Array
    data: Array
    paths: Array | None
    ends: Array | None
    codes: Array | None
    labels: Array | None
    posteriors: Posteriors | None = None
    kind: str = ""


def study(model: LatentModel, data: Dataset) -> Study:
    """Look at a model on held-out data; its mode and the global random state are left as they were."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), seeded(SEED, _device(model)):
            return _study(model, data)
    finally:
        model.train(was_training)


def held_out(data: Dataset) -> Split:
    """The test split, or if it is empty validation, or else what the model was trained on."""
    return next((split for split in (data.test, data.validation) if len(split)), data.train)


def _study(model: LatentModel, data: Dataset) -> Study:
    split = held_out(data)
    order = np.random.default_rng(SEED).permutation(len(split))[:OBSERVATIONS]
    x = _observe(data, split, order)
    images = len(data.x_shape) == 3
    count = ROWS * columns_for(data.x_shape[-1]) if images else min(len(x), 2000)
    shown = (2 * columns_for(data.x_shape[-1]) if model.has_encoder else count) if images else 500
    samples = model.sample(count, seed=SEED, mean=model.latent > 0)
    labels = None if split.labels is None else split.labels.cpu().numpy()[order]
    seen = Study(
        images=images,
        split=split.name,
        encoded=0,
        draws=0,
        originals=_shown(data, x[:shown]),
        reconstructions=None,
        samples=_shown(data, samples),
        data=_shown(data, x[:2000]) if not images else np.zeros(0),
        paths=None,
        ends=None,
        codes=None,
        labels=labels,
        kind=samples_text(model),
    )
    return replace(seen, **_of_codes(model, data, x, labels, shown)) if model.has_encoder else seen


def _of_codes(
    model: LatentModel, data: Dataset, x: Tensor, labels: Array | None, shown: int
) -> dict[str, Any]:
    """What an encoder adds: of observations ``x`` the codes, and what comes back of them."""
    device = _device(model)
    reconstructions = model.reconstruct(x[:shown].to(device))
    draws = min(20, max(1, -(-CODES // max(1, len(x)))))
    batches = [model.encode(b.to(device)).rsample((draws,)) for b in x.split(BATCH)]
    codes = torch.cat(batches, dim=1).flatten(0, 1)
    between = len(data.x_shape) == 3 and len(x) > 1
    paths, ends = _interpolate(model, data, x, labels) if between else (None, None)
    return {
        "encoded": len(x),
        "draws": draws,
        "reconstructions": _shown(data, reconstructions),
        "paths": paths,
        "ends": ends,
        "codes": codes.float().cpu().numpy(),
        "labels": None if labels is None else np.tile(labels, draws),
        "posteriors": _posteriors(model, data, x[:POSTERIORS]),
    }


def samples_text(model: LatentModel) -> str:
    """What stands for the model where its samples are shown."""
    if not model.latent:
        return "Draws from p(x)"
    means = model.decode(torch.zeros(2, model.latent, device=_device(model))).has_log_prob
    return f"{'Means of' if means else 'Draws from'} p(x|z) at codes z drawn from the prior"


def _posteriors(model: LatentModel, data: Dataset, x: Tensor) -> Posteriors | None:
    """True posteriors on a grid beside the encoder's draws, for codes of two dimensions."""
    x = x.to(_device(model))
    if model.latent != 2 or not model.decode(model.encode(x).rsample()).has_log_prob:
        return None
    found = posterior_grid(model, x, bins=EvalData(data).uses_discretized_likelihood(model), seed=SEED)
    shown = _shown(data, x) if len(data.x_shape) == 3 else None
    return Posteriors(found.axes.numpy(), found.log_density.numpy(), found.samples.numpy(), shown)


def _shown(data: Dataset, x: Tensor) -> Array:
    """Observations in the model's space to what the eye is shown: gray levels, or vectors [n, k]."""
    grays = data.preprocessing.to_gray(x.detach().float().cpu())
    return (grays if len(data.x_shape) == 3 else grays.flatten(1)).numpy()


def _observe(data: Dataset, split: Split, indices: NDArray[np.int64]) -> Tensor:
    """Observations under the data's protocol, on the CPU: the same ones at each call."""
    raw = split.raw(torch.from_numpy(np.ascontiguousarray(indices))).cpu()
    return data.preprocessing.apply(raw, torch.Generator().manual_seed(SEED))


def _interpolate(model: LatentModel, data: Dataset, x: Tensor, labels: Array | None) -> tuple[Array, Array]:
    """Paths between neighbours in the shuffled order, of different classes where there are classes."""
    steps = max(4, columns_for(data.x_shape[-1]) - 2)
    pairs = [(i, i + 1) for i in range(0, len(x) - 1, 2)]
    if labels is not None:
        pairs = sorted(pairs, key=lambda pair: bool(labels[pair[0]] == labels[pair[1]]))
    device = _device(model)
    pairs = pairs[:ROWS]
    paths = [_shown(data, model.interpolate(x[i].to(device), x[j].to(device), steps)) for i, j in pairs]
    return np.stack(paths), np.stack([_shown(data, torch.stack([x[i], x[j]])) for i, j in pairs])


def _device(model: LatentModel) -> torch.device:
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


