"""Figures: pixels exact, sizes known, quantities found, and no global state touched."""

from __future__ import annotations

import io
import math

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from advae.report.figures import curves, vectors
from advae.report.figures import image_grid as sheets
from advae.report.figures import latents as figures
from advae.report.figures import style as base

RNG = np.random.default_rng(0)


def pixels(figure: Figure) -> np.ndarray:
    """The rendered figure [h, w, 4]."""
    return np.asarray(Image.open(io.BytesIO(base.png(figure, transparent=True))).convert("RGBA"))


@pytest.mark.parametrize(("side", "channels", "factor"), [(8, 1, 10), (28, 1, 4), (28, 3, 4), (64, 3, 2)])
def test_every_value_is_one_square_of_exactly_its_level(side: int, channels: int, factor: int) -> None:
    images = RNG.integers(0, 256, (23, channels, side, side))
    columns = sheets.columns_for(side)
    drawn = pixels(sheets.image_grid(images))
    pitch = side * factor + sheets._gap(side * factor)
    assert drawn.shape[1] == columns * pitch - sheets._gap(side * factor)
    for i in (0, columns - 1, columns, 22):
        top, left = i // columns * pitch, i % columns * pitch
        tile = drawn[top : top + side * factor, left : left + side * factor]
        squares = tile.reshape(side, factor, side, factor, 4)
        wanted = np.broadcast_to(images[i].transpose(1, 2, 0), (side, side, 3))
        assert (squares[..., :3] == wanted[:, None, :, None]).all()
        assert (tile[..., 3] == 255).all()
    assert drawn[0, side * factor, 3] == 0  # the gap lets the page through


def test_levels_out_of_range_or_not_finite_are_clipped_not_wrapped() -> None:
    images = np.full((1, 1, 2, 2), np.nan)
    images[0, 0, 0] = (-40, 300)
    drawn = pixels(sheets.image_grid(images, columns=1))
    assert drawn[0, 0, 0] == 0
    assert drawn[0, -1, 0] == 255
    assert drawn[-1, 0, 0] == 0


def test_each_reconstruction_stands_under_its_original() -> None:
    originals, back = np.full((3, 1, 8, 8), 10.0), np.full((3, 1, 8, 8), 200.0)
    drawn = pixels(sheets.reconstruction_pairs(originals, back, columns=3))
    column = drawn[:, sheets.MARGIN + 5]
    assert column[5, 0] == 10
    assert column[-5, 0] == 200


def test_interpolations_stand_between_their_ends() -> None:
    paths, ends = np.full((2, 6, 1, 8, 8), 90.0), np.zeros((2, 2, 1, 8, 8))
    ends[:, 0], ends[:, 1] = 20, 220
    row = pixels(sheets.interpolation_rows(paths, ends))[3]
    levels = [int(p[0]) for p, q in zip(row[1:], row, strict=False) if p[3] and p[0] != q[0]]
    assert [row[0, 0], *dict.fromkeys(levels)] == [20, 90, 220]


def test_metrics_are_found_by_quantity_and_split() -> None:
    lines = [
        {"step": 1, "split": "train", "time": 0.1, "train/loss/model": 3.0, "train/rate": 1e-3},
        {"step": 2, "split": "train", "time": 0.2, "train/loss/model": float("nan"), "train/kl": 1.0},
        {"step": 2, "split": "validation", "time": 0.2, "validation/kl": 2.0, "note": "text"},
    ]
    found = curves.collect(lines)
    assert {name: sorted(splits) for name, splits in found.items()} == {
        "kl": ["train", "validation"],
        "loss/model": ["train"],
    }
    assert found["loss/model"]["train"][1].tolist() == [3.0]
    panels = [axes for axes in curves.curves(lines).axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == ["kl", "loss · model"]


def test_a_wild_start_does_not_flatten_a_curve() -> None:
    lines = [{"step": i, "train/kl": 1e6 if i < 5 else 2 + math.sin(i)} for i in range(1000)]
    low, high = curves.curves(lines).axes[0].get_ylim()
    assert 0 < low < high < 5


def test_smoothing_keeps_a_constant_and_the_mean() -> None:
    assert np.allclose(curves.smooth(np.full(1000, 3.0)), 3.0)
    noisy = RNG.normal(size=1000)
    assert curves.smooth(noisy).std() < 0.5 * noisy.std()


def test_projection_finds_the_plane_of_most_variance_and_keeps_the_origin() -> None:
    z = RNG.normal(size=(500, 5)) * np.array([0.1, 3, 0.1, 2, 0.1]) + 1
    points, names = figures.project(z)
    assert np.allclose(np.abs(points[:, 0]), np.abs(z[:, 1]), atol=1)
    assert abs(abs(points[:, 0].mean()) - 1) < 0.5  # not centred: the prior's circles are about the origin
    assert "variance" in names[0]
    assert figures.project(z[:, :2])[0] is not None


def test_codes_are_named_by_class_and_hostile_names_are_drawn_as_they_are() -> None:
    z, labels = RNG.normal(size=(200, 3)), np.arange(200) % 2
    figure = figures.codes(z, labels, names=["$x^{", "cat"])
    assert {r"\$x^{", "cat"} <= {text.get_text() for text in figure.axes[0].texts}
    assert pixels(figure).shape[1] == base.WIDTH * base.DPI


@pytest.mark.parametrize("d", [1, 40])
def test_latent_figures_of_any_dimension_and_with_broken_codes(d: int) -> None:
    z = RNG.normal(size=(60, d))
    z[0] = np.nan
    for figure in (figures.codes(z), figures.prior_against_aggregated(z)):
        assert pixels(figure).shape[1] == base.WIDTH * base.DPI


def test_a_model_that_gives_nothing_finite_still_has_figures() -> None:
    z = np.full((50, 4), np.nan)
    for figure in (figures.codes(z, np.zeros(50, dtype=int)), figures.prior_against_aggregated(z)):
        assert pixels(figure).any()


@pytest.mark.parametrize("n", [1, 7])
def test_vectors_of_any_length(n: int) -> None:
    x = RNG.normal(size=(80, n))
    for figure in (vectors.vectors(x, x + 1), vectors.vector_reconstructions(x, x)):
        assert pixels(figure)[..., 3].any()


def test_no_global_state_is_touched() -> None:
    before = dict(matplotlib.rcParams)
    base.png(curves.curves([{"step": 1, "train/kl": 1.0}], theme=base.DARK), base.DARK)
    assert dict(matplotlib.rcParams) == before
