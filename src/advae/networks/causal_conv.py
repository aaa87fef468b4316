"""Causal convolutions and gated residual blocks of PixelCNN++ (Salimans, Karpathy, Chen and Kingma 2017).

Pixels come in raster order, row by row and each row from the left. There are two streams of feature maps:

    down         at (r, c): rows before r only               convolutions of 2×3: up, and to both sides
    down-right   at (r, c): also row r before column c       convolutions of 2×2: up, and to the left; input from down

Instead of masks, the maps are shifted: a kernel of height 2 covers its own row and the one before it, and the image at
the start of a stream is moved down by a row, or right by a column. A convolution of stride 2 maps size s to ⌈s/2⌉:
position (i, j) of the small map is computed at (2i, 2j) of the large one, and serves it and the three positions after.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, pad

RESIDUAL_INIT_FACTOR = 0.1  # of the last weights of a block, which starts near the identity (authors' code)

ConvFn = Callable[["ShiftedConv2d", Tensor], Tensor]
"""Application of a layer to whole maps, to a row, or to a pixel."""


def concat_elu(x: Tensor) -> Tensor:
    """Return ``elu([x, −x])``, with 2 F channels for F (Shang et al. 2016, with ELU)."""
    return elu(torch.cat([x, -x], 1))


def append_ones(x: Tensor) -> Tensor:
    """Append a channel of ones, which distinguishes a black pixel from padding: ``[B, C + 1, H, W]``."""
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)


class ShiftedConv2d(nn.Conv2d):
    """A convolution from ``a`` to ``b`` channels whose kernel ends at its own position.

    It covers up and to both sides (its width is then odd) or, with ``down_right``, up and to the left.
    """

    def __init__(
        self,
        a: int,
        b: int,
        kernel_size: tuple[int, int] = (1, 1),
        *,
        stride: int = 1,
        down_right: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__(a, b, kernel_size, stride, bias=bias)
        height, width = kernel_size
        self.pad_sides = (width - 1, 0) if down_right else (width // 2, width // 2)
        self.pad_top = height - 1

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, a, H, W]`` to ``[B, b, ⌈H/stride⌉, ⌈W/stride⌉]``."""
        return super().forward(pad(x, (*self.pad_sides, self.pad_top, 0)))


class ShiftedConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution of stride 2 to a map of this size.

    Position (i, j) affects no row before 2i (down) or no position before (2i, 2j) (down-right).
    """

    def __init__(self, channels: int, size: tuple[int, int], *, down_right: bool) -> None:
        super().__init__(channels, channels, (2, 2) if down_right else (2, 3), 2)
        self.size, self.first_column = size, 0 if down_right else 1

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Map ``[B, F, ⌈H/2⌉, ⌈W/2⌉]`` to ``[B, F, H, W]``."""
        return self.crop(super().forward(x))

    def crop(self, x: Tensor) -> Tensor:
        """Return the rows and columns that are on the large map."""
        height, width = self.size
        return x[..., :height, self.first_column : self.first_column + width]


class GatedBlock(nn.Module):
    """A gated residual block of a stream: ``h + a σ(b)`` with ``[a, b] = conv(cELU(conv(cELU(h)) + side + skip))``.

    With ``skip`` it has a connection from the contracting path, through a 1×1 convolution.
    """

    def __init__(self, channels: int, *, down_right: bool, skip: bool, dropout: float) -> None:
        super().__init__()
        kernel_size = (2, 2) if down_right else (2, 3)
        self.first = ShiftedConv2d(2 * channels, channels, kernel_size, down_right=down_right)
        self.skip = ShiftedConv2d(2 * channels, channels, bias=False) if skip else None
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.second = ShiftedConv2d(2 * channels, 2 * channels, kernel_size, down_right=down_right)

    def forward(self, h: Tensor, conv: ConvFn, side: Tensor | None, skip: Tensor | None) -> Tensor:
        """Map ``h [B, F, …]`` to the same shape; ``side`` and ``skip`` have that shape, too."""
        c = conv(self.first, concat_elu(h))
        if side is not None:
            c = c + side
        if skip is not None and self.skip is not None:
            c = c + conv(self.skip, concat_elu(skip))
        a, b = conv(self.second, self.dropout(concat_elu(c))).chunk(2, 1)
        return h + a * torch.sigmoid(b)


def block_pair(channels: int, *, skip: bool, dropout: float) -> nn.ModuleDict:
    """Return a block of each stream, and the 1×1 convolution from the down stream to the down-right one."""
    return nn.ModuleDict(
        {
            "down": GatedBlock(channels, down_right=False, skip=skip, dropout=dropout),
            "side": ShiftedConv2d(2 * channels, channels, bias=False),
            "down_right": GatedBlock(channels, down_right=True, skip=skip, dropout=dropout),
        }
    )


class StreamPass:
    """One pass through a stream, "down" or "down_right", on whole maps.

    The down stream writes ``sides``, by pair of blocks, and the down-right stream reads them.
    :mod:`advae.networks.incremental_sampling` has passes by rows and by pixels.
    """

    def __init__(self, stream: str, sides: dict[nn.Module, Tensor]) -> None:
        self.stream, self.sides = stream, sides
        self.low: Tensor | None = None

    def conv(self, layer: ShiftedConv2d, x: Tensor, scale: int) -> Tensor:
        """Apply ``layer`` to the map of this scale (0: the image's size, 1: half of it, …)."""
        return layer(x)

    def downsample(self, layer: ShiftedConv2d, x: Tensor, scale: int) -> Tensor | None:
        """Downsample from this scale; None where the small map has no position of its own."""
        return layer(x)

    def store(self, scale: int, low: Tensor) -> None:
        """Store the output of the smaller map."""
        self.low = low

    def upsample(self, layer: ShiftedConvTranspose2d, scale: int) -> Tensor:
        """Upsample what was stored to this scale."""
        return layer(self.low)

    def side(self, blocks: nn.ModuleDict, scale: int) -> Tensor:
        """Return the input of this pair's down-right block from the down stream."""
        return self.sides[blocks]

    def block(self, blocks: nn.ModuleDict, h: Tensor, scale: int, skip: Tensor | None = None) -> Tensor:
        """Apply this stream's block of a pair."""

        def conv(layer: ShiftedConv2d, x: Tensor) -> Tensor:
            return self.conv(layer, x, scale)

        if self.stream == "down_right":
            return blocks["down_right"](h, conv, self.side(blocks, scale), skip)
        h = blocks["down"](h, conv, None, skip)
        self.sides[blocks] = self.conv(blocks["side"], concat_elu(h), scale)  # type: ignore[arg-type]
        return h
