"""Noise-basis posterior of AVB (Mescheder, Nowozin and Geiger 2017, supplement III).

    z⁰(x)     offset                                  [B, d]
    a_i(x)    coefficients, from the image network    [B, m, d]
    v_i(ε_i)  basis vectors, from noise alone         [n, m, d]

    (III.1)   z_k      = z⁰_k(x) + Σ_i a_ik(x) v_ik(ε_i)
    (III.2)   E[z_k]   = z⁰_k(x) + Σ_i a_ik(x) E[v_ik]
    (III.3)   Var[z_k] = Σ_i a_ik(x)² Var[v_ik]

and for the full covariance, as the v_i are independent, Cov(z|x) = Σ_i diag(a_i) Cov(v_i) diag(a_i). The paper's
formula has no offset z⁰; its authors' code has one. E[v], Var[v] and Cov(v) are estimated from samples once per
mini-batch and shared by every x in it.

Not in the paper: smooth basis vectors, ``v_i = tanh f_i(ε_i) + s ξ_i`` with ξ_i ~ N(0, I); s is ``smoothing_std``.
An unbounded basis vector can be rare and large, or concentrate on a thin sheet. Either makes the variance of z, and
with it the entropy of a normal of that variance, much larger than the entropy of q(z|x) is, and a critic notices it
late. With the bound and the noise, at most ``1 / (1 + s²)`` of a variance is not normal. Σ_i a_i s ξ_i is sampled
directly, as one normal of variance s² Σ_i a_i², and what the ξ_i add to a moment is known: s² to a variance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.nn.functional import elu

from advae.distributions.base import HEADS, Distribution, Head, ImplicitDistribution, at_least_float32
from advae.distributions.normal import Normal, batched_normal
from advae.errors import ConfigError

MIN_VARIANCE_SAMPLES, MIN_COVARIANCE_SAMPLES_PER_DIM = 64, 8
START_SAMPLES = 4096  # of the basis: their variance has a relative standard error of at most about 3 %
COEFFICIENT_SHIFT = 5.0  # elu(· − 5) + 1 starts near exp(−5): the posterior starts narrow (authors' code)


class NoiseBasis(nn.Module):
    """``m`` small fully connected ELU networks ``v_i(ε_i) [d]``, evaluated as one batched product per layer.

    Each takes standard normal noise of length ``noise_dim``; ``bounded`` outputs are between −1 and 1.
    """

    def __init__(
        self, num_basis: int, noise_dim: int, hidden: Sequence[int], d: int, bounded: bool = False
    ) -> None:
        super().__init__()
        self.num_basis, self.noise_dim, self.bounded = num_basis, noise_dim, bounded
        widths = [noise_dim, *hidden, d]
        self.weights = nn.ParameterList(
            torch.empty(num_basis, a, b).normal_(0, (2 / (a + b)) ** 0.5)  # Xavier, of each network
            for a, b in pairwise(widths)
        )
        self.biases = nn.ParameterList(torch.zeros(num_basis, 1, b) for b in widths[1:])

    def forward(self, n: int) -> Tensor:
        """Return ``n`` independent samples of every basis vector, ``[n, m, d]``."""
        weight = self.weights[0]
        noise = torch.randn(self.num_basis, n, self.noise_dim, device=weight.device, dtype=weight.dtype)
        return self.transform(noise)

    def transform(self, noise: Tensor) -> Tensor:
        """Return the basis vectors ``v_i(ε_i) [n, m, d]`` of given noise ``[m, n, noise_dim]``."""
        h = noise
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, elu(h) if layer else h, weight)
        v = at_least_float32(h.transpose(0, 1))
        return torch.tanh(v) if self.bounded else v


class NoiseBasisPosterior(ImplicitDistribution):
    """``z⁰ + Σ_i a_i (v_i + s ξ_i)`` with random ``v_i`` (III.1), and normal ``ξ_i``.

    Args:
        offset: ``z⁰ [B, d]``.
        coefficients: ``a [B, m, d]``.
        sample_basis: ``sample_basis(n)`` returns independent basis vectors ``[n, m, d]``.
        moment_samples: minimum number of samples from which the moments of v are estimated, if more than the usual
            minimum (64, or 8 d for a covariance). The samples of the last :meth:`rsample` are reused.
        smoothing_std: ``s``.
    """

    def __init__(
        self,
        offset: Tensor,
        coefficients: Tensor,
        sample_basis: Callable[[int], Tensor],
        moment_samples: int,
        smoothing_std: float = 0.0,
    ) -> None:
        self.offset, self.coefficients = at_least_float32(offset), at_least_float32(coefficients)
        self.sample_basis, self.moment_samples = sample_basis, moment_samples
        self.smoothing_std = smoothing_std
        self.batch_shape, self.event_shape = Size(offset.shape[:1]), Size(offset.shape[1:])
        self._basis: Tensor | None = None
        if isinstance(sample_basis, NoiseBasis):
            self.noise_dim = sample_basis.num_basis * sample_basis.noise_dim

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = Size([*sample_shape, *self.batch_shape])
        basis = self.sample_basis(shape.numel())
        self._basis = basis.detach()
        basis = basis.reshape(*shape, *basis.shape[1:])
        z = self.offset + (self.coefficients * basis).sum(-2)  # (III.1)
        if not self.smoothing_std:
            return z
        scale = self.smoothing_std * torch.linalg.vector_norm(self.coefficients, dim=1)
        return z + scale * torch.randn_like(z)

    def given_noise(self, noise: Tensor) -> Normal:
        """Return the normal of the ξ_i in (III.1) given all ``ε [..., B, n]``; its scale is 0 if ``s`` is."""
        if not self.noise_dim:
            return super().given_noise(noise)
        assert isinstance(self.sample_basis, NoiseBasis)
        per_basis = noise.reshape(-1, self.sample_basis.num_basis, self.sample_basis.noise_dim)
        v = self.sample_basis.transform(per_basis.transpose(0, 1))
        v = v.reshape(*noise.shape[:-1], *v.shape[1:])
        scale = self.smoothing_std * torch.linalg.vector_norm(self.coefficients, dim=1)
        return batched_normal(self.offset + (self.coefficients * v).sum(-2), scale.log())

    def moments(self, full: bool = False) -> tuple[Tensor, Tensor]:
        """Return mean (III.2) and variance (III.3) or full covariance, by the moments of the basis."""
        v, a = self._moment_basis(full), self.coefficients
        mean = self.offset + (a * v.mean(0)).sum(1)  # (III.2)
        if not full:
            return mean, (a.square() * (v.var(0) + self.smoothing_std**2)).sum(1)  # (III.3)
        with torch.autocast(v.device.type, enabled=False):
            centered = (v - v.mean(0)).transpose(0, 1)
            cov = centered.transpose(1, 2) @ centered / (v.shape[0] - 1)  # [m, d, d]
            smoothing = self.smoothing_std**2 * torch.eye(v.shape[-1], device=v.device, dtype=v.dtype)
            return mean, weighted_covariance(a, cov + smoothing)

    @torch.no_grad()
    def _moment_basis(self, full: bool) -> Tensor:
        """Return samples of the basis for moments: those of the last :meth:`rsample`, and more if they are too few.

        A minimum independent of the batch size is needed: the covariance of two samples would be all but singular.
        """
        available = 0 if self._basis is None else len(self._basis)
        d = self.event_shape.numel()
        minimum = MIN_COVARIANCE_SAMPLES_PER_DIM * d if full else MIN_VARIANCE_SAMPLES
        missing = max(self.moment_samples, self.batch_shape[0], minimum) - available
        if missing > 0:
            more = self.sample_basis(missing)
            self._basis = more if self._basis is None else torch.cat([self._basis, more])
        assert self._basis is not None
        return self._basis

    @property
    def mean(self) -> Tensor:
        return self.moments()[0]


def weighted_covariance(a: Tensor, cov: Tensor) -> Tensor:
    """Return ``Σ_i diag(a_i) C_i diag(a_i)`` for ``a [B, m, d]`` and ``C [m, d, d]``: ``[B, d, d]``.

    Written as products and a sum: as an einsum it would become ``d²`` matrix products of one column each, ten times
    slower on a CPU (measured at B = 128, m = 16, d = 32).
    """
    return (a.unsqueeze(-1) * a.unsqueeze(-2) * cov).sum(1)


@HEADS.register("noise-basis")
class NoiseBasisHead(Head):
    """A linear combination of learned noise vectors with coefficients from the network (AVB supplement III).

    Args:
        num_basis: number of basis vectors, ``m`` (the authors' code: 32, or 16 for d = 8).
        noise_dim: length of the noise of each basis network (64, or 32).
        hidden: widths of the basis networks (128, 128, 128).
        moment_samples: minimum number of samples for E[v], Var[v] and Cov(v); the batch size, if larger.
        smoothing_std: standard deviation of normal noise on each basis vector, whose learned part is then kept within
            −1 and 1; 0 for neither, as in the paper.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        num_basis: int = 32,
        noise_dim: int = 64,
        hidden: Sequence[int] = (128, 128, 128),
        moment_samples: int = 0,
        smoothing_std: float = 0.0,
    ) -> None:
        super().__init__(event_shape)
        if smoothing_std < 0:
            raise ConfigError("smoothing_std must not be negative.", given=smoothing_std, expected="≥ 0")
        self.num_params = 1 + num_basis
        self.moment_samples, self.smoothing_std = moment_samples, smoothing_std
        d = self.event_shape.numel()
        self.basis = NoiseBasis(num_basis, noise_dim, hidden, d, bounded=smoothing_std > 0)

    @torch.no_grad()
    def start_offsets(self, std: Tensor) -> Tensor:
        variance = self.basis(START_SAMPLES).var(0) + self.smoothing_std**2
        a = std / variance.sum(0).sqrt()  # equal coefficients, in (III.3)
        raw = torch.where(a < 1, a.log(), a - 1) + COEFFICIENT_SHIFT
        return raw.expand(self.num_params - 1, *self.event_shape)

    def forward(self, network: Callable[..., Any], inputs: Tensor) -> Distribution:
        raw = at_least_float32(network(inputs))
        a = elu(raw[:, 1:] - COEFFICIENT_SHIFT) + 1
        return NoiseBasisPosterior(raw[:, 0], a, self.basis, self.moment_samples, self.smoothing_std)
