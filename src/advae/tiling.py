"""Images tiled into one array or PNG.

Images are gray or color levels 0..255, ``[n, C, H, W]``: one channel is shown in gray, three or more as red, green
and blue (the first three), two as their mean. Every value becomes a square of whole pixels, without smoothing. Gaps
are transparent.
"""

from __future__ import annotations

import io
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
DEFAULT_WIDTH = 640  # pixels of a grid that is written to a file
MIN_GAP = 2  # pixels between tiles
GAPS_PER_TILE = 10  # a narrower gap would let strokes of neighboring digits run into each other


def grid_png(images: ArrayLike, *, width: int = DEFAULT_WIDTH) -> bytes:
    """Return images as one nearly square PNG, at most ``width`` pixels wide unless single pixels need more."""
    columns = math.ceil(math.sqrt(np.shape(images)[0]))
    buffer = io.BytesIO()
    Image.fromarray(tile_grid(make_tiles(images, columns, width), columns)).save(buffer, "PNG")
    return buffer.getvalue()


def make_tiles(images: ArrayLike, columns: int, width: int) -> Pixels:
    """Return opaque tiles ``[n, h, w, 4]``, enlarged by the largest whole factor for which ``columns`` fit."""
    rgb = to_rgb(images)
    opaque = np.full((*rgb.shape[:3], 1), 255, dtype=np.uint8)
    factor = _scale_factor(rgb.shape[2], columns, width)
    return np.concatenate([rgb, opaque], axis=-1).repeat(factor, axis=1).repeat(factor, axis=2)


def to_rgb(images: ArrayLike) -> Pixels:
    """Return images ``[n, C, H, W]`` as ``[n, H, W, 3]``; values are clipped, and NaN is black."""
    levels = np.nan_to_num(np.asarray(images, dtype=np.float64), nan=0.0)
    levels = levels[:, :3] if levels.shape[1] >= 3 else levels.mean(axis=1, keepdims=True).repeat(3, axis=1)
    return levels.clip(0, 255).round().astype(np.uint8).transpose(0, 2, 3, 1)


def tile_grid(tiles: Pixels, columns: int) -> Pixels:
    """Return tiles ``[n, h, w, 4]`` row by row as one array."""
    gap = tile_gap(tiles.shape[2])
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    return stack_vertically([stack_horizontally(list(row), gap) for row in rows], gap)


def stack_horizontally(parts: list[Pixels], gap: int) -> Pixels:
    """Return arrays ``[h, w, 4]`` next to each other, aligned at the top."""
    width = sum(part.shape[1] for part in parts) + gap * (len(parts) - 1)
    result = np.zeros((max(len(part) for part in parts), width, 4), dtype=np.uint8)
    left = 0
    for part in parts:
        result[: len(part), left : left + part.shape[1]] = part
        left += part.shape[1] + gap
    return result


def stack_vertically(parts: list[Pixels], gap: int) -> Pixels:
    """Return arrays ``[h, w, 4]`` below each other, aligned on the left."""
    return stack_horizontally([part.transpose(1, 0, 2) for part in parts], gap).transpose(1, 0, 2)


def tile_gap(tile_width: int) -> int:
    """Return the gap between tiles in pixels, an even number."""
    return max(MIN_GAP, 2 * round(tile_width / GAPS_PER_TILE / 2))


def _scale_factor(image_width: int, columns: int, width: int) -> int:
    """Return the largest factor that fits, even if it is large: a page shows two pixels as one."""
    fitting = [
        factor
        for factor in range(1, width // image_width + 1)
        if columns * factor * image_width + (columns - 1) * tile_gap(factor * image_width) <= width
    ]
    factor = max(fitting, default=1)
    return factor - factor % 2 if factor > 3 else factor
