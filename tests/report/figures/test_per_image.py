"""Per-image figures: plotted where an evaluation saved their arrays, and only there."""

from __future__ import annotations

import io
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from advae.report.figures import per_image
from advae.report.figures.image_grid import GRID_WIDTH
from advae.report.figures.style import to_png
from advae.report.html import HtmlFigures

N = 40
ESTIMATES = [  # name, metric
    ("ais", "ais"),
    ("inference gap[full-normal]", "inference-gap"),
    ("memorization[digits-classifier]", "memorization"),
    ("rmse", "rmse"),
]


def pixels(figure: Figure) -> np.ndarray:
    """Return the rendered figure ``[h, w, 4]``."""
    return np.asarray(Image.open(io.BytesIO(to_png(figure, transparent=True))).convert("RGBA"))


def make_arrays() -> dict[str, dict[str, Any]]:
    rng = np.random.default_rng(0)
    return {
        "ais": {"value": rng.normal(size=N), "ess": rng.uniform(1, 16, N), "acceptance": rng.uniform(size=N)},
        "inference-gap-full-normal": {"value": rng.gamma(2, size=N)},
        "memorization-digits-classifier": {
            "samples": rng.integers(200, 256, (16, 1, 8, 8), dtype=np.uint8),
            "nearest": rng.integers(0, 100, (16, 1, 8, 8), dtype=np.uint8),
        },
    }


def figure_names(
    fakes: ModuleType, path: Path, arrays: dict[str, dict[str, Any]], names: int | None = None
) -> set[str]:
    """Save arrays of an evaluation and return the names of the figures."""
    (path / "eval").mkdir(parents=True, exist_ok=True)
    for name, values in arrays.items():
        np.savez(path / "eval" / f"{name}.npz", **values)
    estimates = [
        fakes.make_estimate(name, metric=metric, n=N if metric != "memorization" else 2000)
        for name, metric in ESTIMATES[:names]
    ]
    figures = HtmlFigures(path)
    per_image.add_per_image_figures(figures, fakes.FakeRun(path), estimates)
    return set(figures)


@pytest.mark.parametrize(
    ("name", "arrays"),
    [
        ("ais", {"ess": np.ones(N), "log_prob": np.ones(N)}),  # of an older version
        ("ais", {"ess": np.ones(N - 1), "acceptance": np.ones(N - 1)}),  # of another evaluation
        ("inference-gap-full-normal", {"value": np.full(N, np.nan)}),
        ("inference-gap-full-normal", {"value": np.array([{}] * N)}),  # pickled objects
        ("memorization-digits-classifier", {"value": np.ones(N)}),
        (
            "memorization-digits-classifier",
            {"samples": np.ones((3, 1, 8, 8)), "nearest": np.ones((2, 1, 8, 8))},
        ),
        ("memorization-digits-classifier", {"samples": np.ones((3, 5)), "nearest": np.ones((3, 5))}),
    ],
)
def test_missing_or_invalid_arrays_have_no_figure(
    fakes: ModuleType, tmp_path: Path, name: str, arrays: dict[str, Any]
) -> None:
    others = {key: values for key, values in make_arrays().items() if key != name}
    assert figure_names(fakes, tmp_path, {**others, name: arrays}) == set(others)


def test_all_arrays_have_a_figure_if_their_estimate_exists(fakes: ModuleType, tmp_path: Path) -> None:
    assert figure_names(fakes, tmp_path, {}) == set()
    assert figure_names(fakes, tmp_path, make_arrays()) == set(make_arrays())
    assert figure_names(fakes, tmp_path, make_arrays(), names=0) == set()


def test_a_truncated_file_has_no_figure(fakes: ModuleType, tmp_path: Path) -> None:
    figure_names(fakes, tmp_path, make_arrays())
    (tmp_path / "eval" / "ais.npz").write_bytes(b"PK\x03\x04 truncated")
    assert figure_names(fakes, tmp_path, {}) == set(make_arrays()) - {"ais"}


def test_each_training_image_is_below_the_sample_it_is_nearest_to() -> None:
    samples, nearest = (np.stack([np.full((1, 8, 8), v + i) for i in range(16)]) for v in (20.0, 200.0))
    grid = pixels(per_image.nearest_neighbors(samples, nearest))
    levels = [int(level) for level, *_, alpha in grid[:, -4] if alpha]  # down the last column of tiles
    assert list(dict.fromkeys(levels)) == [27, 207, 35, 215]
    assert grid.shape[1] <= GRID_WIDTH


def test_outliers_are_counted_and_the_median_is_shown() -> None:
    values = np.concatenate([np.linspace(0, 10, 1001), [-1e6, 1e6, np.nan]])
    axes = per_image.value_histogram(values, "gap").axes[0]
    assert [text.get_text() for text in axes.texts if text.get_text()] == ["median 5.00"]
    assert axes.get_xlim()[1] < 20
    assert axes.get_title(loc="right") == "2 examples outside"
    low = per_image.value_histogram(np.linspace(-3, 1, 50), "gap").axes[0]
    assert low.get_xlim()[0] < -3 < 0 < low.get_xlim()[1]


def test_effective_sample_sizes_are_on_the_scale_of_all_chains() -> None:
    figure = per_image.ais_histograms(np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.5, 0.6]), 16)
    assert [axes.get_xlim() for axes in figure.axes] == [(1.0, 16.0), (0.0, 1.0)]
    assert pixels(per_image.ais_histograms(np.ones(3), np.zeros(3), None)).any()
