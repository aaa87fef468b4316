"""The true posterior of a code of two dimensions, on a grid, beside the encoder's draws.

    p(z|x) = p(x|z) p(z) / p(x),    p(x) = ∫ p(x|z) p(z) dz by the sum over the grid

Each image has a window of its own, found by looking twice: over the prior's bulk first, then where the posterior
was large there. A mode much narrower than a step of the first look, and far from all others, may be missed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from advae.errors import ConfigError, NoDensityError
from advae.evaluation.eval_data import likelihood
from advae.model import LatentModel, seeded

REACH = 5.0  # standard deviations of the prior: beyond it lie 4e-6 of its mass
LOOKS = 2  # before the grid itself: each narrows the window by up to a quarter of the number of points
COARSE = 50  # points an axis of the looks
DEPTH = 16.0  # nats below the mode: a normal of two dimensions has 1e-7 of its mass beyond
NUMBERS = 2**24  # of decoded observations held at a time


@dataclass(frozen=True)
class PosteriorGrid:
    """The posteriors of B images.

    Attributes:
        axes: the places of the points along both axes, ``[B, 2, points]``, evenly spaced, in float64.
        log_density: log p(z|x), ``[B, points, points]``: ``[b, i, j]`` at ``(axes[b, 0, i], axes[b, 1, j])``.
            It sums to one over the grid times the area of a step.
        log_evidence: log p(x) by the sum over the grid, in nats, ``[B]``.
        samples: draws from q(z|x), ``[B, samples, 2]``.
    """

    axes: Tensor
    log_density: Tensor
    log_evidence: Tensor
    samples: Tensor

    @property
    def area(self) -> Tensor:
        """Of a step, ``[B]``."""
        return (self.axes[:, :, 1] - self.axes[:, :, 0]).prod(1)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean ``[B, 2]`` and covariance ``[B, 2, 2]`` of the true posterior."""
        mass = (self.log_density.exp() * self.area[:, None, None]).flatten(1)
        z = points_of(self.axes)
        mean = (mass[..., None] * z).sum(1)
        centred = z - mean[:, None]
        return mean, torch.einsum("bg,bgk,bgl->bkl", mass, centred, centred)


def points_of(axes: Tensor) -> Tensor:
    """The points of the grids with these axes ``[B, 2, n]``, row by row: ``[B, n², 2]``."""
    n = axes.shape[2]
    rows, columns = axes[:, 0, :, None].expand(-1, n, n), axes[:, 1, None, :].expand(-1, n, n)
    return torch.stack([rows, columns], -1).flatten(1, 2)


@torch.no_grad()
def posterior_grid(
    model: LatentModel,
    x: Tensor,
    *,
    bins: bool = False,
    points: int = 100,
    reach: float | None = None,
    samples: int = 500,
    seed: int = 0,
) -> PosteriorGrid:
    """The true posterior of ``x [B, *x_shape]`` and draws from the encoder.

    Args:
        model: whose code has two dimensions.
        x: observations.
        bins: whether 8-bit images are scored by the probabilities of their values.
        points: an axis of the grid.
        reach: the grid of every image is from -reach to reach. None finds a window for each image that holds
            its posterior and the encoder's draws.
        samples: draws from the encoder an image.
        seed: of these.

    Raises:
        ConfigError: the code has not two dimensions.
        NoDensityError: the decoder is implicit.
    """
    if model.latent != 2:
        raise ConfigError("a posterior on a grid needs a code of 2 dimensions", given=model.latent)
    x = x.to(model.device)
    with seeded(seed, model.device):
        drawn = model.encode(x).sample((samples,)).transpose(0, 1).double()
    half = REACH if reach is None else reach
    low, high = torch.full_like(drawn[:, 0], -half), torch.full_like(drawn[:, 0], half)
    for _ in range(LOOKS if reach is None else 0):
        low, high = _narrowed(model, x, _axes(low, high, COARSE), drawn, bins)
    axes = _axes(low, high, points)
    log_joint = _log_joint(model, x, axes, bins)
    log_area = (axes[:, :, 1] - axes[:, :, 0]).log().sum(1)
    log_evidence = torch.logsumexp(log_joint.flatten(1), 1) + log_area
    log_density = log_joint - log_evidence[:, None, None]
    return PosteriorGrid(*(t.cpu() for t in (axes, log_density, log_evidence, drawn)))


def _axes(low: Tensor, high: Tensor, points: int) -> Tensor:
    """Axes ``[B, 2, points]`` of the smallest squares about the rectangles from ``low`` to ``high [B, 2]``."""
    centre, half = (low + high) / 2, ((high - low) / 2).amax(1)
    places = torch.linspace(-1, 1, points, dtype=low.dtype, device=low.device)
    return centre[:, :, None] + half[:, None, None] * places


def _narrowed(
    model: LatentModel, x: Tensor, axes: Tensor, drawn: Tensor, bins: bool
) -> tuple[Tensor, Tensor]:
    """The rectangles ``[B, 2]`` about the draws and all points within DEPTH of the mode, and a step around those."""
    log_joint = _log_joint(model, x, axes, bins).flatten(1)
    inside = (log_joint > log_joint.amax(1, keepdim=True) - DEPTH)[..., None]
    z, step = points_of(axes), axes[:, :, 1] - axes[:, :, 0]
    low, high = z.where(inside, math.inf).amin(1) - step, z.where(inside, -math.inf).amax(1) + step
    return torch.minimum(low, drawn.amin(1)), torch.maximum(high, drawn.amax(1))


def _log_joint(model: LatentModel, x: Tensor, axes: Tensor, bins: bool) -> Tensor:
    """``log p(x, z) [B, n, n]`` at the points of each image's grid, in float64."""
    z = points_of(axes)
    count = z.shape[1]
    owner = torch.arange(len(x), device=x.device).repeat_interleave(count)
    parts = []
    for some, of in zip(
        *(t.split(max(1, NUMBERS // x[0].numel())) for t in (z.flatten(0, 1), owner)), strict=True
    ):
        p = model.decode(some.to(x.dtype))
        if not p.has_log_prob:
            raise NoDensityError("an implicit decoder has no posterior density")
        parts.append(likelihood(p, bins).log_prob(x[of]).double() + model.prior.log_prob(some))
    return torch.cat(parts).reshape(len(x), axes.shape[2], axes.shape[2])
