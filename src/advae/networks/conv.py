"""Convolutional networks, generic in channels and in size (odd sizes too)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from advae.networks.base import (
    CRITICS,
    NETWORKS,
    Activation,
    Critic,
    normalise_spectrum,
    with_noise,
    xavier,
)
from advae.networks.blocks import check_groups, finish, halvings, image_shape, strides_down, transposed
from advae.networks.mlp import layers, side_by_side


@NETWORKS.register("conv")
class Conv(nn.Module):
    """From images down to vectors: convolutions of stride 2, then fully connected layers.

    Args:
        in_shape: ``(C, H, W)``.
        out_shape: shape of one output.
        noise: noise numbers concatenated to the features.
        channels: output channels of each convolution.
        kernel: odd width of the kernels.
        hidden: widths of the fully connected hidden layers.
        activation: the nonlinearity.
        batch_norm: batch normalisation after each convolution.
        dropout: probability of dropping a unit.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        noise: int = 0,
        channels: Sequence[int] = (32, 64),
        kernel: int = 3,
        hidden: Sequence[int] = (256,),
        activation: Activation = "relu",
        batch_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        c, h, w = image_shape(in_shape, "encoder")
        self.out_shape = tuple(out_shape)
        after = finish(activation, "batch" if batch_norm else "none", dropout)
        self.features = strides_down([c, *channels], kernel, after, bias=not batch_norm)
        h, w = halvings(h, w, len(channels))[-1]
        self.head = layers(
            [(channels[-1] if channels else c) * h * w + noise, *hidden, math.prod(out_shape)],
            activation,
            dropout,
        )
        xavier(self)

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Tensor:
        """``[B, C, H, W]`` (and noise ``[B, k]``) to ``[B, *out_shape]``."""
        return self.head(with_noise(self.features(inputs), noise)).reshape(-1, *self.out_shape)


@NETWORKS.register("deconv")
class Deconv(nn.Module):
    """From vectors up to images: the mirror image of :class:`Conv`, by transposed convolutions.

    Args:
        in_shape: shape of one input.
        out_shape: ``(C, H, W)``, or ``(k, C, H, W)`` for k numbers a pixel.
        noise: noise numbers concatenated to the input.
        channels: channels of the feature maps, from the smallest map to the largest.
        kernel: odd width of the kernels.
        hidden: widths of the fully connected hidden layers.
        activation: the nonlinearity.
        batch_norm: batch normalisation after each layer but the last.
        dropout: probability of dropping a unit.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        noise: int = 0,
        channels: Sequence[int] = (64, 32),
        kernel: int = 3,
        hidden: Sequence[int] = (256,),
        activation: Activation = "relu",
        batch_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_groups([channels])
        c, h, w = image_shape(out_shape, "decoder")
        self.out_shape = tuple(out_shape)
        sizes = halvings(h, w, len(channels))[::-1]
        self.map_shape = (channels[0], *sizes[0])
        widths = [math.prod(in_shape) + noise, *hidden, math.prod(self.map_shape)]
        self.head = layers(widths, activation, dropout, last_active=True)
        after = finish(activation, "batch" if batch_norm else "none", dropout)
        modules: list[nn.Module] = []
        for (a, b), size in zip(pairwise(channels), sizes[1:-1], strict=True):
            modules += [transposed(a, b, kernel, size, bias=not batch_norm), *after(b)]
        modules.append(transposed(channels[-1], c, kernel, sizes[-1]))
        self.upscaling = nn.Sequential(*modules)
        xavier(self)

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Tensor:
        """``[B, *in_shape]`` (and noise ``[B, k]``) to ``[B, *out_shape]``."""
        maps = self.head(with_noise(inputs, noise)).reshape(-1, *self.map_shape)
        return self.upscaling(maps).reshape(-1, *self.out_shape)


@CRITICS.register("conv")
class ConvCritic(Critic):
    """``T(x, z)``: convolutions of x, a fully connected network of z, both joined by a third (AS-VAE's form).

    It holds no batch statistics, for the reason given at the fully connected critic.

    Args:
        x_shape: ``(C, H, W)``.
        z_shape: shape of one code; ``(0,)`` for a critic of images alone, which has no network of z.
        channels: output channels of each convolution of stride 2.
        kernel: odd width of the kernels.
        pool: average the last maps over their places, as the paper does; else keep all places.
        z_hidden: widths of the network of z.
        hidden: widths of the joint network.
        activation: the nonlinearity.
        dropout: probability of dropping a unit.
        spectral_norm: put every layer under spectral normalisation.
        gain: factor of the output.
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        z_shape: Sequence[int],
        *,
        channels: Sequence[int] = (32, 64),
        kernel: int = 3,
        pool: bool = False,
        z_hidden: Sequence[int] = (256,),
        hidden: Sequence[int] = (256,),
        activation: Activation = "leaky-relu",
        dropout: float = 0.0,
        spectral_norm: bool = False,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.gain = gain
        c, h, w = image_shape(x_shape, "critic")
        self.features = strides_down([c, *channels], kernel, finish(activation, dropout=dropout))
        h, w = halvings(h, w, len(channels))[-1]
        self.pool = pool
        width = (channels[-1] if channels else c) * (1 if pool else h * w)
        z_widths = [math.prod(z_shape), *z_hidden] if math.prod(z_shape) else [0]
        self.z_features = layers(z_widths, activation, last_active=True)
        self.joint = layers([width + z_widths[-1], *hidden, 1], activation, dropout)
        xavier(self)
        if spectral_norm:
            normalise_spectrum(self)

    def at(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        maps = self.features(x)
        T = side_by_side(self.joint, maps.mean((2, 3)) if self.pool else maps.flatten(1))
        return lambda z: self.gain * T(self.z_features(z.flatten(1))).squeeze(-1)
