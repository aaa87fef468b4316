"""Convolutional encoder, decoder and critic for BAVAE (Fickinger 2019), whose paper gives no architecture.

What the paper asks for: an encoder and a decoder without a density, so both take noise, and two critics of pairs
(x, z), of one form with separate weights. Cells of two 3×3 convolutions of 32 channels with ELU, the second of
stride 2 (in the decoder: doubling by repetition, then two convolutions), are those of its unfinished code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from advae.networks.base import CRITICS, NETWORKS, Activation, Critic, normalise_spectrum, with_noise, xavier
from advae.networks.blocks import (
    CriticNorm,
    Finish,
    Norm,
    check_groups,
    convolution,
    finish,
    halvings,
    image_shape,
    image_values,
)
from advae.networks.mlp import layers, side_by_side


def cells_down(channels: Sequence[int], after: Finish, *, bias: bool) -> nn.Sequential:
    """Cells of two 3×3 convolutions, the second of stride 2; ``channels`` begin with the input's."""
    modules: list[nn.Module] = []
    for a, b in pairwise(channels):
        modules += [convolution(a, b, 3, bias=bias), *after(b), convolution(b, b, 3, 2, bias=bias), *after(b)]
    return nn.Sequential(*modules)


def cells_up(
    channels: Sequence[int], sizes: Sequence[tuple[int, int]], after: Finish, *, bias: bool
) -> nn.Sequential:
    """Cells that repeat each pixel up to the next of ``sizes``, then two 3×3 convolutions, to the next channels."""
    modules: list[nn.Module] = []
    for (a, b), size in zip(pairwise(channels), sizes, strict=True):
        modules.append(nn.Upsample(size))
        modules += [convolution(a, b, 3, bias=bias), *after(b), convolution(b, b, 3, bias=bias), *after(b)]
    return nn.Sequential(*modules)


@NETWORKS.register("bavae-encoder")
class BAVAEEncoder(nn.Module):
    """Images to vectors: cells, then fully connected layers of the features and of noise.

    Args:
        in_shape: ``(C, H, W)``.
        out_shape: shape of one output.
        noise: noise numbers concatenated to the features.
        channels: output channels of each cell.
        hidden: widths of the fully connected hidden layers, in which features and noise meet.
        activation: the nonlinearity.
        norm: normalisation after each convolution.
        dropout: probability of dropping a unit of the fully connected hidden layers.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        noise: int = 0,
        channels: Sequence[int] = (32, 32, 32),
        hidden: Sequence[int] = (256,),
        activation: Activation = "elu",
        norm: Norm = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_groups([channels])
        c, h, w = image_shape(in_shape, "encoder")
        self.out_shape = tuple(out_shape)
        self.features = cells_down([c, *channels], finish(activation, norm), bias=norm != "batch")
        h, w = halvings(h, w, len(channels))[-1]
        widths = [channels[-1] * h * w + noise, *hidden, math.prod(out_shape)]
        self.head = layers(widths, activation, dropout)
        xavier(self)

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Tensor:
        """``[B, C, H, W]`` (and noise ``[B, n]``) to ``[B, *out_shape]``."""
        return self.head(with_noise(self.features(inputs), noise)).reshape(-1, *self.out_shape)


@NETWORKS.register("bavae-decoder")
class BAVAEDecoder(nn.Module):
    """Vectors and noise to images: fully connected layers, cells, and a last 3×3 convolution.

    Args:
        in_shape: shape of one input.
        out_shape: ``(C, H, W)``, or ``(k, C, H, W)`` for k numbers a pixel.
        noise: noise numbers concatenated to the input.
        channels: output channels of each cell, from the smallest map to the largest.
        hidden: widths of the fully connected hidden layers.
        activation: the nonlinearity.
        norm: normalisation after each convolution but the last.
        dropout: probability of dropping a unit of the fully connected hidden layers.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        noise: int = 0,
        channels: Sequence[int] = (32, 32, 32),
        hidden: Sequence[int] = (256,),
        activation: Activation = "elu",
        norm: Norm = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_groups([channels])
        values, c, h, w = image_values(out_shape)
        self.out_shape = tuple(out_shape)
        sizes = halvings(h, w, len(channels))[::-1]
        self.map_shape = (channels[0], *sizes[0])
        widths = [math.prod(in_shape) + noise, *hidden, math.prod(self.map_shape)]
        self.head = layers(widths, activation, dropout, last_active=True)
        cells = cells_up([channels[0], *channels], sizes[1:], finish(activation, norm), bias=norm != "batch")
        self.upscaling = nn.Sequential(*cells, convolution(channels[-1], values * c, 3))
        xavier(self)

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Tensor:
        """``[B, *in_shape]`` (and noise ``[B, n]``) to ``[B, *out_shape]``."""
        maps = self.head(with_noise(inputs, noise)).reshape(-1, *self.map_shape)
        return self.upscaling(maps).reshape(-1, *self.out_shape)


@CRITICS.register("bavae")
class BAVAECritic(Critic):
    """``D(x, z)``: cells of x with all places kept, a network of z, both joined by a third.

    Args:
        x_shape: ``(C, H, W)``.
        z_shape: shape of one code.
        channels: output channels of each cell.
        z_hidden: widths of the network of z.
        hidden: widths of the joint network.
        activation: the nonlinearity.
        norm: "spectral" puts every layer under spectral normalisation; the others follow each convolution. With
            "batch" the answer for one pair depends on the others in its batch (trap 9).
        dropout: probability of dropping a unit of the fully connected hidden layers.
        gain: factor of the output.
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        z_shape: Sequence[int],
        *,
        channels: Sequence[int] = (32, 32, 32),
        z_hidden: Sequence[int] = (256,),
        hidden: Sequence[int] = (256,),
        activation: Activation = "leaky-relu",
        norm: CriticNorm = "none",
        dropout: float = 0.0,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.gain = gain
        check_groups([channels])
        c, h, w = image_shape(x_shape, "critic")
        self.features = cells_down([c, *channels], finish(activation, norm), bias=norm != "batch")
        h, w = halvings(h, w, len(channels))[-1]
        z_widths = [math.prod(z_shape), *z_hidden]
        self.z_features = layers(z_widths, activation, dropout, last_active=True)
        self.joint = layers([channels[-1] * h * w + z_widths[-1], *hidden, 1], activation, dropout)
        xavier(self)
        if norm == "spectral":
            normalise_spectrum(self)

    def at(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        D = side_by_side(self.joint, self.features(x).flatten(1))
        return lambda z: self.gain * D(self.z_features(z.flatten(1))).squeeze(-1)
