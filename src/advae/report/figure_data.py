"""Arrays that the figures of a run report show: samples, reconstructions, latents of held-out data."""

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
from advae.report.figures.image_grid import num_columns
from advae.report.figures.latents import PosteriorGrids

if TYPE_CHECKING:
    from advae.data import Dataset, Split
    from advae.model import LatentModel

Array = NDArray[Any]

SEED = 0  # the same model gives the same report
SAMPLE_ROWS = 5
INTERPOLATION_ROWS = 5
RECONSTRUCTION_ROWS = 2
MIN_VECTORS, MAX_VECTORS = 500, 2000  # samples of vectors, for histograms
VECTOR_RECONSTRUCTIONS = 500
MIN_LATENTS, MAX_LATENTS_PER_EXAMPLE = 2000, 20  # small data sets get several samples per observation
MAX_ENCODED = 5000  # observations
BATCH_SIZE = 500
NUM_POSTERIORS = 6  # observations whose true posterior is plotted


@dataclass(frozen=True)
class FigureData:
    """Arrays for the figures: images in gray levels 0..255 ``[n, C, H, W]``, vectors in their own units ``[n, k]``.

    Attributes:
        has_images: whether observations are images; else they are shown as vectors.
        split: the split of the observations.
        originals: observations.
        samples: of the model.
        samples_description: what the samples are.
        data: observations to compare the samples with (vectors only).
        labels: of the latents, or None.
        reconstructions: of the originals; None without an encoder, like everything below.
        num_encoded: number of observations that were encoded, with ``latents_per_example`` samples each.
        latents: samples from q(z|x) ``[N, d]``.
        paths, endpoints: interpolations ``[r, steps, C, H, W]`` between observations ``[r, 2, C, H, W]``.
        posteriors: true posteriors of the first originals; None unless the latent has two dimensions.
    """

    has_images: bool
    split: str
    originals: Array
    samples: Array
    samples_description: str
    data: Array
    labels: Array | None
    reconstructions: Array | None = None
    num_encoded: int = 0
    latents_per_example: int = 0
    latents: Array | None = None
    paths: Array | None = None
    endpoints: Array | None = None
    posteriors: PosteriorGrids | None = None


def collect_figure_data(model: LatentModel, data: Dataset) -> FigureData:
    """Return the figure data of a model on held-out data; the model's mode and global random state are restored."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), seeded(SEED, _device(model)):
            return _collect(model, data)
    finally:
        model.train(was_training)


def held_out_split(data: Dataset) -> Split:
    """Return the test split, or validation if that is empty, or else the training split."""
    return next((split for split in (data.test, data.validation) if len(split)), data.train)


def describe_samples(model: LatentModel, has_images: bool = True) -> str:
    """Return what the samples of a model are: means without noise only where they are shown as images."""
    if not (model.latent_dim and has_images):
        return "Samples from p(x)"
    has_density = model.decode(torch.zeros(2, model.latent_dim, device=_device(model))).has_log_prob
    return f"{'Means of' if has_density else 'Samples from'} p(x|z) for latents z sampled from the prior"


def _collect(model: LatentModel, data: Dataset) -> FigureData:
    split = held_out_split(data)
    indices = np.random.default_rng(SEED).permutation(len(split))[:MAX_ENCODED]
    x = _read(data, split, indices)
    has_images = len(data.x_shape) == 3
    if has_images:
        columns = num_columns(data.x_shape[-1])
        num_samples = SAMPLE_ROWS * columns
        num_originals = RECONSTRUCTION_ROWS * columns if model.has_encoder else num_samples
    else:
        num_samples, num_originals = min(max(len(x), MIN_VECTORS), MAX_VECTORS), VECTOR_RECONSTRUCTIONS
    labels = None if split.labels is None else split.labels.cpu().numpy()[indices]
    figure_data = FigureData(
        has_images=has_images,
        split=split.name,
        originals=_to_display(data, x[:num_originals]),
        samples=_to_display(
            data, model.sample(num_samples, seed=SEED, mean=has_images and model.latent_dim > 0)
        ),
        samples_description=describe_samples(model, has_images),
        data=np.zeros(0) if has_images else _to_display(data, x[:MAX_VECTORS]),
        labels=labels,
    )
    if not model.has_encoder:
        return figure_data
    device = _device(model)
    reconstructions = model.reconstruct(x[:num_originals].to(device))
    per_example = min(MAX_LATENTS_PER_EXAMPLE, max(1, -(-MIN_LATENTS // max(1, len(x)))))
    batches = [model.encode(batch.to(device)).rsample((per_example,)) for batch in x.split(BATCH_SIZE)]
    paths, endpoints = _interpolate(model, data, x, labels) if has_images and len(x) > 1 else (None, None)
    return replace(
        figure_data,
        reconstructions=_to_display(data, reconstructions),
        num_encoded=len(x),
        latents_per_example=per_example,
        latents=torch.cat(batches, dim=1).flatten(0, 1).float().cpu().numpy(),
        labels=None if labels is None else np.tile(labels, per_example),
        paths=paths,
        endpoints=endpoints,
        posteriors=_posterior_grids(model, data, x[:NUM_POSTERIORS]),
    )


def _posterior_grids(model: LatentModel, data: Dataset, x: Tensor) -> PosteriorGrids | None:
    """Return true posteriors and samples from the encoder; None unless the latent has two dimensions and p(x|z) a
    density."""
    x = x.to(_device(model))
    if model.latent_dim != 2 or not model.decode(model.encode(x).rsample()).has_log_prob:
        return None
    grid = posterior_grid(model, x, discretize=EvalData(data).uses_discretized_likelihood(model), seed=SEED)
    images = _to_display(data, x) if len(data.x_shape) == 3 else None
    return PosteriorGrids(grid.axes.numpy(), grid.log_density.numpy(), grid.samples.numpy(), images)


def _interpolate(model: LatentModel, data: Dataset, x: Tensor, labels: Array | None) -> tuple[Array, Array]:
    """Return decoded paths between pairs of observations, of different classes if there are labels."""
    steps = max(4, num_columns(data.x_shape[-1]) - 2)
    pairs = [(i, i + 1) for i in range(0, len(x) - 1, 2)]
    if labels is not None:
        pairs = sorted(pairs, key=lambda pair: bool(labels[pair[0]] == labels[pair[1]]))
    device, pairs = _device(model), pairs[:INTERPOLATION_ROWS]
    paths = [_to_display(data, model.interpolate(x[i].to(device), x[j].to(device), steps)) for i, j in pairs]
    return np.stack(paths), np.stack([_to_display(data, torch.stack([x[i], x[j]])) for i, j in pairs])


def _to_display(data: Dataset, x: Tensor) -> Array:
    """Return observations of the model's space as gray levels, or as vectors ``[n, k]``."""
    values = data.preprocessing.to_gray(x.detach().float().cpu())
    return (values if len(data.x_shape) == 3 else values.flatten(1)).numpy()


def _read(data: Dataset, split: Split, indices: NDArray[np.int64]) -> Tensor:
    """Return preprocessed observations on the CPU, with a fixed seed."""
    raw = split.raw(torch.from_numpy(np.ascontiguousarray(indices))).cpu()
    return data.preprocessing.apply(raw, torch.Generator().manual_seed(SEED))


def _device(model: LatentModel) -> torch.device:
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
