"""Sheets of images: every value of the data is one square of whole pixels, never smoothed.

Images are gray or colour levels 0..255, [n, C, H, W]. One channel is drawn in gray, three or more as
red, green and blue (the first three), two as their mean. Gaps between tiles are transparent.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from advae.report.figures.style import DPI, LIGHT, WIDTH, Theme, plain

Pixels = NDArray[np.uint8]
MEASURE = int(WIDTH * DPI)  # pixels across the page
MARGIN = 44  # pixels left of a sheet whose rows have names
LETTER = 16  # pixels of a letter of such a name, on average
TITLE = 44  # pixels above a block that has a title


def columns_for(side: int) -> int:
    """Tiles in a row for images ``side`` pixels wide, so that a tile is large enough to judge."""
    return next((n for limit, n in ((16, 16), (64, 10), (128, 5)) if side <= limit), 4)


def image_grid(images: ArrayLike, *, columns: int | None = None, theme: Theme = LIGHT) -> Figure:
    """A sheet of images [n, C, H, W], row by row."""
    columns = columns or columns_for(np.shape(images)[-1])
    tiles = _tiles(images, columns)
    return _figure(_grid(tiles, columns), theme)


def reconstruction_pairs(
    originals: ArrayLike, reconstructions: ArrayLike, *, columns: int | None = None, theme: Theme = LIGHT
) -> Figure:
    """Originals [n, C, H, W], and under each its reconstruction; pairs fill bands of ``columns``."""
    columns = columns or columns_for(np.shape(originals)[-1])
    return image_pairs(originals, reconstructions, (r"$x$", r"$\hat{x}$"), columns=columns, theme=theme)


def image_pairs(
    uppers: ArrayLike, lowers: ArrayLike, names: tuple[str, str], *, columns: int, theme: Theme = LIGHT
) -> Figure:
    """Images [n, C, H, W], under each its partner; pairs fill bands of ``columns``, whose rows have names."""
    margin = max(MARGIN, *(8 + LETTER * len(name) for name in names if "$" not in name), 0)
    above, below = (_tiles(v, columns, margin) for v in (uppers, lowers))
    gap = _gap(above.shape[2])
    bands, labels, top = [], [], 0
    for start in range(0, len(above), columns):
        rows = (above[start : start + columns], below[start : start + columns])
        band = _stack([_grid(row, columns) for row in rows], gap)
        for row, name in enumerate(names):
            labels.append((8, top + row * (above.shape[1] + gap) + above.shape[1] // 2, name))
        top += len(band) + 4 * gap
        bands.append(band)
    return _figure(_stack(bands, 4 * gap), theme, labels=labels, left=margin)


def interpolation_rows(paths: ArrayLike, ends: ArrayLike | None = None, *, theme: Theme = LIGHT) -> Figure:
    """Decoded paths [r, steps, C, H, W], one a row, between the observations ``ends`` [r, 2, C, H, W]."""
    paths = np.asarray(paths)
    columns = paths.shape[1] + (2 if ends is not None else 0)
    rows = []
    for i, path in enumerate(paths):
        tiles = _tiles(path, columns, 60)
        row = _grid(tiles, len(tiles))
        if ends is not None:
            first, last = _tiles(np.asarray(ends)[i], columns, 60)
            row = _beside([first, row, last], 4 * _gap(tiles.shape[2]))
        rows.append(row)
    return _figure(_stack(rows, _gap(tiles.shape[2])), theme)


def sheets_beside(sheets: Mapping[str, ArrayLike], *, theme: Theme = LIGHT) -> Figure:
    """A square block of the first images [n, C, H, W] of each name, the name above, three blocks a row."""
    across = min(len(sheets), 3)
    width = (MEASURE - 40 * (across - 1)) // across
    blocks = []
    for images in sheets.values():
        columns = max(2, 2 * columns_for(np.shape(images)[-1]) // (across + 1))
        tiles = _tiles(images, columns, MEASURE - width)
        full = len(tiles) // columns or 1  # rows, so that a block is a rectangle
        block = _grid(tiles[: columns * min(columns, full)], columns)
        blocks.append(_padded(block, width, top=TITLE))
    names, labels, bands, top = list(sheets), [], [], 0
    for start in range(0, len(blocks), across):
        band = _beside(blocks[start : start + across], 40)
        for i, name in enumerate(names[start : start + across]):
            labels.append((i * (width + 40), top + TITLE // 2, plain(name)))
        bands.append(_padded(band, MEASURE))
        top += len(band) + 40
    return _figure(_stack(bands, 40), theme, labels=labels)


def as_colours(images: ArrayLike) -> Pixels:
    """Images [n, C, H, W] as red, green and blue [n, H, W, 3]."""
    levels = np.nan_to_num(np.asarray(images, dtype=np.float64), nan=0.0)
    levels = levels[:, :3] if levels.shape[1] >= 3 else levels.mean(axis=1, keepdims=True).repeat(3, axis=1)
    return levels.clip(0, 255).round().astype(np.uint8).transpose(0, 2, 3, 1)


def _tiles(images: ArrayLike, columns: int, margin: int = 0) -> Pixels:
    """Images [n, C, H, W] as opaque tiles [n, h, w, 4], enlarged by the whole factor that fills a row."""
    colour = as_colours(images)
    opaque = np.full((*colour.shape[:3], 1), 255, dtype=np.uint8)
    factor = _factor(colour.shape[2], columns, MEASURE - margin)
    return np.concatenate([colour, opaque], axis=-1).repeat(factor, axis=1).repeat(factor, axis=2)


def _factor(side: int, columns: int, width: int) -> int:
    """The largest factor that fits; even where it is large: the page shows two pixels as one."""
    fits = [
        f for f in range(1, width // side + 1) if columns * f * side + (columns - 1) * _gap(f * side) <= width
    ]
    factor = max(fits, default=1)
    return factor - factor % 2 if factor > 3 else factor


def _gap(side: int) -> int:
    # Small digits fill their frames: with a narrow gap strokes of one would run into the next.
    return max(2, 2 * round(side / 20))


def _grid(tiles: Pixels, columns: int) -> Pixels:
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    return _stack([_beside(list(row), _gap(tiles.shape[2])) for row in rows], _gap(tiles.shape[2]))


def _beside(parts: list[Pixels], gap: int) -> Pixels:
    """Parts in a row, tops aligned, on a transparent sheet."""
    height = max(len(part) for part in parts)
    sheet = np.zeros((height, sum(p.shape[1] for p in parts) + gap * (len(parts) - 1), 4), dtype=np.uint8)
    left = 0
    for part in parts:
        sheet[: len(part), left : left + part.shape[1]] = part
        left += part.shape[1] + gap
    return sheet


def _stack(parts: list[Pixels], gap: int) -> Pixels:
    """Parts in a column, left sides aligned."""
    return _beside([part.transpose(1, 0, 2) for part in parts], gap).transpose(1, 0, 2)


def _padded(part: Pixels, width: int, top: int = 0) -> Pixels:
    return np.pad(part, ((top, 0), (0, max(0, width - part.shape[1])), (0, 0)))


def _figure(
    sheet: Pixels, theme: Theme, *, labels: list[tuple[int, int, str]] | None = None, left: int = 0
) -> Figure:
    """The sheet as a figure of exactly its pixels; ``labels`` are (x, y, text), y from the top."""
    height, width = sheet.shape[0], sheet.shape[1] + left
    # A thousandth of a pixel more, for the canvas rounds its size down.
    figure = Figure(figsize=((width + 1e-3) / DPI, (height + 1e-3) / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    with theme.context():
        figure.figimage(sheet, xo=left, yo=0, origin="upper")
        for x, y, text in labels or []:
            figure.text(x / width, 1 - y / height, text, va="center", ha="left", fontsize=10, color=theme.ink)
    return figure
