"""Encoder and decoder of AS-VAE (Pu et al. 2017, appendix B, figures 5 to 8).

One form for the three data sets; the defaults are figure 6 (CIFAR-10):

    figure               5 (MNIST)           6 (CIFAR-10)                          7, 8 (ImageNet, 64×64)
    encoder   kernel     3                   5, then 3                             5, then 3
              stages     32; 64              16 ×3; 32 ×3; 64 ×4                   32 ×3; 64 ×3; 128 ×3; 256 ×4
    decoder   stages     64; 32              64 ×3; 32 ×3; 16                      256 ×3; 128 ×3; 64 ×3; 32
              heads      none                64 ×2 for each of μ, log σ²           64 ×3 for each
    critic    kernel     3                   5                                     5
              channels   32, 64              16, 32, 64                            32, 64, 128, 256

Every stage begins with a convolution of stride 2. Every convolution is followed by batch normalization and ReLU,
except for the last of a decoder. The critic is "conv" with ``pool``. What the figures leave open is listed in
docs/papers/asvae.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from advae.networks.base import NETWORKS, Activation, concat_noise, init_near_zero, init_xavier
from advae.networks.blocks import (
    FeatureEncoder,
    Norm,
    NormAct,
    check_stages,
    conv_stages,
    conv_transpose,
    conv_transpose_stages,
    downsampled_sizes,
    image_shape,
    norm_act,
)
from advae.networks.mlp import linear_layers


@NETWORKS.register("asvae-encoder")
class ASVAEEncoder(FeatureEncoder):
    """Images to vectors: stages of convolutions, then fully connected networks.

    Args:
        out_shape: ``(k, …)``: k numbers for each element, such as μ and log σ².
        stages: output channels of the convolutions, stage by stage; the first of each stage has stride 2.
        first_kernel_size: odd, of the very first convolution; the others have 3.
        hidden: widths of the fully connected hidden layers.
        separate_heads: a fully connected network for each of the k (figures 6, 7), or one for all (figure 5).
        activation: the nonlinearity.
        norm: normalization after each convolution.
        dropout: probability of dropping a unit of the fully connected hidden layers.
        zero_init: start with an output near zero, so that a normal posterior begins near its prior.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        noise_dim: int = 0,
        stages: Sequence[Sequence[int]] = ((16, 16, 16), (32, 32, 32), (64, 64, 64, 64)),
        first_kernel_size: int = 5,
        hidden: Sequence[int] = (512,),
        separate_heads: bool = True,
        activation: Activation = "relu",
        norm: Norm = "batch",
        dropout: float = 0.0,
        zero_init: bool = False,
    ) -> None:
        check_stages(stages)
        features, map_shape = conv_stages(
            image_shape(in_shape, "encoder"),
            stages,
            norm_act(activation, norm),
            first_kernel_size=first_kernel_size,
            bias=norm != "batch",
        )
        num_features = math.prod(map_shape)
        super().__init__(
            features, num_features, out_shape, noise_dim, hidden, activation, dropout, separate_heads
        )
        if zero_init:
            for layer in self.output_layers():
                init_near_zero(layer)


@NETWORKS.register("asvae-decoder")
class ASVAEDecoder(nn.Module):
    """Vectors to images: a fully connected network, stages of transposed convolutions, and a head for each number.

    Args:
        out_shape: ``(C, H, W)``, or ``(k, C, H, W)`` for k numbers per pixel, such as μ and log σ².
        stages: output channels of the transposed convolutions, stage by stage; the first of each stage doubles
            the size. The map that they start from has the channels of the first.
        head_channels: output channels of further transposed convolutions in each of the k heads, before the last,
            which gives the image.
        hidden: widths of the fully connected hidden layers.
        activation: the nonlinearity.
        norm: normalization after each transposed convolution but the last.
        dropout: probability of dropping a unit of the fully connected hidden layers.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        noise_dim: int = 0,
        stages: Sequence[Sequence[int]] = ((64, 64, 64), (32, 32, 32), (16,)),
        head_channels: Sequence[int] = (64, 64),
        hidden: Sequence[int] = (512,),
        activation: Activation = "relu",
        norm: Norm = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_stages(stages)
        c, h, w = image_shape(out_shape, "decoder")
        self.out_shape = tuple(out_shape)
        sizes = downsampled_sizes(h, w, len(stages))[::-1]
        post, bias = norm_act(activation, norm), norm != "batch"
        self.upsampling = conv_transpose_stages(stages[0][0], stages, sizes[1:], post, bias=bias)
        self.map_shape = (stages[0][0], *sizes[0])
        widths = [math.prod(in_shape) + noise_dim, *hidden, math.prod(self.map_shape)]
        self.body = linear_layers(widths, activation, dropout, last_active=True)
        num_heads = out_shape[0] if head_channels and len(out_shape) > 3 else 1
        channels = [stages[-1][-1], *head_channels]
        self.heads = nn.ModuleList(
            image_head(channels, c // num_heads, post, bias=bias) for _ in range(num_heads)
        )
        init_xavier(self)

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Tensor:
        maps = self.upsampling(self.body(concat_noise(inputs, noise)).reshape(-1, *self.map_shape))
        return torch.stack([head(maps) for head in self.heads], 1).reshape(-1, *self.out_shape)


def image_head(widths: Sequence[int], channels: int, post: NormAct, *, bias: bool) -> nn.Sequential:
    """Return 3×3 transposed convolutions at the image's size; nothing follows the last, which gives ``channels``."""
    modules: list[nn.Module] = []
    for a, b in pairwise(widths):
        modules += [conv_transpose(a, b, 3, bias=bias), *post(b)]
    return nn.Sequential(*modules, conv_transpose(widths[-1], channels, 3))
