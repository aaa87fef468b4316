"""Figures of vectors of any length."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from advae.report.figures.style import to_png
from advae.report.figures.vectors import vector_reconstructions, vector_samples

RNG = np.random.default_rng(0)


def pixels(figure: Figure) -> np.ndarray:
    """Return the rendered figure ``[h, w, 4]``."""
    return np.asarray(Image.open(io.BytesIO(to_png(figure, transparent=True))).convert("RGBA"))


@pytest.mark.parametrize("n", [1, 7])
def test_vectors_of_any_length(n: int) -> None:
    x = RNG.normal(size=(80, n))
    for figure in (vector_samples(x, x + 1), vector_reconstructions(x, x)):
        assert pixels(figure)[..., 3].any()
