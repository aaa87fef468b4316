"""Convolutional encoders, decoders and critics for images of any size.

"conv" and "deconv" have one convolution per scale. With channels (16, 32, 32), 5×5 kernels, 800 hidden units and
softplus they are the networks of Salimans, Kingma and Welling (2015) that AVB uses in tables 3b and 3c. With channels
(64, 128, 256), 5×5 kernels, 800 hidden units and ELU, the encoder is the image network of AVB's figure 8.

The networks of BAVAE (Fickinger 2019), whose paper gives no architecture, follow its unfinished code. Each scale has
two 3×3 convolutions of 32 channels with ELU, the second of stride 2. In the decoder these are nearest-neighbor
upsampling and two convolutions. The paper requires that encoder and decoder have no density, so both take noise, and
that there are two critics of pairs (x, z), of one form with separate weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from advae.networks.base import CRITICS, NEAR_ZERO_STD, NETWORKS, Activation
from advae.networks.blocks import (
    CriticNorm,
    FeatureCritic,
    FeatureDecoder,
    FeatureEncoder,
    Norm,
    check_stages,
    conv,
    conv_stages,
    conv_transpose,
    conv_transpose_stages,
    downsampled_sizes,
    image_shape,
    norm_act,
)


def scaled_channels(height: int = 0, width: int = 0) -> list[int]:
    """Return channels for an image of any size: 32, 64, 128, then 256, until the smaller side is at most 4 pixels.

    >>> scaled_channels(28, 20), scaled_channels(64, 64)
    ([32, 64, 128], [32, 64, 128, 256])
    """
    count = max(1, math.ceil(math.log2(max(1, min(height, width) / 4))))
    return [min(32 * 2**scale, 256) for scale in range(count)]


@NETWORKS.register("conv")
class ConvEncoder(FeatureEncoder):
    """Images to vectors: convolutions of stride 2, then fully connected layers of the features and the noise.

    Args:
        channels: output channels of each convolution; by default as :func:`scaled_channels` of the image.
        kernel_size: odd.
        hidden: widths of the fully connected hidden layers.
        activation: the nonlinearity.
        norm: normalization after each convolution.
        dropout: probability of dropping a unit.
        zero_init_first: start the first of several values per element near zero for every image: the mean, or the
            offset of a noise basis.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        noise_dim: int = 0,
        channels: Sequence[int] | None = None,
        kernel_size: int = 3,
        hidden: Sequence[int] = (256,),
        activation: Activation = "relu",
        norm: Norm = "none",
        dropout: float = 0.0,
        zero_init_first: bool = False,
    ) -> None:
        shape = image_shape(in_shape, "encoder")
        stages = [[b] for b in (scaled_channels(*shape[1:]) if channels is None else channels)]
        post = norm_act(activation, norm, dropout)
        features, map_shape = conv_stages(shape, stages, post, kernel_size=kernel_size, bias=norm != "batch")
        num_features = math.prod(map_shape)
        super().__init__(features, num_features, out_shape, noise_dim, hidden, activation, dropout)
        if zero_init_first and out_shape[0] > 1:
            with torch.no_grad():
                self.output_layers()[0].weight[: math.prod(out_shape[1:])].normal_(std=NEAR_ZERO_STD)


@NETWORKS.register("deconv")
class ConvDecoder(FeatureDecoder):
    """Vectors to images: the mirror image of :class:`ConvEncoder`, by transposed convolutions.

    Args:
        channels: channels of the maps, from the smallest map to the largest; by default the encoder's, reversed.
        kernel_size: odd.
        hidden: widths of the fully connected hidden layers.
        activation: the nonlinearity.
        norm: normalization after each convolution but the last.
        dropout: probability of dropping a unit.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        noise_dim: int = 0,
        channels: Sequence[int] | None = None,
        kernel_size: int = 3,
        hidden: Sequence[int] = (256,),
        activation: Activation = "relu",
        norm: Norm = "none",
        dropout: float = 0.0,
    ) -> None:
        c, h, w = image_shape(out_shape, "decoder")
        channels = scaled_channels(h, w)[::-1] if channels is None else channels
        check_stages([channels])
        sizes = downsampled_sizes(h, w, len(channels))[::-1]
        post, stages = norm_act(activation, norm, dropout), [[b] for b in channels[1:]]
        upsampling = conv_transpose_stages(
            channels[0], stages, sizes[1:-1], post, kernel_size=kernel_size, bias=norm != "batch"
        )
        upsampling.append(conv_transpose(channels[-1], c, kernel_size, sizes[-1]))
        in_dim, map_shape = math.prod(in_shape) + noise_dim, (channels[0], *sizes[0])
        super().__init__(upsampling, in_dim, out_shape, map_shape, hidden, activation, dropout)


@CRITICS.register("conv")
class ConvCritic(FeatureCritic):
    """``T(x, z)``: convolutions of x, a fully connected network of z, and a network of both (the form of AS-VAE).

    With batch normalization the output for one pair depends on the others in its batch (trap 9), so it is off by
    default. With ``pool`` the critic sees what an image contains, but not where.

    Args:
        channels: output channels of each convolution of stride 2; by default as :func:`scaled_channels` of the image.
        kernel_size: odd.
        pool: average the last maps over all positions (AS-VAE, figures 5 to 8), instead of keeping all positions.
        z_hidden: widths of the network of z.
        hidden: widths of the joint network.
        activation: the nonlinearity.
        norm: "spectral" puts every layer under spectral normalization; the others follow each convolution.
        dropout: probability of dropping a unit of the fully connected hidden layers.
        gain: factor of the output; under spectral normalization, the Lipschitz constant of ``T``.
        num_bridges: 1, or the number of bridges of a telescoped critic (:mod:`advae.density_ratio`).
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        z_shape: Sequence[int],
        *,
        channels: Sequence[int] | None = None,
        kernel_size: int = 3,
        pool: bool = False,
        z_hidden: Sequence[int] = (256,),
        hidden: Sequence[int] = (256,),
        activation: Activation = "leaky-relu",
        norm: CriticNorm = "none",
        dropout: float = 0.0,
        gain: float = 1.0,
        num_bridges: int = 1,
    ) -> None:
        stages = [[b] for b in (scaled_channels(*x_shape[-2:]) if channels is None else channels)]
        features, map_shape = critic_features(x_shape, stages, activation, norm, kernel_size=kernel_size)
        joint = z_hidden, hidden, activation, norm, dropout, gain, pool, num_bridges
        super().__init__(features, map_shape, z_shape, *joint)


@NETWORKS.register("bavae-encoder")
class BAVAEEncoder(FeatureEncoder):
    """Images to vectors: stages of two convolutions, then fully connected layers of the features and the noise.

    Args:
        channels: output channels of each stage.
        hidden: widths of the fully connected hidden layers, in which features and noise meet.
        activation: the nonlinearity.
        norm: normalization after each convolution.
        dropout: probability of dropping a unit of the fully connected hidden layers.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        noise_dim: int = 0,
        channels: Sequence[int] = (32, 32, 32),
        hidden: Sequence[int] = (256,),
        activation: Activation = "elu",
        norm: Norm = "none",
        dropout: float = 0.0,
    ) -> None:
        check_stages([channels])
        shape, post = image_shape(in_shape, "encoder"), norm_act(activation, norm)
        stages = [[b, b] for b in channels]
        features, map_shape = conv_stages(shape, stages, post, bias=norm != "batch", stride_last=True)
        num_features = math.prod(map_shape)
        super().__init__(features, num_features, out_shape, noise_dim, hidden, activation, dropout)


@NETWORKS.register("bavae-decoder")
class BAVAEDecoder(FeatureDecoder):
    """Vectors and noise to images: fully connected layers, upsampling stages, and a last 3×3 convolution.

    Args:
        channels: output channels of each stage, from the smallest map to the largest.
        hidden: widths of the fully connected hidden layers.
        activation: the nonlinearity.
        norm: normalization after each convolution but the last.
        dropout: probability of dropping a unit of the fully connected hidden layers.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        noise_dim: int = 0,
        channels: Sequence[int] = (32, 32, 32),
        hidden: Sequence[int] = (256,),
        activation: Activation = "elu",
        norm: Norm = "none",
        dropout: float = 0.0,
    ) -> None:
        check_stages([channels])
        c, h, w = image_shape(out_shape, "decoder")
        sizes = downsampled_sizes(h, w, len(channels))[::-1]
        post, bias = norm_act(activation, norm), norm != "batch"
        modules: list[nn.Module] = []
        for (a, b), size in zip(pairwise([channels[0], *channels]), sizes[1:], strict=True):
            modules += [nn.Upsample(size), conv(a, b, 3, bias=bias), *post(b)]
            modules += [conv(b, b, 3, bias=bias), *post(b)]
        upsampling = nn.Sequential(*modules, conv(channels[-1], c, 3))
        in_dim, map_shape = math.prod(in_shape) + noise_dim, (channels[0], *sizes[0])
        super().__init__(upsampling, in_dim, out_shape, map_shape, hidden, activation, dropout)


@CRITICS.register("bavae")
class BAVAECritic(FeatureCritic):
    """``D(x, z)``: stages of two convolutions of x, a network of z, and a network of both.

    Args:
        channels: output channels of each stage.
        z_hidden: widths of the network of z.
        hidden: widths of the joint network.
        activation: the nonlinearity.
        norm: "spectral" puts every layer under spectral normalization; the others follow each convolution. With
            "batch" the output for one pair depends on the others in its batch (trap 9).
        dropout: probability of dropping a unit of the fully connected hidden layers.
        gain: factor of the output.
        num_bridges: 1, or the number of bridges of a telescoped critic (:mod:`advae.density_ratio`).
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
        num_bridges: int = 1,
    ) -> None:
        stages = [[b, b] for b in channels]
        features, map_shape = critic_features(x_shape, stages, activation, norm, stride_last=True)
        joint = z_hidden, hidden, activation, norm, dropout, gain
        super().__init__(features, map_shape, z_shape, *joint, num_bridges=num_bridges)


def critic_features(
    x_shape: Sequence[int], stages: list[list[int]], activation: Activation, norm: str, **options: Any
) -> tuple[nn.Module | None, tuple[int, int, int]]:
    """Return convolutions and the shape of their output, ``(C, H, W)``; None for a critic of latents alone."""
    if not math.prod(x_shape):
        return None, (0, 0, 0)
    check_stages(stages)
    shape, post = image_shape(x_shape, "critic"), norm_act(activation, norm)
    return conv_stages(shape, stages, post, bias=norm != "batch", **options)
