"""True posteriors: regions hold their masses and are at their place."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from PIL import Image

from advae.report.figures.latents import POSTERIOR_MASSES, PosteriorGrids, posterior_panels
from advae.report.figures.style import THEMES, region_levels, to_png

RNG = np.random.default_rng(0)


def pixels(figure: Figure) -> np.ndarray:
    """Return the rendered figure ``[h, w, 4]``."""
    return np.asarray(Image.open(io.BytesIO(to_png(figure, transparent=True))).convert("RGBA"))


def normal_grid(points: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Return axes ``[2, points]`` and the log density of N(0, I) on them."""
    axis = np.linspace(-5, 5, points)
    return np.stack([axis, axis]), -(axis[:, None] ** 2 + axis[None, :] ** 2) / 2 - np.log(2 * np.pi)


def test_regions_hold_their_masses() -> None:
    # |z|² of two standard normals is exponential with mean 2: the region of mass m ends where the density has
    # fallen to 1 − m of the mode. On a grid of steps of 0.025 the mass of a ring at its edge is uncertain by
    # some thousandths of it.
    levels = region_levels(np.exp(normal_grid()[1]) * 2 * np.pi, POSTERIOR_MASSES)
    assert levels == pytest.approx([1 - mass for mass in POSTERIOR_MASSES], rel=0.01)
    assert region_levels(np.full((4, 4), np.nan), POSTERIOR_MASSES) == []


def test_panels_show_the_region_of_the_posterior() -> None:
    axes, log_density = normal_grid(100)
    # A narrow posterior around (1, −2), on a grid of its own; [i, j] is at (axes[0, i], axes[1, j]).
    axes = axes / 10 + np.array([[1.0], [-2.0]])
    grids = PosteriorGrids(axes[None], log_density[None], RNG.normal([1, -2], 0.1, (1, 50, 2)))
    panel = posterior_panels(grids).axes[0]
    (x0, x1), (y0, y1) = panel.get_xlim(), panel.get_ylim()
    assert x0 < 0.8 < 1.2 < x1
    assert y0 < -2.2 < -1.8 < y1
    assert x1 - x0 < 1
    tilted = log_density + 30 * np.arange(100)[:, None] / 100  # shifts the mode along the first axis only
    far = posterior_panels(
        PosteriorGrids(axes[None], tilted[None], RNG.normal([1, -2], 1e-3, (1, 50, 2)))
    ).axes[0]
    assert far.get_xlim()[1] > x1
    assert far.get_ylim()[1] - far.get_ylim()[0] == pytest.approx(far.get_xlim()[1] - far.get_xlim()[0])


def test_the_first_axis_of_a_grid_is_horizontal() -> None:
    axes, log_density = normal_grid(100)
    narrow = log_density - 24 * axes[0][:, None] ** 2 / 2  # standard deviations 0.2 across and 1 up
    panel = posterior_panels(PosteriorGrids(axes[None], narrow[None], np.zeros((1, 2, 2)))).axes[0]
    shaded = next(c for c in panel.collections if isinstance(c, QuadContourSet))
    corners = np.concatenate([path.vertices for path in shaded.get_paths()])
    # 99 % lie within 3.03 standard deviations; the grid's steps are 0.1.
    assert np.abs(corners).max(axis=0) == pytest.approx([0.2 * 3.03, 3.03], abs=0.1)


@pytest.mark.parametrize("count", [1, 2, 6])
def test_panels_with_nan_densities_and_samples(count: int) -> None:
    axes, log_density = normal_grid(30)
    broken = np.stack([log_density] * count)
    broken[0] = np.nan
    samples = RNG.normal(size=(count, 20, 2))
    samples[0, :5] = np.nan
    grids = PosteriorGrids(np.stack([axes] * count), broken, samples, RNG.uniform(0, 255, (count, 3, 8, 8)))
    for theme in THEMES:
        assert pixels(posterior_panels(grids, theme=theme)).any()
