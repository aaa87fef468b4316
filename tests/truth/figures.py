"""The papers' networks as their figures have them: every convolution's output, and the count of parameters.

Written down from the words of the figures, layer by layer, and counted by the three rules below; a convolution
before batch normalisation has no bias. Where a figure is silent they follow docs/.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

MNIST, CIFAR, FACES = (1, 28, 28), (3, 32, 32), (3, 64, 64)


def conv(kernel: int, a: int, b: int) -> int:
    """Weights and biases of a convolution from a to b channels, transposed or not."""
    return kernel * kernel * a * b + b


def conv_bn(kernel: int, a: int, b: int) -> int:
    """A convolution without biases, and the scale and shift of batch normalisation."""
    return kernel * kernel * a * b + 2 * b


def fc(*widths: int) -> int:
    """Weights and biases of fully connected layers."""
    return sum(a * b + b for a, b in pairwise(widths))


@dataclass
class Figure:
    """A network of a paper: how it is built, what its convolutions give, how many parameters it has."""

    kind: str
    name: str
    shapes: tuple[Sequence[int], Sequence[int]]
    options: dict[str, Any]
    maps: list[tuple[int, int]]  # channels and size (square) after each convolution, in the figure's order
    count: int
    page: str  # of docs/, where the count is told
    noise: int = 0


def noise_basis(m: int, d: int) -> tuple[int, int]:
    return 1 + m, d


FIGURES = {
    "fully connected 300-300 (AVB 3a)": Figure(
        "network", "mlp", ((32,), (1, *MNIST)), {}, [], fc(32, 300, 300, 784), "avb.md"
    ),
    "shallow convolutional decoder (AVB 3b)": Figure(
        "network",
        "salimans-decoder",
        ((8,), (1, *MNIST)),
        {},
        [(32, 7), (16, 14), (1, 28)],
        fc(8, 800, 32 * 4 * 4) + conv(5, 32, 32) + conv(5, 32, 16) + conv(5, 16, 1),
        "avb.md",
    ),
    "shallow convolutional decoder (AVB 3c)": Figure(
        "network",
        "salimans-decoder",
        ((32,), (1, *MNIST)),
        {},
        [(32, 7), (16, 14), (1, 28)],
        fc(32, 800, 32 * 4 * 4) + conv(5, 32, 32) + conv(5, 32, 16) + conv(5, 16, 1),
        "avb.md",
    ),
    "its mirror image, an encoder": Figure(
        "network",
        "salimans-encoder",
        (MNIST, (2, 32)),
        {},
        [(16, 14), (32, 7), (32, 4)],
        conv(5, 1, 16) + conv(5, 16, 32) + conv(5, 32, 32) + fc(32 * 4 * 4, 800, 2 * 32),
        "avb.md",
    ),
    "image network of AVB figure 8": Figure(
        "network",
        "avb-encoder",
        (MNIST, noise_basis(32, 32)),
        {},
        [(64, 14), (128, 7), (256, 4)],
        conv(5, 1, 64) + conv(5, 64, 128) + conv(5, 128, 256) + fc(256 * 4 * 4, 800, 33 * 32),
        "avb.md",
    ),
    "critic θ·s + T_x + T_z of AVB": Figure(
        "critic",
        "product",
        (MNIST, (32,)),
        {"hidden": [1024, 1024, 1024], "features": 8192},
        [],
        fc(784, 1024, 1024, 1024, 8192)
        + fc(32, 1024, 1024, 1024, 8192)
        + fc(784, 1024, 1024, 1024, 1)
        + fc(32, 1024, 1024, 1024, 1),
        "avb.md",
    ),
    "celebA encoder (AVB)": Figure(
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
        noise=128,
    ),
    "celebA decoder (AVB)": Figure(
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
    "celebA critic (AVB)": Figure(
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
    "MNIST encoder (AS-VAE 5), for a normal": Figure(
        "network",
        "asvae-encoder",
        (MNIST, (2, 64)),
        {"groups": [[32], [64]], "first_kernel": 3, "separate": False},
        [(32, 14), (64, 7)],
        conv_bn(3, 1, 32) + conv_bn(3, 32, 64) + fc(64 * 7 * 7, 512, 2 * 64),
        "asvae.md",
    ),
    "MNIST decoder (AS-VAE 5), for Bernoulli pixels": Figure(
        "network",
        "asvae-decoder",
        ((64,), (1, *MNIST)),
        {"groups": [[64], [32]], "heads": []},
        [(64, 14), (32, 28), (1, 28)],
        fc(64, 512, 64 * 7 * 7) + conv_bn(3, 64, 64) + conv_bn(3, 64, 32) + conv(3, 32, 1),
        "asvae.md",
    ),
    "MNIST critic (AS-VAE 5)": Figure(
        "critic",
        "asvae",
        (MNIST, (64,)),
        {"channels": [32, 64], "kernel": 3},
        [(32, 14), (64, 7)],
        conv(3, 1, 32) + conv(3, 32, 64) + fc(64, 256) + fc(64 + 256, 256, 1),
        "asvae.md",
    ),
    "MNIST critic, all places joined": Figure(
        "critic",
        "asvae",
        (MNIST, (64,)),
        {"channels": [32, 64], "kernel": 3, "pool": False},
        [(32, 14), (64, 7)],
        conv(3, 1, 32) + conv(3, 32, 64) + fc(64, 256) + fc(64 * 7 * 7 + 256, 256, 1),
        "asvae.md",
    ),
    "CIFAR-10 encoder (AS-VAE 6)": Figure(
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
    "CIFAR-10 decoder (AS-VAE 6)": Figure(
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
    "CIFAR-10 critic (AS-VAE 6)": Figure(
        "critic",
        "asvae",
        (CIFAR, (100,)),
        {},
        [(16, 16), (32, 8), (64, 4)],
        conv(5, 3, 16) + conv(5, 16, 32) + conv(5, 32, 64) + fc(100, 256) + fc(64 + 256, 256, 1),
        "asvae.md",
    ),
    "ImageNet encoder (AS-VAE 7)": Figure(
        "network",
        "asvae-encoder",
        (FACES, (2, 2048)),
        {"groups": [[32] * 3, [64] * 3, [128] * 3, [256] * 4], "hidden": [2048]},
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
    "ImageNet decoder (AS-VAE 7)": Figure(
        "network",
        "asvae-decoder",
        ((2048,), (2, *FACES)),
        {"groups": [[256] * 3, [128] * 3, [64] * 3, [32]], "heads": [64, 64, 64], "hidden": [2048]},
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
    "ImageNet critic (AS-VAE 8)": Figure(
        "critic",
        "asvae",
        (FACES, (2048,)),
        {"channels": [32, 64, 128, 256], "z_hidden": [512], "hidden": [512]},
        [(32, 32), (64, 16), (128, 8), (256, 4)],
        conv(5, 3, 32)
        + conv(5, 32, 64)
        + conv(5, 64, 128)
        + conv(5, 128, 256)
        + fc(2048, 512)
        + fc(256 + 512, 512, 1),
        "asvae.md",
    ),
    "BAVAE encoder, MNIST": Figure(
        "network",
        "bavae-encoder",
        (MNIST, (1, 32)),
        {},
        [(32, 28), (32, 14), (32, 14), (32, 7), (32, 7), (32, 4)],
        conv(3, 1, 32) + 5 * conv(3, 32, 32) + fc(32 * 4 * 4 + 64, 256, 32),
        "bavae.md",
        noise=64,
    ),
    "BAVAE decoder, MNIST": Figure(
        "network",
        "bavae-decoder",
        ((32,), (1, *MNIST)),
        {},
        [(32, 7)] * 2 + [(32, 14)] * 2 + [(32, 28)] * 2 + [(1, 28)],
        fc(32 + 64, 256, 32 * 4 * 4) + 6 * conv(3, 32, 32) + conv(3, 32, 1),
        "bavae.md",
        noise=64,
    ),
    "BAVAE critic, MNIST": Figure(
        "critic",
        "bavae",
        (MNIST, (32,)),
        {},
        [(32, 28), (32, 14), (32, 14), (32, 7), (32, 7), (32, 4)],
        conv(3, 1, 32) + 5 * conv(3, 32, 32) + fc(32, 256) + fc(32 * 4 * 4 + 256, 256, 1),
        "bavae.md",
    ),
}
