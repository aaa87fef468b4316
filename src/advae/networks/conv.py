"""Convolutional networks, generic in channels and in size (odd sizes too)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from advae.errors import ConfigError
from advae.networks.base import (
    ACTIVATIONS,
    CRITICS,
    NETWORKS,
    Activation,
    normalise_spectrum,
    with_noise,
    xavier,
)
from advae.networks.mlp import layers


def half(size: int) -> int:
    """The size after a convolution of stride 2 with padding: half, rounded up."""
    return (size + 1) // 2


def image_shape(shape: Sequence[int], what: str) -> tuple[int, int, int]:
    """``(C, H, W)``, or a clear error for data that are not images."""
    if len(shape) < 3:
        raise ConfigError(
            f"a convolutional {what} needs images",
            given=f"data of shape {tuple(shape)}",
            expected="[C, H, W]",
            remedy="use the network 'mlp'",
        )
    *channels, height, width = shape
    return math.prod(channels), height, width


def downscaling(
    channels: Sequence[int], kernel: int, activation: Activation, batch_norm: bool, dropout: float
) -> nn.Sequential:
    """Convolutions of stride 2, each with (batch normalisation and) an activation."""
    modules: list[nn.Module] = []
    for a, b in pairwise(channels):
        modules.append(nn.Conv2d(a, b, kernel, stride=2, padding=kernel // 2, bias=not batch_norm))
        if batch_norm:
            modules.append(nn.BatchNorm2d(b))
        modules.append(ACTIVATIONS[activation]())
        if dropout:
            modules.append(nn.Dropout(dropout))
    return nn.Sequential(*modules)


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
        self.features = downscaling([c, *channels], kernel, activation, batch_norm, dropout)
        for _ in channels:
            h, w = half(h), half(w)
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
        c, h, w = image_shape(out_shape, "decoder")
        self.out_shape = tuple(out_shape)
        sizes = [(h, w)]
        for _ in channels:
            sizes.append((half(sizes[-1][0]), half(sizes[-1][1])))
        sizes.reverse()
        self.map_shape = (channels[0], *sizes[0])
        widths = [math.prod(in_shape) + noise, *hidden, math.prod(self.map_shape)]
        self.head = layers(widths, activation, dropout, last_active=True)
        modules: list[nn.Module] = []
        outputs = [*channels[1:], c]
        for i, (a, b) in enumerate(zip(channels, outputs, strict=True)):
            last = i == len(channels) - 1
            # A map of size s grows to 2s or, where the target is odd, to 2s − 1.
            extra = (1 - sizes[i + 1][0] % 2, 1 - sizes[i + 1][1] % 2)
            modules.append(
                nn.ConvTranspose2d(
                    a, b, kernel, 2, kernel // 2, output_padding=extra, bias=last or not batch_norm
                )
            )
            if not last:
                if batch_norm:
                    modules.append(nn.BatchNorm2d(b))
                modules.append(ACTIVATIONS[activation]())
                if dropout:
                    modules.append(nn.Dropout(dropout))
        self.upscaling = nn.Sequential(*modules)
        xavier(self)

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Tensor:
        """``[B, *in_shape]`` (and noise ``[B, k]``) to ``[B, *out_shape]``."""
        maps = self.head(with_noise(inputs, noise)).reshape(-1, *self.map_shape)
        return self.upscaling(maps).reshape(-1, *self.out_shape)


@CRITICS.register("conv")
class ConvCritic(nn.Module):
    """``T(x, z)``: convolutions of x, a fully connected network of z, both joined by a third (AS-VAE's form).

    It holds no batch statistics, for the reason given at the fully connected critic.

    Args:
        x_shape: ``(C, H, W)``.
        z_shape: shape of one code.
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
        self.features = downscaling([c, *channels], kernel, activation, False, dropout)
        for _ in channels:
            h, w = half(h), half(w)
        self.pool = pool
        width = (channels[-1] if channels else c) * (1 if pool else h * w)
        self.z_features = layers([math.prod(z_shape), *z_hidden], activation, last_active=True)
        self.joint = layers([width + z_hidden[-1], *hidden, 1], activation, dropout)
        xavier(self)
        if spectral_norm:
            normalise_spectrum(self)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Pairs ``x [B, C, H, W]``, ``z [B, *z_shape]`` to ``T [B]``."""
        maps = self.features(x)
        features = maps.mean((2, 3)) if self.pool else maps.flatten(1)
        pairs = torch.cat([features, self.z_features(z.flatten(1))], dim=1)
        return self.gain * self.joint(pairs).squeeze(-1)
