"""The noise-basis posterior of AVB (Mescheder, Nowozin and Geiger 2017, supplement III).

    z⁰(x)     offset                                  [B, d]
    a_i(x)    coefficients, from the image network    [B, m, d]
    v_i(ε_i)  basis vectors, from noise alone         [n, m, d]

    (III.1)   z_k      = z⁰_k(x) + Σ_i a_ik(x) v_ik(ε_i)
    (III.2)   E[z_k]   = z⁰_k(x) + Σ_i a_ik(x) E[v_ik]
    (III.3)   Var[z_k] = Σ_i a_ik(x)² Var[v_ik]

and for the whole covariance, as the v_i are independent, Cov(z|x) = Σ_i diag(a_i) Cov(v_i) diag(a_i).
The paper's formula has no offset z⁰; its authors' code has one. E[v], Var[v] and Cov(v) are estimated from
draws once a mini-batch and serve every x in it.

Not in the paper: smooth basis vectors, ``v_i = tanh f_i(ε_i) + s ξ_i`` with ξ_i ~ N(0, I); s is the option ``normal``.
A basis vector without bounds can be rare and large, or lie on a thin sheet. Either makes the variance of z, and with
it the entropy of a normal of that variance, much larger than the entropy of q(z|x) is, and a critic sees it late. With
the bound and the noise at most ``1 / (1 + s²)`` of a variance is not normal. Σ_i a_i s ξ_i is drawn as what it is, one
normal of variance s² Σ_i a_i², and what the ξ_i add to a moment is known: s² to a variance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.nn.functional import elu

from advae.distributions.base import HEADS, Distribution, Head, SampledOnly, wide
from advae.errors import ConfigError

FEWEST, FEWEST_A_DIMENSION = 64, 8  # draws behind a variance; behind a covariance, for each dimension
COEFFICIENT_SHIFT = 5.0  # elu(· − 5) + 1 starts near exp(−5): the posterior starts narrow (authors' code)


class NoiseBasis(nn.Module):
    """``m`` small fully connected networks of noise, ``v_i(ε_i)``, run as one batched product a layer.

    Args:
        functions: ``m``.
        noise: standard normal numbers that each is fed.
        hidden: widths of its hidden layers (ELU).
        d: length of its output.
        bounded: keep the output between −1 and 1.
    """

    def __init__(
        self, functions: int, noise: int, hidden: Sequence[int], d: int, bounded: bool = False
    ) -> None:
        super().__init__()
        self.functions, self.noise, self.bounded = functions, noise, bounded
        widths = [noise, *hidden, d]
        self.weights = nn.ParameterList(
            torch.empty(functions, a, b).normal_(0, (2 / (a + b)) ** 0.5)  # Xavier, of each network
            for a, b in pairwise(widths)
        )
        self.biases = nn.ParameterList(torch.zeros(functions, 1, b) for b in widths[1:])

    def forward(self, n: int) -> Tensor:
        """``n`` independent draws of every basis vector, ``[n, m, d]``."""
        h = torch.randn(
            self.functions, n, self.noise, device=self.weights[0].device, dtype=self.weights[0].dtype
        )
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, elu(h) if layer else h, weight)
        v = wide(h.transpose(0, 1))
        return torch.tanh(v) if self.bounded else v


class LinearCombination(SampledOnly):
    """``z⁰ + Σ_i a_i (v_i + s ξ_i)`` with random ``v_i`` (III.1), and normal ``ξ_i``.

    Args:
        offset: ``z⁰ [B, d]``.
        coefficients: ``a [B, m, d]``.
        draw: ``draw(n)`` gives independent basis vectors ``[n, m, d]``.
        moment_samples: the least number of draws from which the moments of v are estimated, if it is more than are
            needed anyway (64, or 8 d for a covariance); the draws made for samples count.
        normal: ``s``.
    """

    def __init__(
        self,
        offset: Tensor,
        coefficients: Tensor,
        draw: Callable[[int], Tensor],
        moment_samples: int,
        normal: float = 0.0,
    ) -> None:
        self.offset, self.coefficients = wide(offset), wide(coefficients)
        self.draw, self.moment_samples, self.normal = draw, moment_samples, normal
        self.batch_shape, self.event_shape = Size(offset.shape[:1]), Size(offset.shape[1:])
        self._basis: Tensor | None = None

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = Size([*sample_shape, *self.batch_shape])
        basis = self.draw(shape.numel())
        self._basis = basis.detach()
        basis = basis.reshape(*shape, *basis.shape[1:])
        z = self.offset + (self.coefficients * basis).sum(-2)  # (III.1)
        if not self.normal:
            return z
        return z + self.normal * torch.linalg.vector_norm(self.coefficients, dim=1) * torch.randn_like(z)

    def moments(self, full: bool = False) -> tuple[Tensor, Tensor]:
        """Mean (III.2) and variance (III.3), or the whole covariance, by the moments of the basis."""
        v, a = self._moment_basis(full), self.coefficients
        mean = self.offset + (a * v.mean(0)).sum(1)  # (III.2)
        if not full:
            return mean, (a.square() * (v.var(0) + self.normal**2)).sum(1)  # (III.3)
        with torch.autocast(v.device.type, enabled=False):
            centred = (v - v.mean(0)).transpose(0, 1)
            cov = centred.transpose(1, 2) @ centred / (v.shape[0] - 1)  # [m, d, d]
            known = self.normal**2 * torch.eye(v.shape[-1], device=v.device)
            return mean, weighted_covariance(a, cov + known)

    @torch.no_grad()
    def _moment_basis(self, full: bool) -> Tensor:
        """Draws of the basis to take moments of: those made for samples, and more where they are too few.

        Few images must not mean few draws: the covariance of two would be all but singular.
        """
        made = 0 if self._basis is None else len(self._basis)
        least = FEWEST_A_DIMENSION * self.event_shape.numel() if full else FEWEST
        missing = max(self.moment_samples, self.batch_shape[0], least) - made
        if missing > 0:
            more = self.draw(missing)
            self._basis = more if self._basis is None else torch.cat([self._basis, more])
        assert self._basis is not None
        return self._basis

    @property
    def mean(self) -> Tensor:
        return self.moments()[0]


def weighted_covariance(a: Tensor, cov: Tensor) -> Tensor:
    """``Σ_i diag(a_i) C_i diag(a_i)`` for ``a [B, m, d]`` and ``C [m, d, d]``: ``[B, d, d]``.

    Written as products and a sum: as a contraction it would become ``d²`` matrix products of one column each,
    ten times slower on a CPU (measured at B = 128, m = 16, d = 32).
    """
    return (a.unsqueeze(-1) * a.unsqueeze(-2) * cov).sum(1)


@HEADS.register("noise-basis")
class NoiseBasisHead(Head):
    """A linear combination of learned noise vectors with coefficients from the network (AVB supplement III).

    Args:
        event_shape: ``(d,)``.
        functions: how many basis vectors, ``m`` (the paper's code: 32, or 16 for d = 8).
        noise: standard normal numbers that each basis network takes (64, or 32).
        hidden: widths of the basis networks (128, 128, 128).
        moment_samples: the least number of draws behind E[v], Var[v] and Cov(v); the batch, if larger.
        normal: standard deviation of normal noise on each basis vector, whose learned part is then kept within
            −1 and 1; 0 for neither, as in the paper.

    Raises:
        ConfigError: a negative standard deviation.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        functions: int = 32,
        noise: int = 64,
        hidden: Sequence[int] = (128, 128, 128),
        moment_samples: int = 0,
        normal: float = 0.0,
    ) -> None:
        super().__init__(event_shape)
        if normal < 0:
            raise ConfigError(
                "model.posterior.normal is a standard deviation", given=normal, expected="0 or more"
            )
        self.values = 1 + functions
        self.moment_samples, self.normal = moment_samples, normal
        self.basis = NoiseBasis(functions, noise, hidden, self.event_shape.numel(), bounded=normal > 0)

    def forward(self, network: Callable[..., Any], inputs: Tensor) -> Distribution:
        raw = wide(network(inputs))
        a = elu(raw[:, 1:] - COEFFICIENT_SHIFT) + 1
        return LinearCombination(raw[:, 0], a, self.basis, self.moment_samples, self.normal)
