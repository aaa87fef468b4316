"""Figures of vectors of any length, and the columns that they show."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import ks_2samp

from advae.report.figures.style import to_png
from advae.report.figures.vectors import (
    MAX_MARGINALS,
    marginal_distances,
    principal_columns,
    shown_columns,
    vector_marginals,
    vector_pairs,
    vector_reconstructions,
)

RNG = np.random.default_rng(0)


def pixels(figure: Figure) -> np.ndarray:
    """Return the rendered figure ``[h, w, 4]``."""
    return np.asarray(Image.open(io.BytesIO(to_png(figure, transparent=True))).convert("RGBA"))


@pytest.mark.parametrize("n", [1, 2, 17])
def test_vectors_of_any_length(n: int) -> None:
    x = RNG.normal(size=(80, n))
    names = [f"column ${i}" for i in range(n)]
    figures = [vector_marginals(x, x + 1, names), vector_reconstructions(x, x, names)]
    figures += [vector_pairs(x, x + 1, names)] if n > 1 else []
    for figure in figures:
        assert pixels(figure)[..., 3].any()
    assert len(figures[0].axes) == min(n, MAX_MARGINALS)


def test_columns_that_differ_most_are_shown() -> None:
    x, y = RNG.normal(size=(300, 20)), RNG.normal(size=(200, 20))
    shifted = [1, 4, 19]
    y[:, shifted] += 2
    distances = marginal_distances(x, y)
    by_scipy = [ks_2samp(a, b).statistic for a, b in zip(x.T, y.T, strict=True)]
    np.testing.assert_allclose(distances, by_scipy)
    assert shown_columns(distances, 3) == shifted
    titles = [axes.get_title(loc="left") for axes in vector_marginals(x, y).axes]
    assert {"$x_{2}$", "$x_{5}$", "$x_{20}$"} <= set(titles)


def test_pairs_show_one_column_of_each_group() -> None:
    """Three groups of columns with a common factor each, of different sizes: one column of each is shown."""
    groups = [0, 0, 0, 0, 1, 1, 1, 2, 2]
    factors = RNG.normal(size=(500, 3))
    x = 1e3 * factors[:, groups] + RNG.normal(size=(500, 9))
    assert {groups[j] for j in principal_columns(x, 3)} == {0, 1, 2}


def test_constant_columns_and_values_that_are_not_finite() -> None:
    x = RNG.normal(size=(30, 3))
    x[:, 1] = 5
    x[3, 0] = np.nan
    assert pixels(vector_marginals(x, x))[..., 3].any()
    assert pixels(vector_pairs(x, x))[..., 3].any()
