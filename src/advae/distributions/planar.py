"""Planar flows of any length (Rezende and Mohamed 2015); AS-VAE uses 80 layers on MNIST.

    u, w, b    of each layer, from the network                        [B, K, n], [B, K, n], [B, K]
    (10)       z_k+1 = z_k + û tanh(wᵀz_k + b)
    (12)       log |det| = log(1 + wᵀû · (1 − tanh²(wᵀz_k + b)))
    A.1        û = u + (m(wᵀu) − wᵀu) w / ‖w‖²,    so that wᵀû = m(wᵀu) > −1 and the layer is invertible

The paper's m(x) = −1 + log(1 + eˣ) has m(0) = log 2 − 1: a layer with u = 0 would still shrink by a third. Here
m(x) = −1 + δ + log(1 + eˣ⁺ᶜ) with c such that m(0) = 0: a layer with u = 0 is the identity, and 80 of them start near
the identity. δ keeps the factor of the density of a layer below 1/δ.

The inverse of a layer is one equation in one number: t = wᵀz_k + b solves t + wᵀû tanh(t) = wᵀz_k+1 + b.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from advae.distributions.base import HEADS, Distribution, Head, at_least_float32
from advae.distributions.flow import Flow
from advae.distributions.normal import Normal, normal_from_raw
from advae.errors import ConfigError

DELTA = 1e-3  # δ: wᵀû > −1 + δ. The inverse multiplies rounding errors by at most 1/δ per layer
C = math.log(math.expm1(1 - DELTA))  # c: m(0) = 0
U_INIT_FACTOR = 0.1  # u is this times the network's output, so that layers start near the identity
MIN_SQUARED_NORM = 1e-12  # of w; below it w has no direction
NEWTON_STEPS = {torch.float32: 7, torch.float64: 9}  # of `solve_layer`


def constrain_u(u: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``û [..., n]``, which is close to u where u is allowed, and ``wᵀû [...] > −1 + δ`` (A.1)."""
    wu = (w * u).sum(-1)
    wu_hat = softplus(wu + C) - 1 + DELTA
    correction = (wu_hat - wu) / w.square().sum(-1).clamp_min(MIN_SQUARED_NORM)
    return u + correction.unsqueeze(-1) * w, wu_hat


def solve_layer(r: Tensor, a: Tensor) -> Tensor:
    """Return the t with ``t + a tanh(t) = r``, for ``a > −1``; differentiable once in r and a.

    A fixed number of Newton steps starts from whichever of r − a and r/(1 + a) is nearer to the root (for r > 0; the
    equation is odd). For a > 0 both are below the root and the function is concave; for a < 0 both are above it and the
    function is convex. So every step goes towards the root and none overshoots: no safeguard is needed. The number of
    steps suffices for the slowest r with −1 + δ ≤ a ≤ 10⁴. Only a last step is differentiated: at the solution its
    gradient is that of the implicit function.
    """
    with torch.no_grad():
        far, near = r.abs() - a, r.abs() / (1 + a)
        t = torch.where(a > 0, torch.maximum(far, near), torch.minimum(far, near)).copysign(r)
        for _ in range(NEWTON_STEPS[t.dtype]):
            t = _newton_step(t, r, a)
    return _newton_step(t, r, a)


def _newton_step(t: Tensor, r: Tensor, a: Tensor) -> Tensor:
    h = torch.tanh(t)
    ah = a * h
    slope = torch.addcmul(a, ah, h, value=-1)  # of a tanh(t)
    return torch.addcmul(r - ah, slope, t) / (1 + slope)


class PlanarFlow(Flow):
    """A normal transformed by K planar layers: ``u`` (any values) and ``w`` are ``[B, K, n]``, ``b`` is ``[B, K]``."""

    def __init__(
        self,
        base: Normal,
        u: Tensor,
        w: Tensor,
        b: Tensor,
        event_shape: Sequence[int],
        moment_samples: int = 64,
    ) -> None:
        super().__init__(base, event_shape, moment_samples)
        self.u, self.w, self.b = u, w, b
        self.u_hat, self.wu_hat = constrain_u(u, w)
        self._layers = list(zip(*(p.unbind(1) for p in (self.u_hat, w, b, self.wu_hat)), strict=True))

    def forward(self, start: Tensor) -> tuple[Tensor, Tensor]:
        z, tanhs = start, []
        for u_hat, w, b, _ in self._layers:
            tanhs.append(torch.tanh((w * z).sum(-1) + b))
            z = z + u_hat * tanhs[-1].unsqueeze(-1)  # (10)
        return z, self._log_det(tanhs)

    def inverse(self, value: Tensor) -> tuple[Tensor, Tensor]:
        z, tanhs = value, []
        for u_hat, w, b, wu_hat in reversed(self._layers):
            tanhs.append(torch.tanh(solve_layer((w * z).sum(-1) + b, wu_hat)))
            z = z - u_hat * tanhs[-1].unsqueeze(-1)
        return z, self._log_det(tanhs[::-1])

    def _log_det(self, tanhs: list[Tensor]) -> Tensor:
        h = torch.stack(tanhs, -1)
        return torch.log1p(self.wu_hat * (1 - h.square())).sum(-1)  # (12)

    def detach(self) -> PlanarFlow:
        u, w, b = self.u.detach(), self.w.detach(), self.b.detach()
        return PlanarFlow(self.base.detach(), u, w, b, self.event_shape, self.moment_samples)


@HEADS.register("planar")
class PlanarHead(Head):
    """A normal transformed by planar layers, with all parameters from the network.

    The rows of the network's output: mean, log scale, K of u, K of w, and as many as the K numbers b need. The axis
    k mod n is added to w, so that the first layers bend one coordinate each.

    Args:
        num_layers: number of planar layers, K (AS-VAE on MNIST: 80).
        moment_samples: samples from which mean and moments are estimated where they are needed.
    """

    axes: Tensor

    def __init__(self, event_shape: Sequence[int], num_layers: int = 16, moment_samples: int = 64) -> None:
        super().__init__(event_shape)
        if num_layers < 1:
            raise ConfigError("A planar flow needs at least one layer.", given=f"num_layers {num_layers}")
        n = self.event_shape.numel()
        self.num_layers, self.moment_samples = num_layers, moment_samples
        self.num_params = 2 + 2 * num_layers + math.ceil(num_layers / n)
        self.register_buffer("axes", torch.eye(n)[torch.arange(num_layers) % n], persistent=False)

    def forward(self, network: Callable[..., Any], inputs: Tensor) -> Distribution:
        raw = at_least_float32(network(inputs)).flatten(2)
        k = self.num_layers
        raw_base, u, w, raw_b = raw.split([2, k, k, self.num_params - 2 - 2 * k], 1)
        base, b = normal_from_raw(raw_base), raw_b.flatten(1)[:, :k]
        return PlanarFlow(base, U_INIT_FACTOR * u, w + self.axes, b, self.event_shape, self.moment_samples)
