"""Encoder, decoder and critic of AS-VAE (Pu et al. 2017, appendix B, figures 5 to 8).

One form for the three data sets; the defaults are figure 6 (CIFAR-10):

    figure              5 (MNIST)           6 (CIFAR-10)                          7, 8 (ImageNet, 64×64)
    encoder   kernel    3                   5, then 3                             5, then 3
              groups    32; 64              16 ×3; 32 ×3; 64 ×4                   32 ×3; 64 ×3; 128 ×3; 256 ×4
    decoder   groups    64; 32              64 ×3; 32 ×3; 16                      256 ×3; 128 ×3; 64 ×3; 32
              heads     none                64 ×2 for each of μ, log σ²           64 ×3 for each
    critic    kernel    3                   5                                     5
              channels  32, 64              16, 32, 64                            32, 64, 128, 256

Every group begins with a step of stride 2; every convolution is followed by batch normalisation and ReLU, but the
last of a decoder. What the figures leave open is told in docs/asvae.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from advae.networks.base import CRITICS, NETWORKS, Activation, Critic, normalise_spectrum, with_noise, xavier
from advae.networks.blocks import (
    CriticNorm,
    Finish,
    Norm,
    check_groups,
    finish,
    groups_down,
    groups_up,
    halvings,
    image_shape,
    image_values,
    strides_down,
    transposed,
)
from advae.networks.mlp import layers, side_by_side, start_near_zero


@NETWORKS.register("asvae-encoder")
class ASVAEEncoder(nn.Module):
    """Images to vectors: groups of convolutions, then fully connected networks.

    Args:
        in_shape: ``(C, H, W)``.
        out_shape: ``(k, …)``: k numbers for each element, such as μ and log σ².
        noise: noise numbers concatenated to the features.
        groups: output channels of the convolutions, group by group; the first of each group has stride 2.
        first_kernel: odd width of the very first kernel; the others have 3.
        hidden: widths of the fully connected hidden layers.
        separate: a fully connected network for each of the k (figures 6, 7), or one for all (figure 5).
        activation: the nonlinearity.
        norm: normalisation after each convolution.
        dropout: probability of dropping a unit of the fully connected hidden layers.
        near_zero: start with an output of (almost) zero, so that a normal posterior begins near its prior.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        noise: int = 0,
        groups: Sequence[Sequence[int]] = ((16, 16, 16), (32, 32, 32), (64, 64, 64, 64)),
        first_kernel: int = 5,
        hidden: Sequence[int] = (512,),
        separate: bool = True,
        activation: Activation = "relu",
        norm: Norm = "batch",
        dropout: float = 0.0,
        near_zero: bool = False,
    ) -> None:
        super().__init__()
        c, h, w = image_shape(in_shape, "encoder")
        self.out_shape = tuple(out_shape)
        self.features = groups_down(c, groups, first_kernel, finish(activation, norm), bias=norm != "batch")
        h, w = halvings(h, w, len(groups))[-1]
        heads = out_shape[0] if separate else 1
        widths = [groups[-1][-1] * h * w + noise, *hidden, math.prod(out_shape) // heads]
        self.heads = nn.ModuleList(layers(widths, activation, dropout) for _ in range(heads))
        xavier(self)
        if near_zero:
            for head in self.heads:
                assert isinstance(head, nn.Sequential)
                start_near_zero(head)

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Tensor:
        """``[B, C, H, W]`` (and noise ``[B, n]``) to ``[B, *out_shape]``."""
        features = with_noise(self.features(inputs), noise)
        return torch.stack([head(features) for head in self.heads], 1).reshape(-1, *self.out_shape)


@NETWORKS.register("asvae-decoder")
class ASVAEDecoder(nn.Module):
    """Vectors to images: a fully connected network, groups of transposed convolutions, a head for each number.

    Args:
        in_shape: shape of one input.
        out_shape: ``(C, H, W)``, or ``(k, C, H, W)`` for k numbers a pixel, such as μ and log σ².
        noise: noise numbers concatenated to the input.
        groups: output channels of the transposed convolutions, group by group; the first of each group doubles
            the size. The map that they start from has the channels of the first.
        heads: output channels of further ones in each of the k heads, before the last, which gives the image.
        hidden: widths of the fully connected hidden layers.
        activation: the nonlinearity.
        norm: normalisation after each transposed convolution but the last.
        dropout: probability of dropping a unit of the fully connected hidden layers.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        noise: int = 0,
        groups: Sequence[Sequence[int]] = ((64, 64, 64), (32, 32, 32), (16,)),
        heads: Sequence[int] = (64, 64),
        hidden: Sequence[int] = (512,),
        activation: Activation = "relu",
        norm: Norm = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_groups(groups)
        values, c, h, w = image_values(out_shape)
        self.out_shape = tuple(out_shape)
        sizes = halvings(h, w, len(groups))[::-1]
        after = finish(activation, norm)
        self.upscaling = groups_up(groups[0][0], groups, sizes[1:], after, bias=norm != "batch")
        self.map_shape = (groups[0][0], *sizes[0])
        widths = [math.prod(in_shape) + noise, *hidden, math.prod(self.map_shape)]
        self.body = layers(widths, activation, dropout, last_active=True)
        widths, count = [groups[-1][-1], *heads], values if heads else 1  # bare last layers are one
        self.heads = nn.ModuleList(image_head(widths, values * c // count, after, norm) for _ in range(count))
        xavier(self)

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Tensor:
        """``[B, *in_shape]`` (and noise ``[B, n]``) to ``[B, *out_shape]``."""
        maps = self.upscaling(self.body(with_noise(inputs, noise)).reshape(-1, *self.map_shape))
        return torch.stack([head(maps) for head in self.heads], 1).reshape(-1, *self.out_shape)


def image_head(widths: Sequence[int], channels: int, after: Finish, norm: Norm) -> nn.Sequential:
    """3×3 transposed convolutions at the image's size, and a last one, bare, to its channels."""
    modules: list[nn.Module] = []
    for a, b in pairwise(widths):
        modules += [transposed(a, b, 3, bias=norm != "batch"), *after(b)]
    return nn.Sequential(*modules, transposed(widths[-1], channels, 3))


@CRITICS.register("asvae")
class ASVAECritic(Critic):
    """``f(x, z)``: convolutions of x and their mean over all places, a network of z, both joined by a third.

    The figures have batch normalisation after each convolution. With it the answer for one pair would depend on
    the others in its batch (trap 9), so it is off unless asked for. And they have the mean: after figure 5's two
    convolutions it is one of windows of 7 × 7 pixels, wherever they lie, and no critic of digits.

    Args:
        x_shape: ``(C, H, W)``.
        z_shape: shape of one code.
        channels: output channels of each convolution of stride 2.
        kernel: odd width of the kernels.
        pool: take the mean over all places, as the figures do; False joins the features of every place.
        z_hidden: widths of the network of z.
        hidden: widths of the joint network.
        activation: the nonlinearity; the figures have ReLU, whose units can die.
        norm: "spectral" puts every layer under spectral normalisation; the others follow each convolution;
            "batch" is the figures'.
        dropout: probability of dropping a unit of the fully connected hidden layers.
        gain: factor of the output; under spectral normalisation, the largest slope of ``f``.
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        z_shape: Sequence[int],
        *,
        channels: Sequence[int] = (16, 32, 64),
        kernel: int = 5,
        pool: bool = True,
        z_hidden: Sequence[int] = (256,),
        hidden: Sequence[int] = (256,),
        activation: Activation = "leaky-relu",
        norm: CriticNorm = "none",
        dropout: float = 0.0,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.pool, self.gain = pool, gain
        c, h, w = image_shape(x_shape, "critic")
        check_groups([channels])
        after = finish(activation, norm)
        self.features = strides_down([c, *channels], kernel, after, bias=norm != "batch")
        z_widths = [math.prod(z_shape), *z_hidden]
        self.z_features = layers(z_widths, activation, dropout, last_active=True)
        places = 1 if pool else math.prod(halvings(h, w, len(channels))[-1])
        self.joint = layers([channels[-1] * places + z_widths[-1], *hidden, 1], activation, dropout)
        xavier(self)
        if norm == "spectral":
            normalise_spectrum(self)

    def at(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        maps = self.features(x)
        f = side_by_side(self.joint, maps.mean((2, 3)) if self.pool else maps.flatten(1))
        return lambda z: self.gain * f(self.z_features(z.flatten(1))).squeeze(-1)
