"""The papers' networks: output shape of every convolution, and number of parameters.

Transcribed from the papers' figures, layer by layer, and counted by the three functions below; a convolution before
batch normalization has no bias. What a figure leaves open follows docs/.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

MNIST, CIFAR, FACES = (1, 28, 28), (3, 32, 32), (3, 64, 64)


def conv(kernel: int, a: int, b: int) -> int:
    """Count weights and biases of a convolution from a to b channels, transposed or not."""
    return kernel * kernel * a * b + b


def conv_bn(kernel: int, a: int, b: int) -> int:
    """Count the weights of a convolution, and the scale and shift of batch normalization."""
    return kernel * kernel * a * b + 2 * b


def fc(*widths: int) -> int:
    """Count weights and biases of fully connected layers."""
    return sum(a * b + b for a, b in pairwise(widths))


@dataclass
class PaperNetwork:
    """A network of a paper: its options, the output shapes of its convolutions, and its number of parameters."""

    kind: str
    name: str
    shapes: tuple[Sequence[int], Sequence[int]]
    options: dict[str, Any]
    maps: list[tuple[int, int]]  # channels and size (square) after each convolution, in the figure's order
    count: int
    page: str  # of docs/, which states the count
    noise_dim: int = 0


SHALLOW: dict[str, Any] = {
    "kernel_size": 5,
    "hidden": [800],
    "activation": "softplus",
}  # Salimans et al. 2015


PAPER_NETWORKS = {
    "fully connected 300-300 (AVB 3a)": PaperNetwork(
        "network", "mlp", ((32,), (1, *MNIST)), {}, [], fc(32, 300, 300, 784), "avb.md"
    ),
    "shallow convolutional decoder (AVB 3b)": PaperNetwork(
        "network",
        "deconv",
        ((8,), (1, *MNIST)),
        SHALLOW | {"channels": [32, 32, 16]},
        [(32, 7), (16, 14), (1, 28)],
        fc(8, 800, 32 * 4 * 4) + conv(5, 32, 32) + conv(5, 32, 16) + conv(5, 16, 1),
        "avb.md",
    ),
    "shallow convolutional decoder (AVB 3c)": PaperNetwork(
        "network",
        "deconv",
        ((32,), (1, *MNIST)),
        SHALLOW | {"channels": [32, 32, 16]},
        [(32, 7), (16, 14), (1, 28)],
        fc(32, 800, 32 * 4 * 4) + conv(5, 32, 32) + conv(5, 32, 16) + conv(5, 16, 1),
        "avb.md",
    ),
    "its mirror image, an encoder": PaperNetwork(
        "network",
        "conv",
        (MNIST, (2, 32)),
        SHALLOW | {"channels": [16, 32, 32]},
        [(16, 14), (32, 7), (32, 4)],
        conv(5, 1, 16) + conv(5, 16, 32) + conv(5, 32, 32) + fc(32 * 4 * 4, 800, 2 * 32),
        "avb.md",
    ),
    "image network of AVB figure 8": PaperNetwork(
        "network",
        "conv",
        (MNIST, (1 + 32, 32)),  # the offset and 32 coefficients
        {
            "channels": [64, 128, 256],
            "kernel_size": 5,
            "hidden": [800],
            "activation": "elu",
            "zero_init_first": True,
        },
        [(64, 14), (128, 7), (256, 4)],
        conv(5, 1, 64) + conv(5, 64, 128) + conv(5, 128, 256) + fc(256 * 4 * 4, 800, 33 * 32),
        "avb.md",
    ),
    "critic θ·s + T_x + T_z of AVB": PaperNetwork(
        "critic",
        "product",
        (MNIST, (32,)),
        {"hidden": [1024, 1024, 1024], "num_features": 8192},
        [],
        fc(784, 1024, 1024, 1024, 8192)
        + fc(32, 1024, 1024, 1024, 8192)
        + fc(784, 1024, 1024, 1024, 1)
        + fc(32, 1024, 1024, 1024, 1),
        "avb.md",
    ),
    "celebA encoder (AVB)": PaperNetwork(
        "network",
        "residual-encoder",
        (FACES, (1, 64)),
        {},
        [(c, s) for c, s in ((64, 32), (128, 16), (256, 8), (512, 4)) for _ in range(1 + 3 * 2)],
        sum(conv(5, a, b) for a, b in ((3, 64), (64, 128), (128, 256), (256, 512)))
        + 128 * (64 * 32**2 + 128 * 16**2 + 256 * 8**2 + 512 * 4**2)
        + 3 * 2 * sum(conv(3, c, c) for c in (64, 128, 256, 512))
        + fc(512 * 4 * 4, 64),
        "avb.md",
        noise_dim=128,
    ),
    "celebA decoder (AVB)": PaperNetwork(
        "network",
        "residual-decoder",
        ((64,), (1, *FACES)),
        {},
        [(512, 4)] * 6
        + [(c, s) for c, s in ((256, 8), (128, 16), (64, 32)) for _ in range(1 + 3 * 2)]
        + [(3, 64)],
        fc(64, 512 * 4 * 4)
        + sum(conv(5, a, b) for a, b in ((512, 256), (256, 128), (128, 64), (64, 3)))
        + 64 * (256 * 8**2 + 128 * 16**2 + 64 * 32**2)
        + 3 * 2 * sum(conv(3, c, c) for c in (512, 256, 128, 64)),
        "avb.md",
    ),
    "celebA critic (AVB)": PaperNetwork(
        "critic",
        "projection",
        (FACES, (64,)),
        {},
        [(64, 32), (128, 16), (256, 8), (512, 4)],
        sum(conv(5, a, b) for a, b in ((3, 64), (64, 128), (128, 256), (256, 512)))
        + 64 * (64 * 32**2 + 128 * 16**2 + 256 * 8**2 + 512 * 4**2)
        + fc(512 * 4 * 4, 1),
        "avb.md",
    ),
    "MNIST encoder (AS-VAE 5), for a normal": PaperNetwork(
        "network",
        "asvae-encoder",
        (MNIST, (2, 64)),
        {"stages": [[32], [64]], "first_kernel_size": 3, "separate_heads": False},
        [(32, 14), (64, 7)],
        conv_bn(3, 1, 32) + conv_bn(3, 32, 64) + fc(64 * 7 * 7, 512, 2 * 64),
        "asvae.md",
    ),
    "MNIST decoder (AS-VAE 5), for Bernoulli pixels": PaperNetwork(
        "network",
        "asvae-decoder",
        ((64,), (1, *MNIST)),
        {"stages": [[64], [32]], "head_channels": []},
        [(64, 14), (32, 28), (1, 28)],
        fc(64, 512, 64 * 7 * 7) + conv_bn(3, 64, 64) + conv_bn(3, 64, 32) + conv(3, 32, 1),
        "asvae.md",
    ),
    "MNIST critic (AS-VAE 5)": PaperNetwork(
        "critic",
        "conv",
        (MNIST, (64,)),
        {"channels": [32, 64], "kernel_size": 3, "pool": True},
        [(32, 14), (64, 7)],
        conv(3, 1, 32) + conv(3, 32, 64) + fc(64, 256) + fc(64 + 256, 256, 1),
        "asvae.md",
    ),
    "MNIST critic, all positions": PaperNetwork(
        "critic",
        "conv",
        (MNIST, (64,)),
        {"channels": [32, 64], "kernel_size": 3, "pool": False},
        [(32, 14), (64, 7)],
        conv(3, 1, 32) + conv(3, 32, 64) + fc(64, 256) + fc(64 * 7 * 7 + 256, 256, 1),
        "asvae.md",
    ),
    "CIFAR-10 encoder (AS-VAE 6)": PaperNetwork(
        "network",
        "asvae-encoder",
        (CIFAR, (2, 100)),
        {},
        [(16, 16)] * 3 + [(32, 8)] * 3 + [(64, 4)] * 4,
        conv_bn(5, 3, 16)
        + 2 * conv_bn(3, 16, 16)
        + conv_bn(3, 16, 32)
        + 2 * conv_bn(3, 32, 32)
        + conv_bn(3, 32, 64)
        + 3 * conv_bn(3, 64, 64)
        + 2 * fc(64 * 4 * 4, 512, 100),
        "asvae.md",
    ),
    "CIFAR-10 decoder (AS-VAE 6)": PaperNetwork(
        "network",
        "asvae-decoder",
        ((100,), (2, *CIFAR)),
        {},
        [(64, 8)] * 3 + [(32, 16)] * 3 + [(16, 32)] + [(64, 32), (64, 32), (3, 32)] * 2,
        fc(100, 512, 64 * 4 * 4)
        + 3 * conv_bn(3, 64, 64)
        + conv_bn(3, 64, 32)
        + 2 * conv_bn(3, 32, 32)
        + conv_bn(3, 32, 16)
        + 2 * (conv_bn(3, 16, 64) + conv_bn(3, 64, 64) + conv(3, 64, 3)),
        "asvae.md",
    ),
    "CIFAR-10 critic (AS-VAE 6)": PaperNetwork(
        "critic",
        "conv",
        (CIFAR, (100,)),
        {"channels": [16, 32, 64], "kernel_size": 5, "pool": True},
        [(16, 16), (32, 8), (64, 4)],
        conv(5, 3, 16) + conv(5, 16, 32) + conv(5, 32, 64) + fc(100, 256) + fc(64 + 256, 256, 1),
        "asvae.md",
    ),
    "ImageNet encoder (AS-VAE 7)": PaperNetwork(
        "network",
        "asvae-encoder",
        (FACES, (2, 2048)),
        {"stages": [[32] * 3, [64] * 3, [128] * 3, [256] * 4], "hidden": [2048]},
        [(32, 32)] * 3 + [(64, 16)] * 3 + [(128, 8)] * 3 + [(256, 4)] * 4,
        conv_bn(5, 3, 32)
        + 2 * conv_bn(3, 32, 32)
        + conv_bn(3, 32, 64)
        + 2 * conv_bn(3, 64, 64)
        + conv_bn(3, 64, 128)
        + 2 * conv_bn(3, 128, 128)
        + conv_bn(3, 128, 256)
        + 3 * conv_bn(3, 256, 256)
        + 2 * fc(256 * 4 * 4, 2048, 2048),
        "asvae.md",
    ),
    "ImageNet decoder (AS-VAE 7)": PaperNetwork(
        "network",
        "asvae-decoder",
        ((2048,), (2, *FACES)),
        {"stages": [[256] * 3, [128] * 3, [64] * 3, [32]], "head_channels": [64, 64, 64], "hidden": [2048]},
        [(256, 8)] * 3
        + [(128, 16)] * 3
        + [(64, 32)] * 3
        + [(32, 64)]
        + [(64, 64), (64, 64), (64, 64), (3, 64)] * 2,
        fc(2048, 2048, 256 * 4 * 4)
        + 3 * conv_bn(3, 256, 256)
        + conv_bn(3, 256, 128)
        + 2 * conv_bn(3, 128, 128)
        + conv_bn(3, 128, 64)
        + 2 * conv_bn(3, 64, 64)
        + conv_bn(3, 64, 32)
        + 2 * (conv_bn(3, 32, 64) + 2 * conv_bn(3, 64, 64) + conv(3, 64, 3)),
        "asvae.md",
    ),
    "ImageNet critic (AS-VAE 8)": PaperNetwork(
        "critic",
        "conv",
        (FACES, (2048,)),
        {"channels": [32, 64, 128, 256], "kernel_size": 5, "pool": True, "z_hidden": [512], "hidden": [512]},
        [(32, 32), (64, 16), (128, 8), (256, 4)],
        conv(5, 3, 32)
        + conv(5, 32, 64)
        + conv(5, 64, 128)
        + conv(5, 128, 256)
        + fc(2048, 512)
        + fc(256 + 512, 512, 1),
        "asvae.md",
    ),
    "BAVAE encoder, MNIST": PaperNetwork(
        "network",
        "bavae-encoder",
        (MNIST, (1, 32)),
        {},
        [(32, 28), (32, 14), (32, 14), (32, 7), (32, 7), (32, 4)],
        conv(3, 1, 32) + 5 * conv(3, 32, 32) + fc(32 * 4 * 4 + 64, 256, 32),
        "bavae.md",
        noise_dim=64,
    ),
    "BAVAE decoder, MNIST": PaperNetwork(
        "network",
        "bavae-decoder",
        ((32,), (1, *MNIST)),
        {},
        [(32, 7)] * 2 + [(32, 14)] * 2 + [(32, 28)] * 2 + [(1, 28)],
        fc(32 + 64, 256, 32 * 4 * 4) + 6 * conv(3, 32, 32) + conv(3, 32, 1),
        "bavae.md",
        noise_dim=64,
    ),
    "BAVAE critic, MNIST": PaperNetwork(
        "critic",
        "bavae",
        (MNIST, (32,)),
        {},
        [(32, 28), (32, 14), (32, 14), (32, 7), (32, 7), (32, 4)],
        conv(3, 1, 32) + 5 * conv(3, 32, 32) + fc(32, 256) + fc(32 * 4 * 4 + 256, 256, 1),
        "bavae.md",
    ),
}
