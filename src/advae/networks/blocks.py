"""Building blocks of convolutional networks.

A downsampling convolution maps size s to ⌈s/2⌉ (stride 2, padding of half the kernel). A transposed convolution of
stride 2 is its mirror image and maps back to s, whether even or odd. A *stage* is the list of convolutions at one
scale, given by their output channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from advae.errors import ConfigError
from advae.networks.base import (
    ACTIVATIONS,
    Activation,
    Critic,
    apply_spectral_norm,
    check_dropout,
    concat_noise,
    init_xavier,
)
from advae.networks.mlp import bind_first_input, linear_layers

Norm = Literal["none", "batch", "layer"]
"""After each convolution: nothing, batch normalization, or layer normalization over each example's whole map."""

CriticNorm = Literal["none", "spectral", "layer", "batch"]
"""Of a critic: also spectral normalization of all weights. With "batch" its output depends on the batch (trap 9)."""

NormAct = Callable[[int], list[nn.Module]]
"""Layers that follow a convolution with the given number of output channels."""


def downsampled_sizes(height: int, width: int, count: int) -> list[tuple[int, int]]:
    """Return the sizes after 0 to ``count`` convolutions of stride 2.

    >>> downsampled_sizes(28, 28, 3)
    [(28, 28), (14, 14), (7, 7), (4, 4)]
    """
    sizes = [(height, width)]
    for _ in range(count):
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


def image_shape(shape: Sequence[int], role: str) -> tuple[int, int, int]:
    """Return ``(C, H, W)``, with all axes before the last two as channels.

    Raises:
        ConfigError: the shape is not that of an image.
    """
    if len(shape) < 3:
        raise ConfigError(
            f"A convolutional {role} needs images.",
            given=f"data of shape {tuple(shape)}",
            expected="[C, H, W]",
            fix="use the network 'mlp', or the critic 'concat'",
        )
    *channels, height, width = shape
    return math.prod(channels), height, width


def norm_act(activation: Activation, norm: str = "none", dropout: float = 0.0) -> NormAct:
    """Return a function that makes the normalization, activation and dropout after a convolution."""
    check_dropout(dropout)

    def make(channels: int) -> list[nn.Module]:
        modules: list[nn.Module] = []
        if norm == "batch":
            modules.append(nn.BatchNorm2d(channels))
        elif norm == "layer":
            modules.append(nn.GroupNorm(1, channels))
        modules.append(ACTIVATIONS[activation]())
        if dropout:
            modules.append(nn.Dropout(dropout))
        return modules

    return make


def conv(a: int, b: int, kernel_size: int, stride: int = 1, *, bias: bool = True) -> nn.Conv2d:
    """Return a convolution from ``a`` to ``b`` channels that keeps the size, or halves it with stride 2."""
    check_kernel_size(kernel_size)
    return nn.Conv2d(a, b, kernel_size, stride, kernel_size // 2, bias=bias)


def conv_transpose(
    a: int, b: int, kernel_size: int, to: tuple[int, int] | None = None, *, bias: bool = True
) -> nn.ConvTranspose2d:
    """Return a transposed convolution from ``a`` to ``b`` channels that doubles to the size ``to``, or keeps the size.

    With stride 2 a map of size s grows to 2s or, where the target is odd, to 2s − 1.
    """
    check_kernel_size(kernel_size)
    stride, output_padding = (2, (1 - to[0] % 2, 1 - to[1] % 2)) if to else (1, (0, 0))
    return nn.ConvTranspose2d(a, b, kernel_size, stride, kernel_size // 2, output_padding, bias=bias)


def check_kernel_size(kernel_size: int) -> None:
    """Raise a :class:`ConfigError` if the kernel size is not odd and positive."""
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ConfigError("The kernel size must be odd.", given=kernel_size, expected="3, 5, 7, …")


def check_stages(stages: Sequence[Sequence[int]]) -> None:
    """Raise a :class:`ConfigError` if there is no stage, or one without a convolution."""
    if not stages or not all(stages):
        raise ConfigError(
            "Every stage needs at least one convolution.",
            given=[list(stage) for stage in stages],
            expected="lists of channels, such as [[16, 16], [32, 32]]",
        )


def conv_stages(
    shape: tuple[int, int, int],
    stages: Sequence[Sequence[int]],
    post: NormAct,
    *,
    kernel_size: int = 3,
    first_kernel_size: int | None = None,
    bias: bool = True,
    stride_last: bool = False,
) -> tuple[nn.Sequential, tuple[int, int, int]]:
    """Return stages of convolutions, each of which halves the size once, and the shape ``(C, H, W)`` of the last map.

    Args:
        shape: ``(C, H, W)`` of the image.
        stages: output channels of the convolutions of each stage.
        post: what follows each convolution.
        kernel_size: of all convolutions.
        first_kernel_size: of the very first convolution, if different.
        bias: whether the convolutions have biases.
        stride_last: the last convolution of a stage has stride 2, instead of the first.
    """
    channels, height, width = shape
    modules: list[nn.Module] = []
    for stage in stages:
        for i, b in enumerate(stage):
            size = kernel_size if modules else first_kernel_size or kernel_size
            stride = 2 if i == (len(stage) - 1 if stride_last else 0) else 1
            modules += [conv(channels, b, size, stride, bias=bias), *post(b)]
            channels = b
    return nn.Sequential(*modules), (channels, *downsampled_sizes(height, width, len(stages))[-1])


def conv_transpose_stages(
    channels: int,
    stages: Sequence[Sequence[int]],
    sizes: Sequence[tuple[int, int]],
    post: NormAct,
    *,
    kernel_size: int = 3,
    bias: bool = True,
) -> nn.Sequential:
    """Return the mirror image: stages of transposed convolutions, the first of each upsampling to the next size."""
    modules: list[nn.Module] = []
    for stage, size in zip(stages, sizes, strict=True):
        for i, b in enumerate(stage):
            to = None if i else size
            modules += [conv_transpose(channels, b, kernel_size, to, bias=bias), *post(b)]
            channels = b
    return nn.Sequential(*modules)


class FeatureEncoder(nn.Module):
    """Images to vectors: convolutional features, concatenated with noise, then fully connected heads.

    Args:
        features: the convolutions, with flattened outputs of length ``num_features``.
        hidden, activation, dropout: of the fully connected layers.
        separate_heads: one fully connected network for each of several outputs ``(k, …)``, instead of one for all.
    """

    def __init__(
        self,
        features: nn.Module,
        num_features: int,
        out_shape: Sequence[int],
        noise_dim: int,
        hidden: Sequence[int],
        activation: Activation,
        dropout: float,
        separate_heads: bool = False,
    ) -> None:
        super().__init__()
        self.out_shape, self.features = tuple(out_shape), features
        num_heads = out_shape[0] if separate_heads else 1
        widths = [num_features + noise_dim, *hidden, math.prod(out_shape) // num_heads]
        self.heads = nn.ModuleList(linear_layers(widths, activation, dropout) for _ in range(num_heads))
        init_xavier(self)

    def output_layers(self) -> list[nn.Linear]:
        """Return the last layer of each head."""
        return [list(head.children())[-1] for head in self.heads]  # type: ignore[misc]

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Tensor:
        features = concat_noise(self.features(inputs), noise)
        outputs = [head(features) for head in self.heads]
        return (torch.cat(outputs, 1) if len(outputs) > 1 else outputs[0]).reshape(-1, *self.out_shape)


class FeatureDecoder(nn.Module):
    """Vectors to images: fully connected layers to the smallest map, then upsampling convolutions.

    Args:
        upsampling: from the smallest map, ``(C, H, W)`` of ``map_shape``, to the image.
        in_dim: length of the input with its noise.
        hidden, activation, dropout: of the fully connected layers.
    """

    def __init__(
        self,
        upsampling: nn.Module,
        in_dim: int,
        out_shape: Sequence[int],
        map_shape: tuple[int, int, int],
        hidden: Sequence[int],
        activation: Activation,
        dropout: float,
    ) -> None:
        super().__init__()
        self.out_shape, self.map_shape = tuple(out_shape), map_shape
        self.body = linear_layers(
            [in_dim, *hidden, math.prod(map_shape)], activation, dropout, last_active=True
        )
        self.upsampling = upsampling
        init_xavier(self)

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Tensor:
        maps = self.body(concat_noise(inputs, noise)).reshape(-1, *self.map_shape)
        return self.upsampling(maps).reshape(-1, *self.out_shape)


class FeatureCritic(Critic):
    """``T(x, z)``: convolutional features of x, a network of z, and a network of both (the form of AS-VAE).

    Args:
        features: the convolutions; None for a critic of latents alone.
        map_shape: ``(C, H, W)`` of their output.
        z_shape: ``(0,)`` for a critic of images alone, which has no network of z.
        z_hidden, hidden, activation, dropout: of the fully connected layers.
        norm: with "spectral", every layer is put under spectral normalization.
        gain: factor of the output.
        pool: average the last maps over all positions.
        num_bridges: length of the output.
    """

    def __init__(
        self,
        features: nn.Module | None,
        map_shape: tuple[int, int, int],
        z_shape: Sequence[int],
        z_hidden: Sequence[int],
        hidden: Sequence[int],
        activation: Activation,
        norm: CriticNorm,
        dropout: float,
        gain: float,
        pool: bool = False,
        num_bridges: int = 1,
    ) -> None:
        super().__init__()
        self.gain, self.pool = gain, pool and features is not None
        self.features = nn.Flatten() if features is None else features
        num_features = 0 if features is None else map_shape[0] if pool else math.prod(map_shape)
        z_widths = [math.prod(z_shape), *z_hidden] if math.prod(z_shape) else [0]
        self.z_features = linear_layers(z_widths, activation, dropout, last_active=True)
        self.joint = linear_layers([num_features + z_widths[-1], *hidden, num_bridges], activation, dropout)
        init_xavier(self)
        if norm == "spectral":
            apply_spectral_norm(self)

    def bind_x(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        maps = self.features(x)
        joint = bind_first_input(self.joint, maps.mean((2, 3)) if self.pool else maps.flatten(1))
        return lambda z: self.gain * joint(self.z_features(z.flatten(1))).squeeze(-1)
