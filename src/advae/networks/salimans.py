"""The shallow convolutional network for MNIST of Salimans, Kingma and Welling (2015), as AVB uses it in tables 3b, 3c.

Three convolutions of 5×5 with stride 2 and 16, 32, 32 channels, one fully connected layer, softplus throughout; the
decoder is its mirror image. Salimans et al. tried several widths of the fully connected layer; AVB's has 800 units.
"""

from __future__ import annotations

from collections.abc import Sequence

from advae.networks.base import NETWORKS, Activation
from advae.networks.conv import Conv, Deconv


@NETWORKS.register("salimans-encoder")
class SalimansEncoder(Conv):
    """Images to vectors: convolutions of stride 2, then one fully connected layer.

    Args:
        in_shape: ``(C, H, W)``.
        out_shape: shape of one output.
        noise: noise numbers concatenated to the features.
        channels: output channels of each convolution of stride 2.
        kernel: odd width of the kernels.
        hidden: widths of the fully connected hidden layers.
        activation: the nonlinearity.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        noise: int = 0,
        channels: Sequence[int] = (16, 32, 32),
        kernel: int = 5,
        hidden: Sequence[int] = (800,),
        activation: Activation = "softplus",
    ) -> None:
        super().__init__(
            in_shape,
            out_shape,
            noise=noise,
            channels=channels,
            kernel=kernel,
            hidden=hidden,
            activation=activation,
        )


@NETWORKS.register("salimans-decoder")
class SalimansDecoder(Deconv):
    """Vectors to images: the mirror image, its last fully connected hidden layer of 800 units.

    Args:
        in_shape: shape of one input.
        out_shape: ``(C, H, W)``, or ``(k, C, H, W)`` for k numbers a pixel.
        noise: noise numbers concatenated to the input.
        channels: channels of the feature maps, from the smallest map to the largest.
        kernel: odd width of the kernels.
        hidden: widths of the fully connected hidden layers.
        activation: the nonlinearity.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        noise: int = 0,
        channels: Sequence[int] = (32, 32, 16),
        kernel: int = 5,
        hidden: Sequence[int] = (800,),
        activation: Activation = "softplus",
    ) -> None:
        super().__init__(
            in_shape,
            out_shape,
            noise=noise,
            channels=channels,
            kernel=kernel,
            hidden=hidden,
            activation=activation,
        )
