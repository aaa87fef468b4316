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
        """Map ``[B, C, H, W]`` to the same shape."""
        return self.act(maps + self.second(self.act(self.first(maps))))


class Stage(nn.Module):
    """One scale: resampling, plus a learned projection of a vector, an activation, and residual blocks.

    Args:
        resample: the convolution that makes the map; None where the input is the map.
        vector_dim: length of the vector; 0 for none.
        shape: ``(C, H, W)`` of the map.
        num_blocks: number of residual blocks.
        project_to: target of the projection.
        activation: the nonlinearity.
    """

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


def downsampling_stages(
    shape: Sequence[int],
    channels: Sequence[int],
    kernel_size: int,
    vector_dim: int,
    num_blocks: int,
    project_to: ProjectTo,
    activation: Activation,
) -> tuple[nn.ModuleList, int]:
    """Return a stage for each scale of an image ``(C, H, W)``, and the number of elements of the last map."""
    check_stages([channels])
    c, h, w = shape
    sizes = downsampled_sizes(h, w, len(channels))[1:]
    stages = nn.ModuleList(
        Stage(conv(a, b, kernel_size, 2), vector_dim, (b, *size), num_blocks, project_to, activation)
        for (a, b), size in zip(pairwise([c, *channels]), sizes, strict=True)
    )
    return stages, channels[-1] * math.prod(sizes[-1])


@NETWORKS.register("residual-encoder")
class ResidualEncoder(nn.Module):
    """Images to vectors, with the noise added at every scale.

    Args:
        in_shape: ``(C, H, W)``.
        out_shape: shape of one output.
        noise_dim: length of the noise, which is projected onto the map of each scale.
        channels: of the map of each scale.
        kernel_size: odd, of the convolutions of stride 2.
        num_blocks: residual blocks per scale.
        project_to: target of the projections: the whole map, or one number per channel.
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
        super().__init__()
        self.out_shape = tuple(out_shape)
        self.stages, num_features = downsampling_stages(
            image_shape(in_shape, "encoder"),
            channels,
            kernel_size,
            noise_dim,
            num_blocks,
            project_to,
            activation,
        )
        self.head = linear_layers([num_features, *hidden, math.prod(out_shape)], activation)
        init_xavier(self)

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Tensor:
        """Map ``[B, C, H, W]`` (and noise ``[B, noise_dim]``) to ``[B, *out_shape]``."""
        maps, vector = inputs, concat_noise(inputs[:, :0], noise)
        for stage in self.stages:
            maps = stage(maps, vector)
        return self.head(maps.flatten(1)).reshape(-1, *self.out_shape)


@NETWORKS.register("residual-decoder")
class ResidualDecoder(nn.Module):
    """Vectors to images, with the vector (and noise, if any) added at every scale.

    Args:
        in_shape: shape of one input.
        out_shape: ``(C, H, W)``, or ``(k, C, H, W)`` for k numbers per pixel.
        noise_dim: length of the noise that is concatenated to the input wherever that is added.
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
        """Map ``[B, *in_shape]`` (and noise ``[B, noise_dim]``) to ``[B, *out_shape]``."""
        vector = concat_noise(inputs, noise)
        maps = self.body(vector).reshape(-1, *self.map_shape)
        for stage in self.stages:
            maps = stage(maps, vector)
        return self.last(maps).reshape(-1, *self.out_shape)


@CRITICS.register("projection")
class ProjectionCritic(nn.Module):
    """``T(x, z)``: convolutions of x, with a learned projection of z added at every scale.

    Args:
        x_shape: ``(C, H, W)``.
        z_shape: shape of one latent.
        channels: of the map of each scale.
        kernel_size: odd, of the convolutions of stride 2.
        num_blocks: residual blocks per scale (the paper has them in encoder and decoder only).
        project_to: target of the projections: the whole map, or one number per channel.
        hidden: widths of fully connected hidden layers before the output.
        activation: the nonlinearity.
        spectral_norm: put every layer under spectral normalization.
        gain: factor of the output.
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
    ) -> None:
        super().__init__()
        self.gain = gain
        self.stages, num_features = downsampling_stages(
            image_shape(x_shape, "critic"),
            channels,
            kernel_size,
            math.prod(z_shape),
            num_blocks,
            project_to,
            activation,
        )
        self.head = linear_layers([num_features, *hidden, 1], activation)
        init_xavier(self)
        if spectral_norm:
            apply_spectral_norm(self)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Map pairs ``x [B, C, H, W]``, ``z [B, *z_shape]`` to ``T [B]``."""
        maps, vector = x, z.flatten(1).to(x.dtype)
        for stage in self.stages:
            maps = stage(maps, vector)
        return self.gain * self.head(maps.flatten(1)).squeeze(-1)
