"""What convolutional networks are put together from: sizes, normalisation, and steps down to half and up again.

A step down takes a map of size s to ⌈s/2⌉ (stride 2, padding of half the kernel); a step up is its mirror image
and goes back to s, even or odd.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

from torch import nn

from advae.errors import ConfigError
from advae.networks.base import ACTIVATIONS, Activation, check_dropout

Norm = Literal["none", "batch", "layer"]
"""After each convolution: nothing, batch normalisation, or layer normalisation over each example's whole map."""

CriticNorm = Literal["none", "spectral", "layer", "batch"]
"""Of a critic: also spectral normalisation of all weights. With "batch" its answer depends on the batch (trap 9)."""

Finish = Callable[[int], list[nn.Module]]
"""What follows a convolution that gives so many channels."""


def half(size: int) -> int:
    """The size after a convolution of stride 2 with padding: half, rounded up."""
    return (size + 1) // 2


def halvings(height: int, width: int, count: int) -> list[tuple[int, int]]:
    """The sizes on ``count`` steps down, the first one included: ``count + 1`` of them.

    >>> halvings(28, 28, 3)
    [(28, 28), (14, 14), (7, 7), (4, 4)]
    """
    sizes = [(height, width)]
    for _ in range(count):
        sizes.append((half(sizes[-1][0]), half(sizes[-1][1])))
    return sizes


def image_shape(shape: Sequence[int], what: str) -> tuple[int, int, int]:
    """``(C, H, W)``, or a clear error for data that are not images."""
    if len(shape) < 3:
        raise ConfigError(
            f"a convolutional {what} needs images",
            given=f"data of shape {tuple(shape)}",
            expected="[C, H, W]",
            remedy="use the network 'mlp'",
        )
    *channels, height, width = shape
    return math.prod(channels), height, width


def image_values(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """``(k, C, H, W)`` of a decoder's output ``(k, C, H, W)`` or ``(C, H, W)``: k numbers a pixel, or one."""
    channels, height, width = image_shape(shape, "decoder")
    values = shape[0] if len(shape) > 3 else 1
    return values, channels // values, height, width


def finish(activation: Activation, norm: str = "none", dropout: float = 0.0) -> Finish:
    """After a convolution: normalisation, activation and dropout, each where it is asked for."""
    check_dropout(dropout)

    def modules(channels: int) -> list[nn.Module]:
        found: list[nn.Module] = []
        if norm == "batch":
            found.append(nn.BatchNorm2d(channels))
        elif norm == "layer":
            found.append(nn.GroupNorm(1, channels))
        found.append(ACTIVATIONS[activation]())
        if dropout:
            found.append(nn.Dropout(dropout))
        return found

    return modules


def convolution(a: int, b: int, kernel: int, stride: int = 1, *, bias: bool = True) -> nn.Conv2d:
    """From ``a`` to ``b`` channels, to the same size or with stride 2 to half of it."""
    return nn.Conv2d(a, b, odd(kernel), stride, kernel // 2, bias=bias)


def transposed(
    a: int, b: int, kernel: int, to: tuple[int, int] | None = None, *, bias: bool = True
) -> nn.ConvTranspose2d:
    """From ``a`` to ``b`` channels by a transposed convolution: up to the size ``to``, or of the same size.

    With stride 2 a map of size s grows to 2s or, where the target is odd, to 2s − 1.
    """
    stride, extra = (2, (1 - to[0] % 2, 1 - to[1] % 2)) if to else (1, (0, 0))
    return nn.ConvTranspose2d(a, b, odd(kernel), stride, kernel // 2, extra, bias=bias)


def odd(kernel: int) -> int:
    """``kernel``, if it has a middle.

    Raises:
        ConfigError: it is even, or not positive.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise ConfigError("a kernel must have a middle", given=kernel, expected="an odd width: 3, 5, 7 …")
    return kernel


def strides_down(channels: Sequence[int], kernel: int, after: Finish, *, bias: bool = True) -> nn.Sequential:
    """Convolutions of stride 2, each followed by what ``after`` says; ``channels`` begin with the input's."""
    modules: list[nn.Module] = []
    for a, b in pairwise(channels):
        modules += [convolution(a, b, kernel, 2, bias=bias), *after(b)]
    return nn.Sequential(*modules)


def check_groups(groups: Sequence[Sequence[int]]) -> None:
    """Refuse groups of convolutions without a convolution.

    Raises:
        ConfigError: there is no group, or an empty one.
    """
    if not groups or not all(groups):
        raise ConfigError(
            "every group needs at least one convolution",
            given=[list(group) for group in groups],
            expected="lists of channels, as [[16, 16], [32, 32]]",
        )


def groups_down(
    channels: int, groups: Sequence[Sequence[int]], first_kernel: int, after: Finish, *, bias: bool
) -> nn.Sequential:
    """Groups of 3×3 convolutions, the first of each group with stride 2; the very first has a kernel of its own."""
    check_groups(groups)
    modules: list[nn.Module] = []
    for group in groups:
        for i, b in enumerate(group):
            kernel = 3 if modules else first_kernel
            modules += [convolution(channels, b, kernel, 1 if i else 2, bias=bias), *after(b)]
            channels = b
    return nn.Sequential(*modules)


def groups_up(
    channels: int,
    groups: Sequence[Sequence[int]],
    sizes: Sequence[tuple[int, int]],
    after: Finish,
    *,
    bias: bool,
) -> nn.Sequential:
    """The mirror image: groups of transposed 3×3 convolutions, the first of each up to the next of ``sizes``."""
    check_groups(groups)
    modules: list[nn.Module] = []
    for group, size in zip(groups, sizes, strict=True):
        for i, b in enumerate(group):
            modules += [transposed(channels, b, 3, None if i else size, bias=bias), *after(b)]
            channels = b
    return nn.Sequential(*modules)
