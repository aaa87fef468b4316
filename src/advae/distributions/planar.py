"""Planar flows of any length (Rezende and Mohamed 2015); AS-VAE uses 80 layers on MNIST.

    u, w, b    of each layer, from the network                        [B, K, n], [B, K, n], [B, K]
    (10)       z_k+1 = z_k + û tanh(wᵀz_k + b)
    (12)       log |det| = log(1 + wᵀû · (1 − tanh²(wᵀz_k + b)))
    A.1        û = u + (m(wᵀu) − wᵀu) w / ‖w‖²,    so that wᵀû = m(wᵀu) > −1 and the layer is invertible

The paper's m(x) = −1 + log(1 + eˣ) has m(0) = log 2 − 1: with u = 0 a layer would still squeeze by a third.
Here m(x) = −1 + δ + log(1 + eˣ⁺ᶜ) with c such that m(0) = 0: a layer with u = 0 does nothing, and 80 of them start
near the identity. δ keeps the density of a layer below 1/δ.

Backwards, a layer is one equation in one number: t = wᵀz_k + b solves t + wᵀû tanh(t) = wᵀz_k+1 + b.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from advae.distributions.base import HEADS, Distribution, Head, wide
from advae.distributions.flow import Flow, base_normal
from advae.distributions.normal import Normal
from advae.errors import ConfigError

MARGIN = 1e-3  # δ: wᵀû > −1 + δ. Going backwards multiplies rounding by at most 1/δ a layer
SHIFT = math.log(math.expm1(1 - MARGIN))  # c: m(0) = 0
START = 0.1  # u is this times the network's output: at first a layer moves z little
TINY = 1e-12  # of ‖w‖², below which w has no direction
NEWTON = {torch.float32: 7, torch.float64: 9}  # steps of `bend`, see there


def invertible(u: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """``û [..., n]``, which is u where that is allowed, nearly; and ``wᵀû [...] > −1 + δ`` (A.1)."""
    given = (w * u).sum(-1)
    kept = softplus(given + SHIFT) - 1 + MARGIN
    along = (kept - given) / w.square().sum(-1).clamp_min(TINY)
    return u + along.unsqueeze(-1) * w, kept


def bend(r: Tensor, a: Tensor) -> Tensor:
    """The t with ``t + a tanh(t) = r``, for ``a > −1``; differentiable once in r and a.

    Newton's steps, always as many, from the nearer to the root of r − a and r/(1 + a) (for r > 0; the equation is
    odd). For a > 0 both lie below the root and the function is concave; for a < 0 both lie above it and it is convex.
    So every step goes towards the root and none beyond it: nothing has to be safeguarded. Their number is that of
    the slowest r for −1 + δ ≤ a ≤ 10⁴. A last step alone has a gradient: at the solution it is that of the
    implicit function.
    """
    with torch.no_grad():
        far, near = r.abs() - a, r.abs() / (1 + a)
        t = torch.where(a > 0, torch.maximum(far, near), torch.minimum(far, near)).copysign(r)
        for _ in range(NEWTON[t.dtype]):
            t = _newton(t, r, a)
    return _newton(t, r, a)


def _newton(t: Tensor, r: Tensor, a: Tensor) -> Tensor:
    h = torch.tanh(t)
    pull = a * h
    slope = torch.addcmul(a, pull, h, value=-1)  # of a tanh(t)
    return torch.addcmul(r - pull, slope, t) / (1 + slope)


class Planar(Flow):
    """A normal behind K planar layers.

    Args:
        base: of ``z₀ [B, n]``.
        u: ``[B, K, n]``, any values.
        w: ``[B, K, n]``.
        b: ``[B, K]``.
        event_shape: shape of one event, n numbers.
        moment_samples: see :class:`Flow`.
    """

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
        self.u_hat, self.a = invertible(u, w)
        self._layers = list(zip(*(p.unbind(1) for p in (self.u_hat, w, b, self.a)), strict=True))

    def forward(self, start: Tensor) -> tuple[Tensor, Tensor]:
        z, bends = start, []
        for u_hat, w, b, _ in self._layers:
            bends.append(torch.tanh((w * z).sum(-1) + b))
            z = z + u_hat * bends[-1].unsqueeze(-1)  # (10)
        return z, self._log_det(bends)

    def inverse(self, value: Tensor) -> tuple[Tensor, Tensor]:
        z, bends = value, []
        for u_hat, w, b, a in reversed(self._layers):
            bends.append(torch.tanh(bend((w * z).sum(-1) + b, a)))
            z = z - u_hat * bends[-1].unsqueeze(-1)
        return z, self._log_det(bends[::-1])

    def _log_det(self, bends: list[Tensor]) -> Tensor:
        h = torch.stack(bends, -1)
        return torch.log1p(self.a * (1 - h.square())).sum(-1)  # (12)

    def fixed(self) -> Planar:
        u, w, b = self.u.detach(), self.w.detach(), self.b.detach()
        return Planar(self.base.fixed(), u, w, b, self.event_shape, self.moment_samples)


@HEADS.register("planar")
class PlanarHead(Head):
    """A normal behind planar layers, all parameters of both from the network.

    The rows of its output: mean, log scale, K of u, K of w, and as many as hold the K numbers b.
    To w the axis k mod n is added, so that the first layers bend one coordinate each.

    Args:
        event_shape: shape of one event.
        length: how many layers, K (AS-VAE on MNIST: 80).
        moment_samples: draws from which mean and moments are estimated where they are needed.
    """

    axes: Tensor

    def __init__(self, event_shape: Sequence[int], length: int = 16, moment_samples: int = 64) -> None:
        super().__init__(event_shape)
        if length < 1:
            raise ConfigError("a planar flow needs layers", given=length, expected="1 or more")
        n = self.event_shape.numel()
        self.length, self.moment_samples = length, moment_samples
        self.values = 2 + 2 * length + math.ceil(length / n)
        self.register_buffer("axes", torch.eye(n)[torch.arange(length) % n], persistent=False)

    def forward(self, network: Callable[..., Any], inputs: Tensor) -> Distribution:
        raw = wide(network(inputs)).flatten(2)
        start, u, w, b = raw.split([2, self.length, self.length, self.values - 2 - 2 * self.length], 1)
        b = b.flatten(1)[:, : self.length]
        base = base_normal(start)
        return Planar(base, START * u, w + self.axes, b, self.event_shape, self.moment_samples)
