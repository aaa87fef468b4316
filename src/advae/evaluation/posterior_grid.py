"""Exact posterior of a two-dimensional latent on a grid, with samples from the encoder.

    p(z|x) = p(x|z) p(z) / p(x),    p(x) = ∫ p(x|z) p(z) dz by the sum over the grid

Each example has its own window. It is found in two passes: over the bulk of the prior first, then where the posterior
was large there. A mode that is much narrower than a cell of the first pass and far from all others may be missed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from advae.errors import ConfigError, NoDensityError
from advae.evaluation.eval_data import scoring_distribution
from advae.model import LatentModel
from advae.random import seeded

PRIOR_STDS = 5.0  # half the width of the first window: 4e-6 of the prior's mass is outside
NUM_PASSES = 2  # before the grid itself: each narrows the window by up to a quarter of the number of points
COARSE_POINTS = 50  # per axis in these passes
MAX_NATS_BELOW_MODE = 16.0  # of the window: 1e-7 of a normal's mass in two dimensions is farther out
DIMS_PER_BATCH = 2**24  # of decoded observations


@dataclass(frozen=True)
class PosteriorGrid:
    """The posteriors of B examples.

    Attributes:
        axes: coordinates of the points along both axes, ``[B, 2, points]``, evenly spaced, in float64.
        log_density: log p(z|x), ``[B, points, points]``: ``[b, i, j]`` at ``(axes[b, 0, i], axes[b, 1, j])``.
            The densities times the area of a cell sum to one.
        log_evidence: log p(x) by the sum over the grid, in nats, ``[B]``.
        samples: from q(z|x), ``[B, samples, 2]``.
    """

    axes: Tensor
    log_density: Tensor
    log_evidence: Tensor
    samples: Tensor


def grid_points(axes: Tensor) -> Tensor:
    """Return the points of the grids with these axes ``[B, 2, n]``, row by row: ``[B, n², 2]``."""
    n = axes.shape[2]
    rows, columns = axes[:, 0, :, None].expand(-1, n, n), axes[:, 1, None, :].expand(-1, n, n)
    return torch.stack([rows, columns], -1).flatten(1, 2)


@torch.no_grad()
def posterior_grid(
    model: LatentModel,
    x: Tensor,
    *,
    discretize: bool = False,
    points: int = 100,
    samples: int = 500,
    seed: int = 0,
) -> PosteriorGrid:
    """Return the exact posteriors of observations on grids, and samples from the encoder.

    The window of each example contains its posterior and the encoder's samples.

    Args:
        model: with two latent dimensions.
        x: observations ``[B, *x_shape]``.
        discretize: score 8-bit images by the probabilities of their levels.
        points: per axis of the grid.
        samples: per example, from the encoder.
        seed: of the samples.

    Raises:
        ConfigError: the model has another number of latent dimensions.
        NoDensityError: the decoder is implicit.
    """
    if model.latent_dim != 2:
        raise ConfigError("A posterior on a grid needs a latent dimension of 2.", given=model.latent_dim)
    x = x.to(model.device)
    with seeded(seed, model.device):
        z_samples = model.encode(x).sample((samples,)).transpose(0, 1).double()
    high = torch.full_like(z_samples[:, 0], PRIOR_STDS)
    low = -high
    for _ in range(NUM_PASSES):
        low, high = _narrow(model, x, _make_axes(low, high, COARSE_POINTS), z_samples, discretize)
    axes = _make_axes(low, high, points)
    log_joint = _log_joint(model, x, axes, discretize)
    log_area = (axes[:, :, 1] - axes[:, :, 0]).log().sum(1)
    log_evidence = torch.logsumexp(log_joint.flatten(1), 1) + log_area
    log_density = log_joint - log_evidence[:, None, None]
    return PosteriorGrid(*(t.cpu() for t in (axes, log_density, log_evidence, z_samples)))


def _make_axes(low: Tensor, high: Tensor, points: int) -> Tensor:
    """Return axes ``[B, 2, points]`` of the smallest squares around the rectangles from ``low`` to ``high [B, 2]``."""
    center, half = (low + high) / 2, ((high - low) / 2).amax(1)
    units = torch.linspace(-1, 1, points, dtype=low.dtype, device=low.device)
    return center[:, :, None] + half[:, None, None] * units


def _narrow(
    model: LatentModel, x: Tensor, axes: Tensor, z_samples: Tensor, discretize: bool
) -> tuple[Tensor, Tensor]:
    """Return rectangles ``[B, 2]`` around the samples and all cells within MAX_NATS_BELOW_MODE of the mode."""
    log_joint = _log_joint(model, x, axes, discretize).flatten(1)
    inside = (log_joint > log_joint.amax(1, keepdim=True) - MAX_NATS_BELOW_MODE)[..., None]
    z, cell = grid_points(axes), axes[:, :, 1] - axes[:, :, 0]
    low, high = z.where(inside, math.inf).amin(1) - cell, z.where(inside, -math.inf).amax(1) + cell
    return torch.minimum(low, z_samples.amin(1)), torch.maximum(high, z_samples.amax(1))


def _log_joint(model: LatentModel, x: Tensor, axes: Tensor, discretize: bool) -> Tensor:
    """Return ``log p(x, z) [B, n, n]`` at the points of each example's grid, in float64."""
    points = grid_points(axes)
    z = points.flatten(0, 1)
    example = torch.arange(len(x), device=x.device).repeat_interleave(points.shape[1])
    chunk_size = max(1, DIMS_PER_BATCH // x[0].numel())
    chunks = []
    for z_chunk, index in zip(z.split(chunk_size), example.split(chunk_size), strict=True):
        p = model.decode(z_chunk.to(x.dtype))
        if not p.has_log_prob:
            raise NoDensityError("An implicit decoder has no posterior density.")
        log_p = scoring_distribution(p, discretize).log_prob(x[index]).double()
        chunks.append(log_p + model.prior.log_prob(z_chunk))
    return torch.cat(chunks).reshape(len(x), axes.shape[2], axes.shape[2])
