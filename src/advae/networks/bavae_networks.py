"""Convolutional encoder, decoder and critic for BAVAE (Fickinger 2019), whose paper gives no architecture.

The paper requires that the encoder and the decoder have no density, so both take noise, and that there are two critics
of pairs (x, z), of one form with separate weights. Each stage has two 3×3 convolutions of 32 channels with ELU, the
second of stride 2; in the decoder, nearest-neighbor upsampling and two convolutions. This follows the paper's
unfinished code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from advae.networks.base import CRITICS, NETWORKS, Activation
from advae.networks.blocks import (
    CriticNorm,
    FeatureCritic,
    FeatureDecoder,
    FeatureEncoder,
    Norm,
    check_stages,
    conv,
    conv_stages,
    downsampled_sizes,
    image_shape,
    norm_act,
)


@NETWORKS.register("bavae-encoder")
class BAVAEEncoder(FeatureEncoder):
    """Images to vectors: stages of two convolutions, then fully connected layers of the features and the noise.

    Args:
        in_shape: ``(C, H, W)``.
        out_shape: shape of one output.
        noise_dim: length of the noise that is concatenated to the features.
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
        features, num_features = conv_pairs(image_shape(in_shape, "encoder"), channels, activation, norm)
        super().__init__(features, num_features, out_shape, noise_dim, hidden, activation, dropout)


@NETWORKS.register("bavae-decoder")
class BAVAEDecoder(FeatureDecoder):
    """Vectors and noise to images: fully connected layers, upsampling stages, and a last 3×3 convolution.

    Args:
        in_shape: shape of one input.
        out_shape: ``(C, H, W)``, or ``(k, C, H, W)`` for k numbers per pixel.
        noise_dim: length of the noise that is concatenated to the input.
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
        map_shape = (channels[0], *sizes[0])
        super().__init__(upsampling, in_shape, out_shape, map_shape, noise_dim, hidden, activation, dropout)


@CRITICS.register("bavae")
class BAVAECritic(FeatureCritic):
    """``D(x, z)``: stages of two convolutions of x, a network of z, and a network of both.

    Args:
        x_shape: ``(C, H, W)``; ``(0,)`` for a critic of latents alone.
        z_shape: shape of one latent; ``(0,)`` for a critic of images alone.
        channels: output channels of each stage.
        z_hidden: widths of the network of z.
        hidden: widths of the joint network.
        activation: the nonlinearity.
        norm: "spectral" puts every layer under spectral normalization; the others follow each convolution. With
            "batch" the output for one pair depends on the others in its batch (trap 9).
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
        features: nn.Module = nn.Flatten()
        num_features = 0
        if math.prod(x_shape):
            features, num_features = conv_pairs(image_shape(x_shape, "critic"), channels, activation, norm)
        super().__init__(features, num_features, z_shape, z_hidden, hidden, activation, norm, dropout, gain)


def conv_pairs(
    shape: tuple[int, int, int], channels: Sequence[int], activation: Activation, norm: str
) -> tuple[nn.Sequential, int]:
    """Return stages of two convolutions, the second of stride 2, and the number of their output features."""
    check_stages([channels])
    c, h, w = shape
    post = norm_act(activation, norm)
    stages = conv_stages(c, [[b, b] for b in channels], post, bias=norm != "batch", stride_last=True)
    return stages, channels[-1] * math.prod(downsampled_sizes(h, w, len(channels))[-1])
