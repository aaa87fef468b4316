"""Encoders and decoders that start as probabilistic principal component analysis.

x    observation, flattened                                  [B, n]
μ    mean of the training examples                           [n]
U    principal axes, orthonormal columns                     [n, d]
λ    variances along them, in decreasing order               [d]
σ²   variance of what they leave over, per element

The model of Tipping and Bishop (1999), ``p(x|z) = N(μ + U (Λ − σ²)^½ z, σ² I)``, has the exact posterior
``q(z|x) = N(Λ⁻¹ (Λ − σ²)^½ Uᵀ (x − μ), σ² Λ⁻¹)``, which is diagonal. A linear VAE has the same optimum (Lucas et al.
2019). Any network is added to these maps, and starts at zero:

    encoder    mean of q(z|x)  =  M Λ^−½ Uᵀ (x − μ) + network(x)
    decoder    mean of p(x|z)  =  μ + U Λ^½ M z     + network(z)

μ, U and λ are constants. M ``[d, d]`` is learned; it starts as ``(1 − σ² Λ⁻¹)^½``. Its entries are of order one, so
that a step of Adam changes them slowly, whatever the size of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

MAX_EXACT_DIMS = 1024  # up to this many examples or elements the decomposition is exact
OVERSAMPLING, POWER_ITERATIONS = 16, 4  # of the randomized decomposition (Halko, Martinsson and Tropp 2011)


@dataclass(frozen=True)
class PrincipalComponents:
    """``μ [n]``, ``U [n, d]``, ``λ [d]`` and ``σ²``."""

    mean: Tensor
    axes: Tensor
    variances: Tensor
    residual: Tensor

    @property
    def explained(self) -> Tensor:
        """``(1 − σ²/λ)^½``, the correlation of a latent with its mean given x, ``[d]``; 0 without variance."""
        return (1 - self.residual / self.variances).clamp_min(0).sqrt()

    @property
    def posterior_std(self) -> Tensor:
        """Standard deviations of q(z|x), ``[d]``: the prior's without variance."""
        return (self.residual / self.variances).clamp_max(1).sqrt()


def principal_components(
    x: Tensor, min_dim: int, max_dim: int, explained: float = 1.0
) -> PrincipalComponents:
    """Compute the principal components of examples ``x [N, ...]``.

    Args:
        x: the examples.
        min_dim, max_dim: limits of the number of components ``d``. Components beyond the rank have no variance.
        explained: part of the variance that the components explain, if that takes between ``min_dim`` and
            ``max_dim`` of them.

    Returns:
        The components, with the residual of a fifth of the examples, to which the axes are not fitted.
    """
    flat = x.flatten(1)
    held_out = torch.arange(len(flat), device=flat.device) % 5 == 4
    mean = flat.mean(0)
    variances, axes = _decompose(flat, mean, max_dim)
    total = (flat - mean).square().sum() / len(flat)
    count = int((variances.cumsum(0) < explained * total * (1 - 1e-9)).sum()) + 1
    d = min(max(count, min_dim), max_dim)
    fitted = flat[~held_out] if len(flat) > 1 else flat
    others = flat[held_out] if held_out.any() else flat
    _, fitted_axes = _decompose(fitted, fitted.mean(0), d)
    centered = others - fitted.mean(0)
    residual = (centered - centered @ fitted_axes @ fitted_axes.T).square().mean()
    floor = torch.finfo(torch.float32).eps * total / flat.shape[1]
    smallest = residual.clamp_min(floor).clamp_min(torch.finfo(torch.float32).tiny)
    padded = flat.new_zeros(d), flat.new_zeros(flat.shape[1], d)
    padded[0][: len(variances[:d])] = variances[:d]
    padded[1][:, : axes[:, :d].shape[1]] = axes[:, :d]
    return PrincipalComponents(mean, padded[1], padded[0].clamp_min(smallest), smallest)


def _decompose(x: Tensor, mean: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return up to ``count`` variances and axes ``[n, count]`` of examples ``x [N, n]``."""
    centered, size = x - mean, min(x.shape)
    if size <= MAX_EXACT_DIMS:
        _, values, axes = torch.linalg.svd(centered, full_matrices=False)
        axes = axes.T
    else:
        _, values, axes = torch.svd_lowrank(centered, min(size, count + OVERSAMPLING), POWER_ITERATIONS)
    return values[:count].square() / len(x), axes[:, :count]


class _PrincipalSkip(nn.Module):
    """A network and constant principal axes with a learned mixing; ``offsets`` are of its outputs after the first.

    Args:
        network: the network.
        axes_shape: ``[n, d]`` or ``[d, n]``.
        n, d: dimensions of x and z.
        out_shape: ``(k, *event)`` of the output.
    """

    center: Tensor
    axes: Tensor

    def __init__(
        self, network: nn.Module, axes_shape: tuple[int, int], n: int, d: int, out_shape: Sequence[int]
    ) -> None:
        super().__init__()
        self.network, self.event_shape = network, tuple(out_shape[1:])
        self.register_buffer("center", torch.zeros(n))
        self.register_buffer("axes", torch.zeros(axes_shape))
        self.mixing = nn.Parameter(torch.zeros(d, d))
        offsets = torch.zeros(out_shape[0] - 1, *self.event_shape)
        self.offsets = nn.Parameter(offsets) if len(offsets) else None

    def with_offsets(self, mean: Tensor) -> Tensor:
        """Return ``mean [B, *event]``, flat or not, followed by the offsets for every example, ``[B, k, *event]``."""
        mean = mean.reshape(-1, 1, *self.event_shape)
        if self.offsets is None:
            return mean
        return torch.cat([mean, self.offsets.expand(len(mean), *self.offsets.shape)], 1)

    def copy_start(self, components: PrincipalComponents, axes: Tensor, offsets: Tensor) -> None:
        """Set the linear map and the offsets, and the network to zero, in place."""
        init_output_at_zero(self.network)
        self.center.copy_(components.mean)
        self.axes.copy_(axes)
        self.mixing.copy_(torch.diag(components.explained))
        if self.offsets is not None:
            self.offsets.copy_(offsets)


class PrincipalEncoder(_PrincipalSkip):
    """A network of ``x [B, *in_shape]`` and a linear map of its principal components, added to the first output.

    Args:
        network: from x, and the noise if there is any, to ``[B, k, d]``.
        in_shape: shape of x.
        out_shape: ``(k, d)``.
        noise_dim: length of the noise, which is added to the first output too, through a learned matrix.
    """

    def __init__(
        self, network: nn.Module, in_shape: Sequence[int], out_shape: Sequence[int], noise_dim: int = 0
    ) -> None:
        n, d = torch.Size(in_shape).numel(), out_shape[1]
        super().__init__(network, (n, d), n, d, out_shape)
        self.noise_mixing = nn.Parameter(torch.zeros(noise_dim, d)) if noise_dim else None

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Map ``x [B, *in_shape]`` and ``noise [B, noise_dim]`` to ``[B, k, d]``."""
        mean = (x.flatten(1) - self.center) @ self.axes @ self.mixing
        if noise is not None and self.noise_mixing is not None:
            mean = mean + noise.to(mean.dtype) @ self.noise_mixing
        return self.network(x, noise) + self.with_offsets(mean)

    @torch.no_grad()
    def start(self, components: PrincipalComponents, offsets: Tensor) -> None:
        """Start as the posterior of probabilistic PCA, in place.

        Args:
            components: of the training examples.
            offsets: what the head makes that posterior's standard deviations of, ``[k − 1, d]``.
        """
        self.copy_start(components, components.axes / components.variances.sqrt(), offsets)
        if self.noise_mixing is not None:
            self.noise_mixing.copy_(torch.eye(*self.noise_mixing.shape) * components.posterior_std)


class PrincipalDecoder(_PrincipalSkip):
    """A network of ``z [B, d]`` and a linear map to the principal axes, added to the first output.

    Args:
        network: from z, and the noise if there is any, to ``[B, k, *event]``.
        in_shape: ``(d,)``.
        out_shape: ``(k, *event)``.
    """

    def __init__(self, network: nn.Module, in_shape: Sequence[int], out_shape: Sequence[int]) -> None:
        n, d = torch.Size(out_shape[1:]).numel(), in_shape[0]
        super().__init__(network, (d, n), n, d, out_shape)

    def forward(self, z: Tensor, noise: Tensor | None = None) -> Tensor:
        """Map ``z [B, d]`` and the noise, which only the network sees, to ``[B, k, *event]``."""
        mean = torch.addmm(self.center, z.to(self.center.dtype) @ self.mixing, self.axes)
        return self.network(z, noise) + self.with_offsets(mean)

    @torch.no_grad()
    def start(self, components: PrincipalComponents, offsets: Tensor) -> None:
        """Start as the likelihood of probabilistic PCA, in place, with ``offsets [k − 1, *event]`` of its head."""
        self.copy_start(components, (components.axes * components.variances.sqrt()).T, offsets)


def init_output_at_zero(network: nn.Module) -> None:
    """Set the last layer of a network to zero, in place; of each head if it has several."""
    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
    output_layers = getattr(network, "output_layers", None)
    for layer in output_layers() if output_layers else layers[-1:]:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
