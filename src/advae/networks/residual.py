"""The networks of AVB's celebA experiment (Mescheder, Nowozin and Geiger 2017, supplement IV).

    encoder   x → [downsampling, + P_l ε, 3 residual blocks] at every scale l → z
    decoder   z → [+ P_l z, 3 residual blocks, upsampling] at every scale l → x
    critic    x → [downsampling, + P_l z] at every scale l → T

Down- and upsampling are convolutions of stride 2 as in Radford et al. (2015). Each P_l is a learned matrix that
projects the noise or the latent onto the whole map of its scale, so that it enters every scale and not only the first.
Residual blocks: h ← act(h + conv(act(conv(h)))) (He et al. 2015). Choices that the paper leaves open:
docs/papers/avb.md.
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
    apply_spectral_norm,
    concat_noise,
    init_xavier,
)
from advae.networks.blocks import check_stages, conv, conv_transpose, downsampled_sizes, image_shape
from advae.networks.mlp import linear_layers

ProjectTo = Literal["map", "channels"]
"""Target of a projection: every position of every channel, or one number per channel."""


class ResidualBlock(nn.Module):
    """``act(h + conv(act(conv(h))))``, with two 3×3 convolutions."""

    def __init__(self, channels: int, activation: Activation) -> None:
        super().__init__()
        self.first, self.second = conv(channels, channels, 3), conv(channels, channels, 3)
        self.act = ACTIVATIONS[activation]()

    def forward(self, maps: Tensor) -> Tensor:
        return self.act(maps + self.second(self.act(self.first(maps))))


class Stage(nn.Module):
    """One scale: resampling to ``shape`` (None: the input is the map), plus a projection of a vector, and blocks."""

    def __init__(
        self,
        resample: nn.Module | None,
        vector_dim: int,
        shape: tuple[int, int, int],
        num_blocks: int,
        project_to: ProjectTo,
        activation: Activation,
    ) -> None:
        super().__init__()
        self.resample = nn.Identity() if resample is None else resample
        self.projected_shape = shape if project_to == "map" else (shape[0], 1, 1)
        width = math.prod(self.projected_shape)
        self.project = nn.Linear(vector_dim, width, bias=False) if vector_dim else None
        self.refine = nn.Sequential(
            ACTIVATIONS[activation](), *(ResidualBlock(shape[0], activation) for _ in range(num_blocks))
        )

    def forward(self, maps: Tensor, vector: Tensor) -> Tensor:
        """Map the input maps and the vector ``[B, k]`` (``k`` may be 0) to ``[B, C, H, W]``."""
        maps = self.resample(maps)
        if self.project is not None:
            maps = maps + self.project(vector).reshape(-1, *self.projected_shape)
        return self.refine(maps)


class DownsamplingNetwork(nn.Module):
    """A stage for each scale of an image, then fully connected layers of the last map.

    Args:
        shape: ``(C, H, W)`` of the image.
        vector_dim: length of the vector that is added at every scale.
        out_dim: length of the output.
        channels, kernel_size, num_blocks, project_to, hidden, activation: see the subclasses.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        vector_dim: int,
        out_dim: int,
        channels: Sequence[int],
        kernel_size: int,
        num_blocks: int,
        project_to: ProjectTo,
        hidden: Sequence[int],
        activation: Activation,
    ) -> None:
        super().__init__()
        check_stages([channels])
        c, h, w = shape
        sizes = downsampled_sizes(h, w, len(channels))[1:]
        self.stages = nn.ModuleList(
            Stage(conv(a, b, kernel_size, 2), vector_dim, (b, *size), num_blocks, project_to, activation)
            for (a, b), size in zip(pairwise([c, *channels]), sizes, strict=True)
        )
        self.head = linear_layers([channels[-1] * math.prod(sizes[-1]), *hidden, out_dim], activation)
        init_xavier(self)

    def apply_stages(self, maps: Tensor, vector: Tensor) -> Tensor:
        """Map images ``[B, C, H, W]`` and vectors ``[B, k]`` to ``[B, out_dim]``."""
        for stage in self.stages:
            maps = stage(maps, vector)
        return self.head(maps.flatten(1))


@NETWORKS.register("residual-encoder")
class ResidualEncoder(DownsamplingNetwork):
    """Images to vectors, with the noise added at every scale.

    Args:
        channels: of the map of each scale.
        kernel_size: odd, of the convolutions of stride 2.
        num_blocks: residual blocks per scale.
        project_to: target of the projections of the noise: the whole map, or one number per channel.
        hidden: widths of fully connected hidden layers before the output.
        activation: the nonlinearity.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        noise_dim: int = 0,
        channels: Sequence[int] = (64, 128, 256, 512),
        kernel_size: int = 5,
        num_blocks: int = 3,
        project_to: ProjectTo = "map",
        hidden: Sequence[int] = (),
        activation: Activation = "elu",
    ) -> None:
        shape, n = image_shape(in_shape, "encoder"), math.prod(out_shape)
        super().__init__(
            shape, noise_dim, n, channels, kernel_size, num_blocks, project_to, hidden, activation
        )
        self.out_shape = tuple(out_shape)

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.apply_stages(inputs, concat_noise(inputs[:, :0], noise)).reshape(-1, *self.out_shape)


@NETWORKS.register("residual-decoder")
class ResidualDecoder(nn.Module):
    """Vectors to images, with the vector (and noise, if any) added at every scale.

    Args:
        channels: of the map of each scale, from the smallest map to the largest.
        kernel_size: odd, of the transposed convolutions of stride 2.
        num_blocks: residual blocks per scale.
        project_to: target of the projections: the whole map, or one number per channel.
        hidden: widths of fully connected hidden layers before the first map.
        activation: the nonlinearity.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        noise_dim: int = 0,
        channels: Sequence[int] = (512, 256, 128, 64),
        kernel_size: int = 5,
        num_blocks: int = 3,
        project_to: ProjectTo = "map",
        hidden: Sequence[int] = (),
        activation: Activation = "elu",
    ) -> None:
        super().__init__()
        check_stages([channels])
        c, h, w = image_shape(out_shape, "decoder")
        self.out_shape = tuple(out_shape)
        sizes = downsampled_sizes(h, w, len(channels))[::-1]
        vector_dim = math.prod(in_shape) + noise_dim
        self.map_shape = (channels[0], *sizes[0])
        self.body = linear_layers([vector_dim, *hidden, math.prod(self.map_shape)], activation)
        # The first map is a projection of the vector already.
        self.stages = nn.ModuleList([Stage(None, 0, self.map_shape, num_blocks, project_to, activation)])
        for (a, b), size in zip(pairwise(channels), sizes[1:-1], strict=True):
            resample = conv_transpose(a, b, kernel_size, size)
            self.stages.append(Stage(resample, vector_dim, (b, *size), num_blocks, project_to, activation))
        self.last = conv_transpose(channels[-1], c, kernel_size, sizes[-1])
        init_xavier(self)

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Tensor:
        vector = concat_noise(inputs, noise)
        maps = self.body(vector).reshape(-1, *self.map_shape)
        for stage in self.stages:
            maps = stage(maps, vector)
        return self.last(maps).reshape(-1, *self.out_shape)


@CRITICS.register("projection")
class ProjectionCritic(DownsamplingNetwork):
    """``T(x, z)``: convolutions of x, with a learned projection of z added at every scale.

    Args:
        channels: of the map of each scale.
        kernel_size: odd, of the convolutions of stride 2.
        num_blocks: residual blocks per scale (the paper has them in encoder and decoder only).
        project_to: target of the projections: the whole map, or one number per channel.
        hidden: widths of fully connected hidden layers before the output.
        activation: the nonlinearity.
        spectral_norm: put every layer under spectral normalization.
        gain: factor of the output.
        num_bridges: 1, or the number of bridges of a telescoped critic (:mod:`advae.density_ratio`).
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        z_shape: Sequence[int],
        *,
        channels: Sequence[int] = (64, 128, 256, 512),
        kernel_size: int = 5,
        num_blocks: int = 0,
        project_to: ProjectTo = "map",
        hidden: Sequence[int] = (),
        activation: Activation = "leaky-relu",
        spectral_norm: bool = False,
        gain: float = 1.0,
        num_bridges: int = 1,
    ) -> None:
        shape, d = image_shape(x_shape, "critic"), math.prod(z_shape)
        stages = channels, kernel_size, num_blocks, project_to, hidden, activation
        super().__init__(shape, d, num_bridges, *stages)
        self.gain = gain
        if spectral_norm:
            apply_spectral_norm(self)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return self.gain * self.apply_stages(x, z.flatten(1).to(x.dtype)).squeeze(-1)
