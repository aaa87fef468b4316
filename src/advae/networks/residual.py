"""The networks of AVB's celebA experiment (Mescheder, Nowozin and Geiger 2017, supplement IV).

    encoder   x → [step down, + P_l ε, 3 residual blocks] at every scale l → z
    decoder   z → [+ P_l z, 3 residual blocks, step up] at every scale l → x
    critic    x → [step down, + P_l z] at every scale l → T

Steps are convolutions of stride 2 as in Radford et al. (2015). Each P_l is a learned matrix that projects the noise
or the code onto the whole map of its scale, so that it enters every hidden layer and not the first alone. Residual
blocks: h ← act(h + conv(act(conv(h)))) (He et al. 2015). What the paper leaves open is told in docs/avb.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from advae.networks.base import (
    ACTIVATIONS,
    CRITICS,
    NETWORKS,
    Activation,
    normalise_spectrum,
    with_noise,
    xavier,
)
from advae.networks.blocks import check_groups, convolution, halvings, image_shape, transposed
from advae.networks.mlp import layers

Onto = Literal["map", "channels"]
"""What a projection fills: every place of every channel with a number of its own, or each channel with one."""


class Residual(nn.Module):
    """``act(h + conv(act(conv(h))))``, both convolutions 3×3 and of the map's channels."""

    def __init__(self, channels: int, activation: Activation) -> None:
        super().__init__()
        self.first, self.second = convolution(channels, channels, 3), convolution(channels, channels, 3)
        self.act = ACTIVATIONS[activation]()

    def forward(self, maps: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the same shape."""
        return self.act(maps + self.second(self.act(self.first(maps))))


class Stage(nn.Module):
    """One scale: a map, to which a vector is added by a learned projection, activated, and refined by blocks.

    Args:
        step: the convolution that makes the map, or none where the map comes as it is.
        vector: length of the vector; 0 for none.
        shape: ``(C, H, W)`` of the map.
        blocks: how many residual blocks.
        onto: what the projection fills.
        activation: the nonlinearity.
    """

    def __init__(
        self,
        step: nn.Module | None,
        vector: int,
        shape: tuple[int, int, int],
        blocks: int,
        onto: Onto,
        activation: Activation,
    ) -> None:
        super().__init__()
        self.step = nn.Identity() if step is None else step
        self.added = shape if onto == "map" else (shape[0], 1, 1)
        self.project = nn.Linear(vector, math.prod(self.added), bias=False) if vector else None
        self.refine = nn.Sequential(
            ACTIVATIONS[activation](), *(Residual(shape[0], activation) for _ in range(blocks))
        )

    def forward(self, maps: Tensor, vector: Tensor) -> Tensor:
        """Maps and the vector ``[B, k]`` (``k`` may be 0) to ``[B, C, H, W]``."""
        maps = self.step(maps)
        if self.project is not None:
            maps = maps + self.project(vector).reshape(-1, *self.added)
        return self.refine(maps)


def stages_down(
    shape: Sequence[int],
    channels: Sequence[int],
    kernel: int,
    vector: int,
    blocks: int,
    onto: Onto,
    activation: Activation,
) -> tuple[nn.ModuleList, int]:
    """A stage for each scale of an image ``(C, H, W)``, and how many numbers the last map has."""
    check_groups([channels])
    c, h, w = shape
    sizes = halvings(h, w, len(channels))[1:]
    stages = nn.ModuleList(
        Stage(convolution(a, b, kernel, 2), vector, (b, *size), blocks, onto, activation)
        for (a, b), size in zip(pairwise([c, *channels]), sizes, strict=True)
    )
    return stages, channels[-1] * math.prod(sizes[-1])


@NETWORKS.register("residual-encoder")
class ResidualEncoder(nn.Module):
    """Images to vectors, with the noise added at every scale.

    Args:
        in_shape: ``(C, H, W)``.
        out_shape: shape of one output.
        noise: noise numbers, projected onto the map of each scale.
        channels: of the map of each scale.
        kernel: odd width of the kernels of stride 2.
        blocks: residual blocks a scale.
        onto: what a projection fills: the whole map, or each channel with one number for all places.
        hidden: widths of fully connected hidden layers before the output.
        activation: the nonlinearity.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        noise: int = 0,
        channels: Sequence[int] = (64, 128, 256, 512),
        kernel: int = 5,
        blocks: int = 3,
        onto: Onto = "map",
        hidden: Sequence[int] = (),
        activation: Activation = "elu",
    ) -> None:
        super().__init__()
        shape = image_shape(in_shape, "encoder")
        self.out_shape = tuple(out_shape)
        self.stages, width = stages_down(shape, channels, kernel, noise, blocks, onto, activation)
        self.head = layers([width, *hidden, math.prod(out_shape)], activation)
        xavier(self)

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Tensor:
        """``[B, C, H, W]`` (and noise ``[B, n]``) to ``[B, *out_shape]``."""
        maps, vector = inputs, with_noise(inputs[:, :0], noise)
        for stage in self.stages:
            maps = stage(maps, vector)
        return self.head(maps.flatten(1)).reshape(-1, *self.out_shape)


@NETWORKS.register("residual-decoder")
class ResidualDecoder(nn.Module):
    """Vectors to images, with the vector (and noise, if any) added at every scale.

    Args:
        in_shape: shape of one input.
        out_shape: ``(C, H, W)``, or ``(k, C, H, W)`` for k numbers a pixel.
        noise: noise numbers, beside the input wherever it is added.
        channels: of the map of each scale, from the smallest map to the largest.
        kernel: odd width of the transposed kernels of stride 2.
        blocks: residual blocks a scale.
        onto: what a projection fills: the whole map, or each channel with one number for all places.
        hidden: widths of fully connected hidden layers before the first map.
        activation: the nonlinearity.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        noise: int = 0,
        channels: Sequence[int] = (512, 256, 128, 64),
        kernel: int = 5,
        blocks: int = 3,
        onto: Onto = "map",
        hidden: Sequence[int] = (),
        activation: Activation = "elu",
    ) -> None:
        super().__init__()
        check_groups([channels])
        c, h, w = image_shape(out_shape, "decoder")
        self.out_shape = tuple(out_shape)
        sizes = halvings(h, w, len(channels))[::-1]
        vector = math.prod(in_shape) + noise
        self.map_shape = (channels[0], *sizes[0])
        self.head = layers([vector, *hidden, math.prod(self.map_shape)], activation)
        first = Stage(None, 0, self.map_shape, blocks, onto, activation)  # this map is a projection already
        self.stages = nn.ModuleList([first])
        for (a, b), size in zip(pairwise(channels), sizes[1:-1], strict=True):
            step = transposed(a, b, kernel, size)
            self.stages.append(Stage(step, vector, (b, *size), blocks, onto, activation))
        self.last = transposed(channels[-1], c, kernel, sizes[-1])
        xavier(self)

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Tensor:
        """``[B, *in_shape]`` (and noise ``[B, n]``) to ``[B, *out_shape]``."""
        vector = with_noise(inputs, noise)
        maps = self.head(vector).reshape(-1, *self.map_shape)
        for stage in self.stages:
            maps = stage(maps, vector)
        return self.last(maps).reshape(-1, *self.out_shape)


@CRITICS.register("projection")
class ProjectionCritic(nn.Module):
    """``T(x, z)``: convolutions of x, with z added at every scale by a learned projection.

    Args:
        x_shape: ``(C, H, W)``.
        z_shape: shape of one code.
        channels: of the map of each scale.
        kernel: odd width of the kernels of stride 2.
        blocks: residual blocks a scale (the paper has them in encoder and decoder only).
        onto: what a projection fills: the whole map, or each channel with one number for all places.
        hidden: widths of fully connected hidden layers before the output.
        activation: the nonlinearity.
        spectral_norm: put every layer under spectral normalisation.
        gain: factor of the output.
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        z_shape: Sequence[int],
        *,
        channels: Sequence[int] = (64, 128, 256, 512),
        kernel: int = 5,
        blocks: int = 0,
        onto: Onto = "map",
        hidden: Sequence[int] = (),
        activation: Activation = "leaky-relu",
        spectral_norm: bool = False,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.gain = gain
        shape, d = image_shape(x_shape, "critic"), math.prod(z_shape)
        self.stages, width = stages_down(shape, channels, kernel, d, blocks, onto, activation)
        self.head = layers([width, *hidden, 1], activation)
        xavier(self)
        if spectral_norm:
            normalise_spectrum(self)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Pairs ``x [B, C, H, W]``, ``z [B, *z_shape]`` to ``T [B]``."""
        maps, code = x, z.flatten(1).to(x.dtype)
        for stage in self.stages:
            maps = stage(maps, code)
        return self.gain * self.head(maps.flatten(1)).squeeze(-1)
