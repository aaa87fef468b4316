"""Latent figures: projection, class names, NaN."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from advae.report.figures.latents import aggregated_posterior, latent_scatter, project_to_plane
from advae.report.figures.style import DPI, WIDTH, to_png

RNG = np.random.default_rng(0)


def pixels(figure: Figure) -> np.ndarray:
    """Return the rendered figure ``[h, w, 4]``."""
    return np.asarray(Image.open(io.BytesIO(to_png(figure, transparent=True))).convert("RGBA"))


def test_projection_is_on_the_plane_of_largest_variance_about_the_origin() -> None:
    z = RNG.normal(size=(500, 5)) * np.array([0.1, 3, 0.1, 2, 0.1]) + 1
    points, names = project_to_plane(z)
    assert np.allclose(np.abs(points[:, 0]), np.abs(z[:, 1]), atol=1)
    assert abs(abs(points[:, 0].mean()) - 1) < 0.5  # not centred: the prior's circles are about the origin
    assert "variance" in names[0]
    assert project_to_plane(z[:, :2])[0] is not None


def test_classes_are_named_without_interpreting_math() -> None:
    z, labels = RNG.normal(size=(200, 3)), np.arange(200) % 2
    figure = latent_scatter(z, labels, names=["$x^{", "cat"])
    assert {r"\$x^{", "cat"} <= {text.get_text() for text in figure.axes[0].texts}
    assert pixels(figure).shape[1] == WIDTH * DPI


@pytest.mark.parametrize("d", [1, 40])
def test_figures_for_any_dimension_and_with_nan(d: int) -> None:
    z = RNG.normal(size=(60, d))
    z[0] = np.nan
    for figure in (latent_scatter(z), aggregated_posterior(z)):
        assert pixels(figure).shape[1] == WIDTH * DPI


def test_latents_without_finite_values_have_figures() -> None:
    z = np.full((50, 4), np.nan)
    for figure in (latent_scatter(z, np.zeros(50, dtype=int)), aggregated_posterior(z)):
        assert pixels(figure).any()
