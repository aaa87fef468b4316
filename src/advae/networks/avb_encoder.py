"""The image network of AVB's MNIST experiment (Mescheder, Nowozin and Geiger 2017, supplement, figure 8).

Figure 8 is an encoder in two parts: a deep convolutional network g of x gives the coefficients a_i(x), and small
networks f_i of noise give the basis vectors; z = Σ_i a_i(x) f_i(ε_i). Here is g, with the offset z⁰(x) of the authors'
code; the rest is the distribution "noise-basis".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from advae.networks.base import NETWORKS, SMALL_INIT, Activation
from advae.networks.conv import Conv


@NETWORKS.register("avb-encoder")
class AVBEncoder(Conv):
    """Images to an offset and coefficients: convolutions of stride 2, then one fully connected layer.

    Args:
        in_shape: ``(C, H, W)``.
        out_shape: ``(1 + m, d)`` for the noise basis: the offset, then m coefficients; or another shape.
        noise: noise numbers concatenated to the features (none, with the noise basis).
        channels: output channels of each convolution of stride 2.
        kernel: odd width of the kernels.
        hidden: widths of the fully connected hidden layers.
        activation: the nonlinearity.
        batch_norm: batch normalisation after each convolution.
        offset_near_zero: start the first of several values, the offset, near zero for every image.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        noise: int = 0,
        channels: Sequence[int] = (64, 128, 256),
        kernel: int = 5,
        hidden: Sequence[int] = (800,),
        activation: Activation = "elu",
        batch_norm: bool = False,
        offset_near_zero: bool = True,
    ) -> None:
        super().__init__(
            in_shape,
            out_shape,
            noise=noise,
            channels=channels,
            kernel=kernel,
            hidden=hidden,
            activation=activation,
            batch_norm=batch_norm,
        )
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        if offset_near_zero and out_shape[0] > 1:
            with torch.no_grad():
                last.weight[: math.prod(out_shape[1:])].normal_(std=SMALL_INIT)
