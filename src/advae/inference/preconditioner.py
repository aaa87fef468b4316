"""Where the target is: an affine map from standardised vectors u to z, one for each fit, found by normals.

    z = μ + L u                                              μ [F, d], L [F, d, d] lower triangular

A normal N(0, I) in the coordinates of the map so far is moved towards the target, and becomes the map:

    g(u) ≈ a − P u            the gradient of log p, by least squares over draws of N(0, I)
    N(0, I) → N(P⁻¹ a, P⁻¹)   a share ρ of the way

By Stein's identity −P is the mean Hessian, so that this is a natural gradient step of Gaussian variational inference
(Khan and Nielsen 2018), with the slopes of a regression for the mean: at a normal target they are exact whatever the
draws, and one step lands on it. No step depends on the scales of the parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from advae.errors import AdvaeError
from advae.inference.target import Target

ANCHOR = 1e4  # standard deviation of the normal that a power of the target is mixed with, lest it be improper
RIDGE = 1e-3  # added to the draws' second moments, which are about 1
FARTHEST, NARROWEST, WIDEST = (
    3.0,
    8.0,
    0.15,
)  # of one step: means it moves; precisions it may come to, which begin at 1
WIDE, HELD = (
    0.25,
    0.25,
)  # run away: so wide as a share of the anchor, and held less than this, where 1 is balance
PROBES = 256
FAR = 1e8  # standard deviations and means beyond which draws have run away


@dataclass(frozen=True)
class Place:
    """The map.

    Attributes:
        mean: ``μ [F, d]``.
        factor: ``L [F, d, d]``.
    """

    mean: Tensor
    factor: Tensor

    @classmethod
    def start(cls, fits: int, d: int, spread: Tensor) -> Place:
        """Standard normals about ``spread [F, d]``."""
        eye = torch.eye(d, dtype=spread.dtype, device=spread.device)
        return cls(spread, eye.expand(fits, d, d).contiguous())

    def z(self, u: Tensor) -> Tensor:
        """``z [F, n, d]`` of ``u [F, n, d]``."""
        return self.mean.unsqueeze(1) + u @ self.factor.mT

    @property
    def log_volume(self) -> Tensor:
        """``log |L| [F]``."""
        return self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    @torch.no_grad()
    def towards(self, grad: Tensor, u: Tensor, share: float) -> Place:
        """A share of a step towards the target, by its gradients ``[F, n, d]`` at draws ``u [F, n, d]`` of N(0, I)."""
        centred, n = u - u.mean(1, keepdim=True), u.shape[1]
        eye = torch.eye(u.shape[-1], dtype=u.dtype, device=u.device)
        slope = torch.linalg.solve(centred.mT @ centred / n + RIDGE * eye, centred.mT @ grad / n)
        values, vectors = torch.linalg.eigh(-0.5 * (slope + slope.mT))
        mean_grad = (
            vectors.mT @ (grad.mean(1) - (slope.mT @ u.mean(1).unsqueeze(-1)).squeeze(-1)).unsqueeze(-1)
        ).squeeze(-1)
        step = mean_grad / values.clamp_min(WIDEST)
        far = (step.abs() / FARTHEST).clamp_min(1)  # where the mean cannot come in one step, N grows instead
        values = torch.where(far > 1, far.pow(-2), values).clamp(WIDEST, NARROWEST)
        step = share * (vectors @ (step / far).unsqueeze(-1)).squeeze(-1)
        P = (1 - share) * eye + share * (vectors * values.unsqueeze(1)) @ vectors.mT
        return self.then(step, torch.linalg.cholesky(torch.linalg.inv(P)))

    def diagonal(self) -> Place:
        """The diagonal map whose normals have the least KL to those of this one: it keeps their precisions."""
        precision = torch.cholesky_inverse(self.factor).diagonal(dim1=-2, dim2=-1)
        return Place(self.mean, torch.diag_embed(precision.rsqrt()))

    def then(self, mean: Tensor, factor: Tensor) -> Place:
        """The map of a normal ``N(mean [F, d], factor [F, d, d])`` over u."""
        return Place(self.z(mean.unsqueeze(1)).squeeze(1), self.factor @ factor)


def log_density(target: Target, place: Place, u: Tensor, power: float, *, whole: bool = False) -> Tensor:
    """``log p(z(u))^power |L| [F, n]``, mixed with a wide normal where the power is below 1.

    Args:
        target: the target.
        place: the map.
        u: ``[F, n, d]``.
        power: from above 0 to 1.
        whole: by all of the data, even where steps use a minibatch.
    """
    z = place.z(u)
    flat = z.flatten(0, 1)
    value = (target(flat) if whole else target.estimate(flat)).reshape(z.shape[:2])
    if power < 1:
        value = power * value - (1 - power) * 0.5 * (z / ANCHOR).square().sum(-1)
    return value + place.log_volume.unsqueeze(1)


def runaway(target: Target, place: Place) -> None:
    """See that it is the target that holds the located normals, and not the anchor alone.

    Along a direction v a normal q that is in balance has ``E_q[−(v·z)(v·∇log p)] = 1``: that is what the target holds
    against its entropy.

    Raises:
        AdvaeError: in some direction q has grown as wide as the anchor, and the target does not hold it.
    """
    values, vectors = torch.linalg.eigh(place.factor @ place.factor.mT)
    spread = values.clamp_min(0).sqrt()
    own = Place(place.mean, vectors * spread.unsqueeze(1))
    with torch.enable_grad():
        u = torch.randn(len(place.mean), PROBES, place.mean.shape[1]).to(place.mean).requires_grad_()
        (grad,) = torch.autograd.grad(target(own.z(u).flatten(0, 1)).sum(), u)
    held = torch.nan_to_num(-(u.detach() * grad).mean(1), nan=torch.inf)  # [F, d]
    free = ((spread > WIDE * ANCHOR) & (held < HELD)).all(0)
    if bool(free.any()):
        raise improper(target, vectors[0, :, int(free.nonzero()[0])].abs())


def improper(target: Target, direction: Tensor) -> AdvaeError:
    """The error for draws that run away along ``direction [d]``."""
    owners, shares = target.space.owners(), direction.square()
    order = torch.argsort(shares, descending=True).tolist()
    names = list(dict.fromkeys(owners[i] for i in order if shares[i] > 0.2 * shares.max()))
    return AdvaeError(
        "the target seems improper: nothing holds the draws back",
        given=f"they run away in {', '.join(map(repr, names[:4]))}",
        expected="a log joint whose integral over the parameters is finite",
        remedy="give every parameter a prior; a sum or difference that the data do not know needs one too."
        " If the scale is really so large, express the parameter in larger units",
    )


def lost(target: Target, place: Place, u: Tensor) -> None:
    """Raise an error if draws have run away."""
    z = place.z(u.detach())
    size = z.abs().amax((0, 1))
    if not bool(z.isfinite().all()) or bool((size > FAR).any()):
        raise improper(target, torch.nan_to_num(size / size.max(), nan=1.0))
