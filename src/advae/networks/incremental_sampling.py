"""Generation pixel by pixel, in which each pixel computes only what it changes (Ramachandran et al. 2017).

The stream above depends on finished rows alone: it is run a row at a time, at the row's beginning. The left stream is
run a pixel at a time. A convolution needs two rows of what it takes, so it keeps them:

    row r        above: at scale s (maps of 1/2ˢ the size) where 2ˢ divides r; a step up reuses the small map's row r/2
    pixel (r, c) left:  at scale s where 2ˢ divides r and c;                   a step up reuses the place (r/2, c/2)

Every number of every map is computed once, so an image costs the arithmetic of one pass, in H·W short steps. The one
after another: rows and pixels are walked through by the same code that runs whole maps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, elu, linear, pad

from advae.networks.causal_conv import Grown, Run, Shifted, framed


class Rows(Run):
    """The stream above, a row at a time: maps are ``[n, F, 1, W]``."""

    def __init__(self, sides: dict[nn.Module, Tensor]) -> None:
        super().__init__("above", sides)
        self.row = 0
        self.before: dict[nn.Module, Tensor] = {}  # the row before, of what each layer takes
        self.lows: dict[int, Tensor] = {}

    def conv(self, layer: Shifted, x: Tensor, scale: int) -> Tensor:
        if layer.above:
            x, self.before[layer] = torch.cat([self.before.get(layer, torch.zeros_like(x)), x], 2), x
        return conv2d(pad(x, layer.sides), layer.weight, layer.bias, layer.stride)

    def shrink(self, layer: Shifted, x: Tensor, scale: int) -> Tensor | None:
        if (self.row >> scale) % 2 == 0:
            return self.conv(layer, x, scale)
        self.before[layer] = x
        return None

    def keep(self, scale: int, low: Tensor) -> None:
        self.lows[scale] = low

    def grow(self, layer: Grown, scale: int) -> Tensor:
        part = (self.row >> scale) % 2
        weight = layer.weight[:, :, part : part + 1]
        return layer.cropped(conv_transpose2d(self.lows[scale], weight, layer.bias, stride=(1, 2)))


class Pixels(Run):
    """The left stream, a pixel at a time: maps are ``[n, F]``.

    A layer's two rows are kept as ``[n, W + margin, 2, F]``, so that what its kernel covers lies in one piece.
    """

    def __init__(self, sides: dict[nn.Module, Tensor], width: int) -> None:
        super().__init__("left", sides)
        self.row, self.column, self.width = 0, 0, width
        self.rows: dict[nn.Module, Tensor] = {}
        self.weights: dict[
            nn.Module, Tensor
        ] = {}  # of each layer, [b, kernel · a] in the order of the kept rows
        self.lows: dict[tuple[int, int], Tensor] = {}

    def conv(self, layer: Shifted, x: Tensor, scale: int) -> Tensor:
        covered = self.covered(layer, x, scale) if layer.above else x
        if layer not in self.weights:
            self.weights[layer] = layer.weight.permute(0, 3, 2, 1).flatten(1)
        return linear(covered, self.weights[layer], layer.bias)

    def covered(self, layer: Shifted, x: Tensor, scale: int) -> Tensor:
        """What the kernel covers at this place, ``[n, kernel · a]``, with ``x [n, a]`` as the newest."""
        margin, column = layer.sides[0], self.column >> scale
        if layer not in self.rows:
            width = (self.width - 1 >> scale) + 1
            self.rows[layer] = x.new_zeros(len(x), width + margin, 2, x.shape[1])
        rows = self.rows[layer]
        if column == 0:
            rows[:, :, 0] = rows[:, :, 1]
        rows[:, column + margin, 1] = x
        return rows[:, column : column + margin + 1].flatten(1)

    def shrink(self, layer: Shifted, x: Tensor, scale: int) -> Tensor | None:
        if (self.row >> scale) % 2 == 0 and (self.column >> scale) % 2 == 0:
            return self.conv(layer, x, scale)
        self.covered(layer, x, scale)
        return None

    def keep(self, scale: int, low: Tensor) -> None:
        self.lows[scale, self.column >> scale + 1] = low

    def grow(self, layer: Grown, scale: int) -> Tensor:
        weight = layer.weight[:, :, (self.row >> scale) % 2, (self.column >> scale) % 2]
        return linear(self.lows[scale, self.column >> scale + 1], weight.T, layer.bias)

    def side(self, blocks: nn.ModuleDict, scale: int) -> Tensor | None:
        return self.sides[blocks][:, :, 0, self.column >> scale]


class Generation:
    """``n`` images under way. Call :meth:`raw` and :meth:`put` in turn, for every pixel in raster order.

    Args:
        network: a :class:`~advae.networks.pixelcnn.PixelCNN`.
        n: how many images.
        like: a tensor of the device and precision to work in.
    """

    def __init__(self, network: Any, n: int, like: Tensor) -> None:
        self.network = network
        self.image = like.new_zeros(n, *network.image_shape)
        sides: dict[nn.Module, Tensor] = {}
        self.rows, self.pixels = Rows(sides), Pixels(sides, self.image.shape[-1])

    def raw(self, row: int, column: int) -> Tensor:
        """The network's numbers for the next pixel, ``[n, k, C]``."""
        net, pixels = self.network, self.pixels
        if column == 0:
            self._begin(row)
        pixels.row, pixels.column = row, column
        before = self.image[:, :, row : row + 1, column - 1 : column]
        beside = (framed(before) if column else self._outside(1))[:, :, 0, 0]
        h = self._start[:, :, 0, column] + pixels.conv(net.start["left"], beside, 0)
        return pixels.conv(net.out, elu(net.walk(pixels, h)), 0).unflatten(1, net.out_shape[:-2])

    def put(self, row: int, column: int, pixel: Tensor) -> None:
        """Set the pixel ``[n, C]`` that :meth:`raw` was for."""
        self.image[:, :, row, column] = pixel

    def _begin(self, row: int) -> None:
        """Run the stream above for this row."""
        net, rows = self.network, self.rows
        rows.row = row
        before = framed(self.image[:, :, row - 1 : row]) if row else self._outside(self.image.shape[-1])
        self._start = rows.conv(net.start["row"], before, 0)
        net.walk(rows, rows.conv(net.start["above"], before, 0))

    def _outside(self, width: int) -> Tensor:
        """What a network sees where there is no image, ``[n, C + 1, 1, width]``."""
        return self.image.new_zeros(len(self.image), self.image.shape[1] + 1, 1, width)
