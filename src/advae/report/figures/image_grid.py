"""Grids of images as figures: samples, pairs, interpolations, and one grid per run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from advae.report.figures.style import DPI, LIGHT, WIDTH, Theme, escape_mathtext
from advae.tiling import Pixels, make_tiles, stack_horizontally, stack_vertically, tile_gap, tile_grid

# Lengths in pixels of the PNG.
GRID_WIDTH = int(WIDTH * DPI)
MIN_LABEL_MARGIN = 44  # on the left of rows with labels
LETTER_WIDTH = 16  # average, of such a label
TITLE_HEIGHT = 44
BLOCK_GAP = 40
ENDPOINT_MARGIN = 60  # room for the gaps next to the endpoints of an interpolation
MAX_BLOCKS_PER_ROW = 3
NUM_COLUMNS = {16: 16, 64: 10, 128: 5}  # by the largest image width for which tiles remain readable
MIN_COLUMNS = 4


def num_columns(image_width: int) -> int:
    """Return how many tiles of this width fit into a row at a readable size."""
    return next((n for limit, n in NUM_COLUMNS.items() if image_width <= limit), MIN_COLUMNS)


def image_grid(images: ArrayLike, *, columns: int | None = None, theme: Theme = LIGHT) -> Figure:
    """Plot images ``[n, C, H, W]`` row by row."""
    columns = columns or num_columns(np.shape(images)[-1])
    return _figure(tile_grid(make_tiles(images, columns, GRID_WIDTH), columns), theme)


def reconstruction_pairs(
    originals: ArrayLike, reconstructions: ArrayLike, *, columns: int | None = None, theme: Theme = LIGHT
) -> Figure:
    """Plot originals ``[n, C, H, W]`` with their reconstructions below."""
    columns = columns or num_columns(np.shape(originals)[-1])
    return image_pairs(originals, reconstructions, (r"$x$", r"$\hat{x}$"), columns=columns, theme=theme)


def image_pairs(
    upper: ArrayLike, lower: ArrayLike, labels: tuple[str, str], *, columns: int, theme: Theme = LIGHT
) -> Figure:
    """Plot images ``[n, C, H, W]`` with their partners below, in bands of two labeled rows."""
    margin = max(MIN_LABEL_MARGIN, *(8 + LETTER_WIDTH * len(text) for text in labels if "$" not in text), 0)
    upper_tiles, lower_tiles = (make_tiles(v, columns, GRID_WIDTH - margin) for v in (upper, lower))
    tile_height, gap = upper_tiles.shape[1], tile_gap(upper_tiles.shape[2])
    bands, texts, top = [], [], 0
    for start in range(0, len(upper_tiles), columns):
        rows = [tiles[start : start + columns] for tiles in (upper_tiles, lower_tiles)]
        bands.append(stack_vertically([tile_grid(row, columns) for row in rows], gap))
        texts += [
            (8, top + row * (tile_height + gap) + tile_height // 2, text) for row, text in enumerate(labels)
        ]
        top += len(bands[-1]) + 4 * gap
    return _figure(stack_vertically(bands, 4 * gap), theme, texts=texts, left=margin)


def interpolation_rows(
    paths: ArrayLike, endpoints: ArrayLike | None = None, *, theme: Theme = LIGHT
) -> Figure:
    """Plot decoded paths ``[r, steps, C, H, W]``, one per row, between observations ``[r, 2, C, H, W]``."""
    paths = np.asarray(paths)
    columns, width = paths.shape[1] + (0 if endpoints is None else 2), GRID_WIDTH - ENDPOINT_MARGIN
    rows, gap = [], 0
    for i, path in enumerate(paths):
        tiles = make_tiles(path, columns, width)
        gap = tile_gap(tiles.shape[2])
        row = tile_grid(tiles, len(tiles))
        if endpoints is not None:
            first, last = make_tiles(np.asarray(endpoints)[i], columns, width)
            row = stack_horizontally([first, row, last], 4 * gap)
        rows.append(row)
    return _figure(stack_vertically(rows, gap), theme)


def labeled_grids(grids: Mapping[str, ArrayLike], *, theme: Theme = LIGHT) -> Figure:
    """Plot a block of the first images ``[n, C, H, W]`` of each name, three blocks per row."""
    per_row = min(len(grids), MAX_BLOCKS_PER_ROW)
    width = (GRID_WIDTH - BLOCK_GAP * (per_row - 1)) // per_row
    blocks = []
    for images in grids.values():
        columns = max(2, 2 * num_columns(np.shape(images)[-1]) // (per_row + 1))
        tiles = make_tiles(images, columns, width)
        full_rows = len(tiles) // columns or 1  # so that a block is a rectangle
        blocks.append(
            _pad(tile_grid(tiles[: columns * min(columns, full_rows)], columns), width, TITLE_HEIGHT)
        )
    names, bands, texts, top = list(grids), [], [], 0
    for start in range(0, len(blocks), per_row):
        bands.append(_pad(stack_horizontally(blocks[start : start + per_row], BLOCK_GAP), GRID_WIDTH))
        for i, name in enumerate(names[start : start + per_row]):
            texts.append((i * (width + BLOCK_GAP), top + TITLE_HEIGHT // 2, escape_mathtext(name)))
        top += len(bands[-1]) + BLOCK_GAP
    return _figure(stack_vertically(bands, BLOCK_GAP), theme, texts=texts)


def _pad(part: Pixels, width: int, top: int = 0) -> Pixels:
    return np.pad(part, ((top, 0), (0, max(0, width - part.shape[1])), (0, 0)))


def _figure(
    pixels: Pixels, theme: Theme, *, texts: list[tuple[int, int, str]] | None = None, left: int = 0
) -> Figure:
    """Return pixels as a figure of exactly that size; ``texts`` are (x, y, text), with y from the top."""
    height, width = pixels.shape[0], pixels.shape[1] + left
    # A thousandth of a pixel more, because the canvas rounds its size down.
    figure = Figure(figsize=((width + 1e-3) / DPI, (height + 1e-3) / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    with theme.context():
        figure.figimage(pixels, xo=left, yo=0, origin="upper")
        for x, y, text in texts or []:
            figure.text(
                x / width, 1 - y / height, text, va="center", ha="left", fontsize=10, color=theme.foreground
            )
    return figure
