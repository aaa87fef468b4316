"""Affine maps, and the affine preconditioner by Gaussian variational inference.

    z = μ + L u                                              μ [F, d], L [F, d, d] lower triangular

For u ~ N(0, I), z ~ N(μ, L Lᵀ): a map is also a whitening and a normal distribution. Each step moves the normal N(0, I)
in the coordinates u of the current map towards the target; that normal defines the next map:

    g(u) ≈ a − P u            the gradient of log p, by least squares over samples of N(0, I)
    N(0, I) → N(P⁻¹ a, P⁻¹)   by a fraction ρ

By Stein's identity −P is the mean Hessian, so that this is a natural gradient step of Gaussian variational inference
(Khan and Nielsen 2018), with regression slopes for the mean. At a normal target the regression is exact for any
samples, and a full step reaches the target. No step depends on the scales of the parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from advae.distributions.base import LOG_2PI
from advae.errors import AdvaeError
from advae.inference.target import Target

RELATIVE_JITTER = 1e-6  # added to an empirical covariance, as a fraction of its mean variance
ANCHOR_SD = 1e4  # of the normal that a power of the target is mixed with, so that it is proper
RIDGE = 1e-3  # added to the samples' second moments, which are about 1
MAX_MEAN_STEP = 3.0  # per step, in current standard deviations
MIN_PRECISION, MAX_PRECISION = 0.15, 8.0  # after one step, which begins at precision 1
RUNAWAY_WIDTH = 0.25  # fraction of ANCHOR_SD from which a direction may be improper …
RUNAWAY_BALANCE = 0.25  # … if its balance (1 at a proper target, see check_proper) is below this
BALANCE_SAMPLES = 256
MAX_ABS_VALUE = 1e8  # of a coordinate of z


@dataclass(frozen=True)
class AffineMap:
    """One map, with mean ``μ [*F, d]`` and factor ``L [*F, d, d]``, or several with leading axes ``*F``."""

    mean: Tensor
    factor: Tensor

    @classmethod
    def translation(cls, mean: Tensor) -> Self:
        """Return ``z = μ + u`` for ``μ [*F, d]``."""
        eye = torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)
        return cls(mean, eye.expand(*mean.shape, mean.shape[-1]).contiguous())

    @classmethod
    def from_samples(cls, z: Tensor) -> Self:
        """Return the map with the mean and covariance of ``z [n, d]``; never singular."""
        mean, eye = z.mean(0), torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
        cov = (z - mean).mT @ (z - mean) / len(z)
        return cls(mean, torch.linalg.cholesky(cov + RELATIVE_JITTER * cov.diagonal().mean() * eye))

    def __call__(self, u: Tensor) -> Tensor:
        """Return ``z [*F, n, d]`` for ``u [*F, n, d]``."""
        return self.mean.unsqueeze(-2) + u @ self.factor.mT

    def inverse(self, z: Tensor) -> Tensor:
        """Return ``u [*F, n, d]`` for ``z [*F, n, d]``."""
        centered = z - self.mean.unsqueeze(-2)
        return torch.linalg.solve_triangular(self.factor, centered.mT, upper=False).mT

    @property
    def log_volume(self) -> Tensor:
        """``log |det L| [*F]``."""
        return self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def normal_log_prob(whitened: Tensor, log_volume: Tensor) -> Tensor:
    """Return ``log N(z; μ, L Lᵀ) [*F]`` from whitened vectors ``u [*F, d]`` and ``log |det L|``."""
    return -0.5 * whitened.square().sum(-1) - log_volume - 0.5 * whitened.shape[-1] * LOG_2PI


@torch.no_grad()
def step_towards(affine: AffineMap, grad: Tensor, u: Tensor, fraction: float) -> AffineMap:
    """Return the map after one step of Gaussian variational inference.

    Args:
        affine: the current map.
        grad: ``g(u) [F, n, d]``.
        u: samples of N(0, I), ``[F, n, d]``.
        fraction: ``ρ``.
    """
    centered, n = u - u.mean(1, keepdim=True), u.shape[1]
    eye = torch.eye(u.shape[-1], dtype=u.dtype, device=u.device)
    slope = torch.linalg.solve(centered.mT @ centered / n + RIDGE * eye, centered.mT @ grad / n)
    precision, vectors = torch.linalg.eigh(-0.5 * (slope + slope.mT))
    intercept = grad.mean(1) - (slope.mT @ u.mean(1).unsqueeze(-1)).squeeze(-1)
    mean_grad = (vectors.mT @ intercept.unsqueeze(-1)).squeeze(-1)
    step = mean_grad / precision.clamp_min(MIN_PRECISION)
    # Where the mean is out of reach of one step, the normal is widened instead.
    excess = (step.abs() / MAX_MEAN_STEP).clamp_min(1)
    precision = torch.where(excess > 1, excess.pow(-2), precision).clamp(MIN_PRECISION, MAX_PRECISION)
    step = fraction * (vectors @ (step / excess).unsqueeze(-1)).squeeze(-1)
    P = (1 - fraction) * eye + fraction * (vectors * precision.unsqueeze(1)) @ vectors.mT
    factor = torch.linalg.cholesky(torch.linalg.inv(P))
    return AffineMap(affine(step.unsqueeze(1)).squeeze(1), affine.factor @ factor)


def diagonal_approximation(affine: AffineMap) -> AffineMap:
    """Return the diagonal map with minimal KL to the normals of ``affine``: it has the same precisions."""
    precision = torch.cholesky_inverse(affine.factor).diagonal(dim1=-2, dim2=-1)
    return AffineMap(affine.mean, torch.diag_embed(precision.rsqrt()))


def log_prob_in_u(
    target: Target, affine: AffineMap, u: Tensor, power: float, *, all_rows: bool = False
) -> Tensor:
    """Return ``log p(z(u))^power |L| [F, n]`` for ``u [F, n, d]``, mixed with a wide normal if the power is below 1.

    With ``all_rows`` all data are used even if steps use a minibatch.
    """
    z = affine(u)
    flat = z.flatten(0, 1)
    value = (target(flat) if all_rows else target.estimate(flat)).reshape(z.shape[:2])
    if power < 1:
        value = power * value - (1 - power) * 0.5 * (z / ANCHOR_SD).square().sum(-1)
    return value + affine.log_volume.unsqueeze(1)


def check_proper(target: Target, affine: AffineMap) -> None:
    """Check that the target itself, not only the anchor, bounds the fitted normals.

    At the optimum, target and entropy balance: ``E_q[−(v·z)(v·∇log p)] = 1`` for a normal q, along every direction v.

    Raises:
        AdvaeError: along some direction q is as wide as the anchor, and the target does not bound it.
    """
    variances, vectors = torch.linalg.eigh(affine.factor @ affine.factor.mT)
    widths = variances.clamp_min(0).sqrt()
    principal_axes = AffineMap(affine.mean, vectors * widths.unsqueeze(1))
    with torch.enable_grad():
        u = torch.randn(len(affine.mean), BALANCE_SAMPLES, affine.mean.shape[1], dtype=torch.float32)
        u = u.to(affine.mean).requires_grad_()
        (grad,) = torch.autograd.grad(target(principal_axes(u).flatten(0, 1)).sum(), u)
    balance = torch.nan_to_num(-(u.detach() * grad).mean(1), nan=torch.inf)  # [F, d]
    unbounded = ((widths > RUNAWAY_WIDTH * ANCHOR_SD) & (balance < RUNAWAY_BALANCE)).all(0)
    if bool(unbounded.any()):
        raise improper_target_error(target, vectors[0, :, int(unbounded.nonzero()[0])].abs())


def check_bounded(target: Target, affine: AffineMap, u: Tensor) -> None:
    """Raise an error if samples ``u [F, n, d]`` of q have diverged."""
    z = affine(u.detach())
    size = z.abs().amax((0, 1))
    if not bool(z.isfinite().all()) or bool((size > MAX_ABS_VALUE).any()):
        raise improper_target_error(target, torch.nan_to_num(size / size.max(), nan=1.0))


def improper_target_error(target: Target, direction: Tensor) -> AdvaeError:
    """Return the error for a density that is not bounded along ``direction [d]``."""
    names, weights = target.space.coordinate_names(), direction.square()
    order = torch.argsort(weights, descending=True).tolist()
    involved = list(dict.fromkeys(names[i] for i in order if weights[i] > 0.2 * weights.max()))
    return AdvaeError(
        "The target seems improper: samples of q diverge.",
        given=f"divergence in {', '.join(map(repr, involved[:4]))}",
        expected="a log joint whose integral over the parameters is finite",
        fix="give every parameter a prior; a sum or difference that the data do not determine needs one too."
        " If the scale is really so large, express the parameter in larger units",
    )
