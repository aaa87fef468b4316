"""Image grids: exact pixels and positions."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from advae.report.figures.image_grid import (
    MIN_LABEL_MARGIN,
    image_grid,
    interpolation_rows,
    num_columns,
    reconstruction_pairs,
)
from advae.report.figures.style import to_png
from advae.tiling import tile_gap

RNG = np.random.default_rng(0)


def pixels(figure: Figure) -> np.ndarray:
    """Return the rendered figure ``[h, w, 4]``."""
    return np.asarray(Image.open(io.BytesIO(to_png(figure, transparent=True))).convert("RGBA"))


@pytest.mark.parametrize(("side", "channels", "factor"), [(8, 1, 10), (28, 1, 4), (28, 3, 4), (64, 3, 2)])
def test_every_value_is_a_square_of_its_level(side: int, channels: int, factor: int) -> None:
    images = RNG.integers(0, 256, (23, channels, side, side))
    columns = num_columns(side)
    rendered = pixels(image_grid(images))
    pitch = side * factor + tile_gap(side * factor)
    assert rendered.shape[1] == columns * pitch - tile_gap(side * factor)
    for i in (0, columns - 1, columns, 22):
        top, left = i // columns * pitch, i % columns * pitch
        tile = rendered[top : top + side * factor, left : left + side * factor]
        squares = tile.reshape(side, factor, side, factor, 4)
        expected = np.broadcast_to(images[i].transpose(1, 2, 0), (side, side, 3))
        assert (squares[..., :3] == expected[:, None, :, None]).all()
        assert (tile[..., 3] == 255).all()
    assert rendered[0, side * factor, 3] == 0  # gaps are transparent


def test_levels_out_of_range_or_not_finite_are_clipped() -> None:
    images = np.full((1, 1, 2, 2), np.nan)
    images[0, 0, 0] = (-40, 300)
    rendered = pixels(image_grid(images, columns=1))
    assert rendered[0, 0, 0] == 0
    assert rendered[0, -1, 0] == 255
    assert rendered[-1, 0, 0] == 0


def test_each_reconstruction_is_below_its_original() -> None:
    originals, back = np.full((3, 1, 8, 8), 10.0), np.full((3, 1, 8, 8), 200.0)
    rendered = pixels(reconstruction_pairs(originals, back, columns=3))
    column = rendered[:, MIN_LABEL_MARGIN + 5]
    assert column[5, 0] == 10
    assert column[-5, 0] == 200


def test_interpolations_are_between_their_endpoints() -> None:
    paths, endpoints = np.full((2, 6, 1, 8, 8), 90.0), np.zeros((2, 2, 1, 8, 8))
    endpoints[:, 0], endpoints[:, 1] = 20, 220
    row = pixels(interpolation_rows(paths, endpoints))[3]
    levels = [int(p[0]) for p, q in zip(row[1:], row, strict=False) if p[3] and p[0] != q[0]]
    assert [row[0, 0], *dict.fromkeys(levels)] == [20, 90, 220]
