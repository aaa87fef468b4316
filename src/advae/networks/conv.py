"""Convolutional encoder, decoder and critic for images of any size.

With channels (16, 32, 32), 5×5 kernels, 800 hidden units and softplus, the encoder and the decoder are the networks of
Salimans, Kingma and Welling (2015) that AVB uses in tables 3b and 3c. With channels (64, 128, 256), 5×5 kernels, 800
hidden units and ELU, the encoder is the image network of AVB's figure 8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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
    conv_stages,
    conv_transpose,
    conv_transpose_stages,
    downsampled_sizes,
    image_shape,
    norm_act,
)


@NETWORKS.register("conv")
class ConvEncoder(FeatureEncoder):
    """Images to vectors: convolutions of stride 2, then fully connected layers.

    Args:
        in_shape: ``(C, H, W)``.
        out_shape: shape of one output.
        noise_dim: length of the noise that is concatenated to the features.
        channels: output channels of each convolution.
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
        channels: Sequence[int] = (32, 64),
        kernel_size: int = 3,
        hidden: Sequence[int] = (256,),
        activation: Activation = "relu",
        norm: Norm = "none",
        dropout: float = 0.0,
        zero_init_first: bool = False,
    ) -> None:
        c, h, w = image_shape(in_shape, "encoder")
        post = norm_act(activation, norm, dropout)
        features = conv_stages(
            c, [[b] for b in channels], post, kernel_size=kernel_size, bias=norm != "batch"
        )
        num_features = [c, *channels][-1] * math.prod(downsampled_sizes(h, w, len(channels))[-1])
        super().__init__(features, num_features, out_shape, noise_dim, hidden, activation, dropout)
        if zero_init_first and out_shape[0] > 1:
            with torch.no_grad():
                self.output_layers()[0].weight[: math.prod(out_shape[1:])].normal_(std=NEAR_ZERO_STD)


@NETWORKS.register("deconv")
class ConvDecoder(FeatureDecoder):
    """Vectors to images: the mirror image of :class:`ConvEncoder`, by transposed convolutions.

    Args:
        in_shape: shape of one input.
        out_shape: ``(C, H, W)``, or ``(k, C, H, W)`` for k numbers per pixel.
        noise_dim: length of the noise that is concatenated to the input.
        channels: channels of the maps, from the smallest map to the largest.
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
        channels: Sequence[int] = (64, 32),
        kernel_size: int = 3,
        hidden: Sequence[int] = (256,),
        activation: Activation = "relu",
        norm: Norm = "none",
        dropout: float = 0.0,
    ) -> None:
        check_stages([channels])
        c, h, w = image_shape(out_shape, "decoder")
        sizes = downsampled_sizes(h, w, len(channels))[::-1]
        post = norm_act(activation, norm, dropout)
        stages = [[b] for b in channels[1:]]
        upsampling = conv_transpose_stages(
            channels[0], stages, sizes[1:-1], post, kernel_size=kernel_size, bias=norm != "batch"
        )
        upsampling.append(conv_transpose(channels[-1], c, kernel_size, sizes[-1]))
        map_shape = (channels[0], *sizes[0])
        super().__init__(upsampling, in_shape, out_shape, map_shape, noise_dim, hidden, activation, dropout)


@CRITICS.register("conv")
class ConvCritic(FeatureCritic):
    """``T(x, z)``: convolutions of x, a fully connected network of z, and a network of both (the form of AS-VAE).

    With batch normalization the output for one pair depends on the others in its batch (trap 9), so it is off by
    default. With ``pool`` the critic sees what an image contains, but not where.

    Args:
        x_shape: ``(C, H, W)``; ``(0,)`` for a critic of latents alone.
        z_shape: shape of one latent; ``(0,)`` for a critic of images alone.
        channels: output channels of each convolution of stride 2.
        kernel_size: odd.
        pool: average the last maps over all positions (AS-VAE, figures 5 to 8), instead of keeping all positions.
        z_hidden: widths of the network of z.
        hidden: widths of the joint network.
        activation: the nonlinearity.
        norm: "spectral" puts every layer under spectral normalization; the others follow each convolution.
        dropout: probability of dropping a unit of the fully connected hidden layers.
        gain: factor of the output; under spectral normalization, the Lipschitz constant of ``T``.
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        z_shape: Sequence[int],
        *,
        channels: Sequence[int] = (32, 64),
        kernel_size: int = 3,
        pool: bool = False,
        z_hidden: Sequence[int] = (256,),
        hidden: Sequence[int] = (256,),
        activation: Activation = "leaky-relu",
        norm: CriticNorm = "none",
        dropout: float = 0.0,
        gain: float = 1.0,
    ) -> None:
        features: nn.Module = nn.Flatten()
        num_features = 0
        if sees_images := math.prod(x_shape) > 0:
            c, h, w = image_shape(x_shape, "critic")
            check_stages([channels])
            post, stages = norm_act(activation, norm), [[b] for b in channels]
            features = conv_stages(c, stages, post, kernel_size=kernel_size, bias=norm != "batch")
            positions = 1 if pool else math.prod(downsampled_sizes(h, w, len(channels))[-1])
            num_features = channels[-1] * positions
        super().__init__(
            features,
            num_features,
            z_shape,
            z_hidden,
            hidden,
            activation,
            norm,
            dropout,
            gain,
            pool and sees_images,
        )
