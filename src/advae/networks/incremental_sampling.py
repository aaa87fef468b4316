"""Fast sampling from PixelCNN++ by caching (Ramachandran et al. 2017): each pixel computes only what it changes.

The down stream depends on finished rows only, so it runs once per row, at the row's start. The down-right stream runs
once per pixel. A convolution needs two rows of its input, so it caches them:

    row r         down        at scale s (maps of 1/2ˢ the size) if 2ˢ divides r; upsampling reuses the small row r/2
    pixel (r, c)  down-right  at scale s if 2ˢ divides r and c; upsampling reuses the small position (r/2, c/2)

Every number of every map is computed once, so an image takes the arithmetic of one pass, in H·W short steps. The code
that traverses whole maps also traverses rows and pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, elu, linear, pad

from advae.networks.causal_conv import ShiftedConv2d, ShiftedConvTranspose2d, StreamPass, append_ones


class RowPass(StreamPass):
    """The down stream, one row at a time: maps are ``[n, F, 1, W]``."""

    def __init__(self, sides: dict[nn.Module, Tensor]) -> None:
        super().__init__("down", sides)
        self.row = 0
        self.previous_rows: dict[nn.Module, Tensor] = {}  # of each layer's input
        self.lows: dict[int, Tensor] = {}

    def conv(self, layer: ShiftedConv2d, x: Tensor, scale: int) -> Tensor:
        if layer.pad_top:
            previous = self.previous_rows.get(layer, torch.zeros_like(x))
            x, self.previous_rows[layer] = torch.cat([previous, x], 2), x
        return conv2d(pad(x, layer.pad_sides), layer.weight, layer.bias, layer.stride)

    def downsample(self, layer: ShiftedConv2d, x: Tensor, scale: int) -> Tensor | None:
        if (self.row >> scale) % 2 == 0:
            return self.conv(layer, x, scale)
        self.previous_rows[layer] = x
        return None

    def store(self, scale: int, low: Tensor) -> None:
        self.lows[scale] = low

    def upsample(self, layer: ShiftedConvTranspose2d, scale: int) -> Tensor:
        kernel_row = (self.row >> scale) % 2
        weight = layer.weight[:, :, kernel_row : kernel_row + 1]
        return layer.crop(conv_transpose2d(self.lows[scale], weight, layer.bias, stride=(1, 2)))


class PixelPass(StreamPass):
    """The down-right stream, one pixel at a time: maps are ``[n, F]``.

    A layer's two rows are cached as ``[n, W + margin, 2, F]``, so that what its kernel covers is contiguous.
    """

    def __init__(self, sides: dict[nn.Module, Tensor], width: int) -> None:
        super().__init__("down_right", sides)
        self.row, self.column, self.width = 0, 0, width
        self.rows: dict[nn.Module, Tensor] = {}
        # The weights of each layer, [b, kernel · a], in the order of the cached rows.
        self.weights: dict[nn.Module, Tensor] = {}
        self.lows: dict[tuple[int, int], Tensor] = {}

    def conv(self, layer: ShiftedConv2d, x: Tensor, scale: int) -> Tensor:
        window = self.window(layer, x, scale) if layer.pad_top else x
        if layer not in self.weights:
            self.weights[layer] = layer.weight.permute(0, 3, 2, 1).flatten(1)
        return linear(window, self.weights[layer], layer.bias)

    def window(self, layer: ShiftedConv2d, x: Tensor, scale: int) -> Tensor:
        """Add ``x [n, a]`` to the cache and return what the kernel covers at this position, ``[n, kernel · a]``."""
        margin, column = layer.pad_sides[0], self.column >> scale
        if layer not in self.rows:
            width = (self.width - 1 >> scale) + 1
            self.rows[layer] = x.new_zeros(len(x), width + margin, 2, x.shape[1])
        rows = self.rows[layer]
        if column == 0:
            rows[:, :, 0] = rows[:, :, 1]
        rows[:, column + margin, 1] = x
        return rows[:, column : column + margin + 1].flatten(1)

    def downsample(self, layer: ShiftedConv2d, x: Tensor, scale: int) -> Tensor | None:
        if (self.row >> scale) % 2 == 0 and (self.column >> scale) % 2 == 0:
            return self.conv(layer, x, scale)
        self.window(layer, x, scale)
        return None

    def store(self, scale: int, low: Tensor) -> None:
        self.lows[scale, self.column >> scale + 1] = low

    def upsample(self, layer: ShiftedConvTranspose2d, scale: int) -> Tensor:
        weight = layer.weight[:, :, (self.row >> scale) % 2, (self.column >> scale) % 2]
        return linear(self.lows[scale, self.column >> scale + 1], weight.T, layer.bias)

    def side(self, blocks: nn.ModuleDict, scale: int) -> Tensor:
        return self.sides[blocks][:, :, 0, self.column >> scale]


class IncrementalSampler:
    """State of sampling ``n`` images by a :class:`~advae.networks.pixelcnn.PixelCNN`.

    Call :meth:`pixel_params` and :meth:`set_pixel` in turn, for every pixel in raster order.
    """

    def __init__(self, network: Any, n: int, like: Tensor) -> None:
        self.network = network
        self.image = like.new_zeros(n, *network.image_shape)
        sides: dict[nn.Module, Tensor] = {}
        self.row_pass, self.pixel_pass = RowPass(sides), PixelPass(sides, self.image.shape[-1])

    def pixel_params(self, row: int, column: int) -> Tensor:
        """Return the network's output for the next pixel, ``[n, k, C]``."""
        net, pixels = self.network, self.pixel_pass
        if column == 0:
            self._start_row(row)
        pixels.row, pixels.column = row, column
        left_pixel = self.image[:, :, row : row + 1, column - 1 : column]
        left = (append_ones(left_pixel) if column else self._padding(1))[:, :, 0, 0]
        h = self._row_start[:, :, 0, column] + pixels.conv(net.start["down_right"], left, 0)
        out = pixels.conv(net.out, elu(net.traverse(pixels, h)), 0)
        return out.unflatten(1, net.out_shape[:-2])

    def set_pixel(self, row: int, column: int, pixel: Tensor) -> None:
        """Set the pixel ``[n, C]`` that :meth:`pixel_params` was called for."""
        self.image[:, :, row, column] = pixel

    def _start_row(self, row: int) -> None:
        """Run the down stream for this row."""
        net, rows = self.network, self.row_pass
        rows.row = row
        above = append_ones(self.image[:, :, row - 1 : row]) if row else self._padding(self.image.shape[-1])
        self._row_start = rows.conv(net.start["row"], above, 0)
        net.traverse(rows, rows.conv(net.start["down"], above, 0))

    def _padding(self, width: int) -> Tensor:
        """Return the network's input outside of the image, ``[n, C + 1, 1, width]``."""
        return self.image.new_zeros(len(self.image), self.image.shape[1] + 1, 1, width)
