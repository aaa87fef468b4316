"""What PixelCNN++ is put together from (Salimans, Karpathy, Chen and Kingma 2017): convolutions that look one way.

Pixels come in raster order, row by row and each row from the left. There are two streams of feature maps:

    above    at (r, c): rows before r alone           convolutions of 2×3: up, and to both sides
    left     at (r, c): also row r before column c    convolutions of 2×2: up, and to the left; takes from above

Instead of masks, the maps are shifted: a kernel of height 2 sees its own row and the one before it, and the image that
a stream starts from is moved down by a row, or right by a column. A step of stride 2 takes a map of size s to ⌈s/2⌉;
place (i, j) of the small map is made at (2i, 2j) of the large one, and serves it and the three places after it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, pad

RESIDUAL_START = 0.1
"""Factor of the weights by which a block adds: a deep network begins near the identity (the authors' code)."""

Conv = Callable[["Shifted", Tensor], Tensor]
"""How a layer is applied: to whole maps, to a row, or to a pixel."""


def concat_elu(x: Tensor) -> Tensor:
    """``elu([x, −x])``: of F channels, on axis 1, it makes 2 F (Shang et al. 2016, with ELU)."""
    return elu(torch.cat([x, -x], 1))


def framed(x: Tensor) -> Tensor:
    """With a channel of ones, by which a network tells a black pixel from none: ``[B, C + 1, H, W]``."""
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)


class Shifted(nn.Conv2d):
    """A convolution whose kernel ends at the place it is for: it sees up and to both sides, or up and to the left.

    Args:
        a: channels that it takes.
        b: channels that it gives.
        kernel: height and width; (1, 1) sees the place alone.
        stride: 1, or 2 for a step down.
        left: whether it sees nothing to the right; else the width is odd.
        bias: whether it has biases.
    """

    def __init__(
        self,
        a: int,
        b: int,
        kernel: tuple[int, int] = (1, 1),
        *,
        stride: int = 1,
        left: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__(a, b, kernel, stride, bias=bias)
        high, wide = kernel
        self.sides = (wide - 1, 0) if left else (wide // 2, wide // 2)
        self.above = high - 1

    def forward(self, x: Tensor) -> Tensor:
        """``[B, a, H, W]`` to ``[B, b, ⌈H/stride⌉, ⌈W/stride⌉]``."""
        return super().forward(pad(x, (*self.sides, self.above, 0)))


class Grown(nn.ConvTranspose2d):
    """A transposed convolution of stride 2: place (i, j) serves none before (2i, 2j); in ``above``, no row before 2i.

    Args:
        filters: channels of both maps.
        size: height and width of the large map.
        left: for the stream of this name; else for the one above.
    """

    def __init__(self, filters: int, size: tuple[int, int], *, left: bool) -> None:
        super().__init__(filters, filters, (2, 2) if left else (2, 3), 2)
        self.size, self.start = size, 0 if left else 1

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """``[B, F, ⌈H/2⌉, ⌈W/2⌉]`` to ``[B, F, H, W]``."""
        return self.cropped(super().forward(x))

    def cropped(self, x: Tensor) -> Tensor:
        """What of rows and columns lies on the large map."""
        height, width = self.size
        return x[..., :height, self.start : self.start + width]


class Gated(nn.Module):
    """A residual block: ``h + a σ(b)`` with ``[a, b] = conv(cELU(conv(cELU(h)) + side + skip))``.

    Args:
        filters: F, its channels.
        left: which stream it belongs to.
        skip: whether it takes a map from the way down, through a 1×1 convolution.
        dropout: probability of dropping a unit between the two convolutions.
    """

    def __init__(self, filters: int, *, left: bool, skip: bool, dropout: float) -> None:
        super().__init__()
        kernel = (2, 2) if left else (2, 3)
        self.first = Shifted(2 * filters, filters, kernel, left=left)
        self.skip = Shifted(2 * filters, filters, bias=False) if skip else None
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.second = Shifted(2 * filters, 2 * filters, kernel, left=left)

    def forward(self, h: Tensor, conv: Conv, side: Tensor | None, skip: Tensor | None) -> Tensor:
        """``h [B, F, …]`` to the same shape, as are ``side``, which is added as it is, and ``skip``."""
        c = conv(self.first, concat_elu(h))
        if side is not None:
            c = c + side
        if skip is not None and self.skip is not None:
            c = c + conv(self.skip, concat_elu(skip))
        a, b = conv(self.second, self.dropout(concat_elu(c))).chunk(2, 1)
        return h + a * torch.sigmoid(b)


def pair(filters: int, *, skip: bool, dropout: float) -> nn.ModuleDict:
    """A block of each stream, and the 1×1 convolution by which the left one takes from the one above."""
    return nn.ModuleDict(
        {
            "above": Gated(filters, left=False, skip=skip, dropout=dropout),
            "side": Shifted(2 * filters, filters, bias=False),
            "left": Gated(filters, left=True, skip=skip, dropout=dropout),
        }
    )


class Run:
    """One passage through a stream, on whole maps; :mod:`advae.networks.incremental_sampling` has those by rows and by pixels.

    Args:
        stream: "above" or "left".
        sides: what the stream above gives the left one, by pair of blocks: filled by the one, read by the other.
    """

    def __init__(self, stream: str, sides: dict[nn.Module, Tensor]) -> None:
        self.stream, self.sides = stream, sides
        self.low: Tensor | None = None

    def conv(self, layer: Shifted, x: Tensor, scale: int) -> Tensor:
        """``layer`` on the map of this scale (0: the image's size, 1: half of it, …)."""
        return layer(x)

    def shrink(self, layer: Shifted, x: Tensor, scale: int) -> Tensor | None:
        """The step down from this scale; None where the small map has no place of its own."""
        return layer(x)

    def keep(self, scale: int, low: Tensor) -> None:
        """Remember what came back from the smaller map."""
        self.low = low

    def grow(self, layer: Grown, scale: int) -> Tensor:
        """The step up to this scale, of what was kept."""
        return layer(self.low)

    def side(self, blocks: nn.ModuleDict, scale: int) -> Tensor | None:
        """What the stream above has for this pair's left block."""
        return self.sides[blocks]

    def block(self, blocks: nn.ModuleDict, h: Tensor, scale: int, skip: Tensor | None = None) -> Tensor:
        """This stream's block of a pair."""

        def conv(layer: Shifted, x: Tensor) -> Tensor:
            return self.conv(layer, x, scale)

        if self.stream == "left":
            return blocks["left"](h, conv, self.side(blocks, scale), skip)
        h = blocks["above"](h, conv, None, skip)
        self.sides[blocks] = self.conv(blocks["side"], concat_elu(h), scale)  # type: ignore[arg-type]
        return h
