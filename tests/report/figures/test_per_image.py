"""Figures of single images and of posteriors: drawn where an evaluation left their arrays, and only there."""

from __future__ import annotations

import io
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from PIL import Image

from advae.report import write_report
from advae.report.figure_data import study
from advae.report.figures import image_grid as sheets
from advae.report.figures import per_image_plots as judged
from advae.report.figures import style as base
from advae.report.figures.posteriors import MASSES, Posteriors, mass_levels, posterior_panels

RNG = np.random.default_rng(0)
N = 40


def pixels(figure: Figure) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base.png(figure, transparent=True))).convert("RGBA"))


def figure(name: str, kind: str, section: str, **more: Any) -> dict[str, Any]:
    found = {"name": name, "value": 1.5, "stderr": 0.1, "kind": kind, "unit": "nats", "n": N}
    return {**found, "section": section, "interval": None, "protocol": {"split": "test"}, **more}


ESTIMATES = [
    figure("FID[digits-classifier]", "error", "samples", unit="", interval=[1.31, 1.69]),
    figure("ais", "lower bound", "likelihood", protocol={"split": "test", "chains": 16}),
    figure("FID[digits-classifier] of test data", "baseline", "samples", unit=""),
    figure("copying[digits-classifier]", "diagnostic", "samples", unit="", n=2000),
    figure("inference gap[full-normal]", "lower bound", "posterior"),
    figure("saturation of critic", "diagnostic", "critics", unit=""),
]
REMARKS = [
    {"about": "critic", "text": "It can <b>not</b> be trusted.", "warning": True},
    {"about": "samples", "text": "The model does not copy.", "warning": False},
]


def arrays() -> dict[str, dict[str, Any]]:
    return {
        "ais": {
            "value": RNG.normal(size=N),
            "ess": RNG.uniform(1, 16, N),
            "acceptance": RNG.uniform(size=N),
        },
        "inference-gap-full-normal": {"value": RNG.gamma(2, size=N)},
        "copying-digits-classifier": {
            "samples": RNG.integers(200, 256, (16, 1, 8, 8), dtype=np.uint8),
            "nearest": RNG.integers(0, 100, (16, 1, 8, 8), dtype=np.uint8),
        },
    }


def judged_run(fakes: ModuleType, path: Path, left: dict[str, dict[str, Any]]) -> Any:
    (path / "eval").mkdir(parents=True)
    for name, found in left.items():
        np.savez(path / "eval" / f"{name}.npz", **found)
    return fakes.FakeRun(path, figures=ESTIMATES, said=REMARKS)


def drawn(fakes: ModuleType, path: Path, left: dict[str, dict[str, Any]]) -> set[str]:
    folder = path / "figures"
    folder.mkdir(parents=True)
    return set(judged.judged_plates(judged_run(fakes, path, left), ESTIMATES, folder))


@pytest.fixture(scope="module")
def page(fakes: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path, data = tmp_path_factory.mktemp("runs") / "run", fakes.digits()
    run = judged_run(fakes, path, arrays())
    model = fakes.FakeModel(data.x_shape, 2, data.train.values.float() / 255)
    return path, write_report(run, model, data).read_text()


def test_a_page_with_all_sections(page: tuple[Path, str]) -> None:
    text = " ".join(re.sub(r"<style>.*</style>|<[^>]*>", " ", page[1], flags=re.DOTALL).split())
    order = ["Likelihood", "Posterior", "Critics", "Samples", "Image by image"]
    assert [text.index(f" {title} ") for title in order] == sorted(
        text.index(f" {title} ") for title in order
    )
    fid = text.index("FID[digits-classifier] 1.50 0.10 [1.31, 1.69] error 40")
    assert text.index("FID[digits-classifier] of test data 1.50 0.10 yardstick 40") - fid < 80
    assert text.count("95 % interval ") == 1  # only where there is one
    assert "Common to all: split test" in text
    assert "Not all figures can be believed" in text
    assert "higher is better" not in text  # no score occurs


def test_warnings_are_set_apart_and_escaped(page: tuple[Path, str]) -> None:
    box = re.search(r'<p class="warning">.*?</p>', page[1])
    assert box is not None
    assert "<b>Warning.</b>" in box[0]
    assert "It can &lt;b&gt;not&lt;/b&gt; be trusted." in box[0]
    assert page[1].index("<h3>Critics</h3>") < box.start() < page[1].index("<h3>Samples</h3>")
    assert '<p class="remark">The model does not copy.</p>' in page[1]


def test_figures_are_drawn_with_files_of_their_own(page: tuple[Path, str]) -> None:
    for name in ("ais", "inference-gap-full-normal", "copying-digits-classifier", "posteriors"):
        assert (page[0] / "figures" / f"{name}.png").exists()
    sheet = np.asarray(Image.open(page[0] / "figures" / "copying-digits-classifier.png").convert("L"))
    assert sheet[5, -5] >= 200  # samples above
    assert "the 16 chains of an image" in page[1]
    assert f"of {N} images" in page[1]


@pytest.mark.parametrize(
    ("name", "spoilt"),
    [
        ("ais", {"ess": np.ones(N), "log_prob": np.ones(N)}),  # as older evaluations wrote it
        ("ais", {"ess": np.ones(N - 1), "acceptance": np.ones(N - 1)}),  # of another evaluation
        ("inference-gap-full-normal", {"value": np.full(N, np.nan)}),
        ("inference-gap-full-normal", {"value": np.array([{}] * N)}),  # objects, which would have to run code
        ("copying-digits-classifier", {"value": np.ones(N)}),
        ("copying-digits-classifier", {"samples": np.ones((3, 1, 8, 8)), "nearest": np.ones((2, 1, 8, 8))}),
        ("copying-digits-classifier", {"samples": np.ones((3, 5)), "nearest": np.ones((3, 5))}),
    ],
)
def test_what_is_missing_or_does_not_fit_is_left_out(
    fakes: ModuleType, tmp_path: Path, name: str, spoilt: dict[str, Any]
) -> None:
    whole = drawn(fakes, tmp_path / "whole", arrays())
    assert whole == set(arrays())
    assert drawn(fakes, tmp_path / "spoilt", {**arrays(), name: spoilt}) == whole - {name}
    assert drawn(fakes, tmp_path / "none", {}) == set()


def test_a_broken_file_or_one_without_its_estimate_is_left_out(fakes: ModuleType, tmp_path: Path) -> None:
    run = judged_run(fakes, tmp_path, arrays())
    (tmp_path / "eval" / "ais.npz").write_bytes(b"PK\x03\x04 cut short")
    assert set(judged.judged_plates(run, ESTIMATES, tmp_path)) == set(arrays()) - {"ais"}
    assert judged.judged_plates(run, ESTIMATES[:1], tmp_path) == {}


def test_each_training_image_stands_under_the_sample_it_is_nearest_to() -> None:
    samples, nearest = (np.stack([np.full((1, 8, 8), v + i) for i in range(16)]) for v in (20.0, 200.0))
    sheet = pixels(judged.neighbours(samples, nearest))
    rows = [int(level) for level, *_, alpha in sheet[:, -4] if alpha]  # down the last column of tiles
    assert list(dict.fromkeys(rows)) == [27, 207, 35, 215]
    assert sheet.shape[1] <= sheets.MEASURE


def test_the_median_and_what_lies_outside_are_said() -> None:
    values = np.concatenate([np.linspace(0, 10, 1001), [-1e6, 1e6, np.nan]])
    axes = judged.spread(values, "gap").axes[0]
    assert [text.get_text() for text in axes.texts if text.get_text()] == ["median 5.00"]
    assert axes.get_xlim()[1] < 20
    assert axes.get_title(loc="right") == "2 images outside"
    low = judged.spread(np.linspace(-3, 1, 50), "gap").axes[0]
    assert low.get_xlim()[0] < -3 < 0 < low.get_xlim()[1]


def test_effective_sizes_stand_on_a_scale_of_all_chains() -> None:
    figure = judged.annealing(np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.5, 0.6]), 16)
    assert [axes.get_xlim() for axes in figure.axes] == [(1.0, 16.0), (0.0, 1.0)]
    assert pixels(judged.annealing(np.ones(3), np.zeros(3), None)).any()


def normal_grid(points: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Axes [2, points] and the log density of N(0, I) on them."""
    axis = np.linspace(-5, 5, points)
    return np.stack([axis, axis]), -(axis[:, None] ** 2 + axis[None, :] ** 2) / 2 - np.log(2 * np.pi)


def test_regions_hold_their_masses() -> None:
    # |z|² of two standard normals is exponential with mean 2: the region of mass m ends where the density has
    # fallen to 1 − m of the mode. On a grid of steps of 0.025 the mass of a ring at its edge is uncertain by
    # some thousandths of it.
    levels = mass_levels(normal_grid()[1])
    assert levels == pytest.approx([1 - mass for mass in MASSES], rel=0.01)
    assert mass_levels(np.full((4, 4), np.nan)) == []


def test_a_posterior_is_drawn_where_it_is() -> None:
    axes, log_density = normal_grid(100)
    # A narrow posterior about (1, −2), on a grid of its own; [i, j] is at (axes[0, i], axes[1, j]).
    axes = axes / 10 + np.array([[1.0], [-2.0]])
    found = Posteriors(axes[None], log_density[None], RNG.normal([1, -2], 0.1, (1, 50, 2)))
    panel = posterior_panels(found).axes[0]
    (x0, x1), (y0, y1) = panel.get_xlim(), panel.get_ylim()
    assert x0 < 0.8 < 1.2 < x1
    assert y0 < -2.2 < -1.8 < y1
    assert x1 - x0 < 1
    tilted = log_density + 30 * np.arange(100)[:, None] / 100  # shifts the mode along the first axis only
    far = posterior_panels(Posteriors(axes[None], tilted[None], RNG.normal([1, -2], 1e-3, (1, 50, 2)))).axes[
        0
    ]
    assert far.get_xlim()[1] > x1
    assert far.get_ylim()[1] - far.get_ylim()[0] == pytest.approx(far.get_xlim()[1] - far.get_xlim()[0])


def test_the_first_axis_of_a_grid_is_drawn_across() -> None:
    axes, log_density = normal_grid(100)
    narrow = log_density - 24 * axes[0][:, None] ** 2 / 2  # standard deviations 0.2 across and 1 up
    panel = posterior_panels(Posteriors(axes[None], narrow[None], np.zeros((1, 2, 2)))).axes[0]
    shaded = next(c for c in panel.collections if isinstance(c, QuadContourSet))
    corners = np.concatenate([path.vertices for path in shaded.get_paths()])
    # 99 % lie within 3.03 standard deviations; the grid's steps are 0.1.
    assert np.abs(corners).max(axis=0) == pytest.approx([0.2 * 3.03, 3.03], abs=0.1)


@pytest.mark.parametrize("count", [1, 2, 6])
def test_panels_with_broken_densities_and_draws(count: int) -> None:
    axes, log_density = normal_grid(30)
    broken = np.stack([log_density] * count)
    broken[0] = np.nan
    draws = RNG.normal(size=(count, 20, 2))
    draws[0, :5] = np.nan
    found = Posteriors(np.stack([axes] * count), broken, draws, RNG.uniform(0, 255, (count, 3, 8, 8)))
    for theme in base.THEMES:
        assert pixels(posterior_panels(found, theme=theme)).any()


def test_only_codes_of_two_dimensions_under_a_density_have_posteriors(fakes: ModuleType) -> None:
    data = fakes.digits()
    found = study(fakes.FakeModel((1, 8, 8), 2), data).posteriors
    assert found is not None
    assert found.axes.shape[:2] == (6, 2)
    assert np.shape(found.shown) == (6, 1, 8, 8)
    assert study(fakes.FakeModel((1, 8, 8), 3), data).posteriors is None
    implicit = fakes.FakeModel((1, 8, 8), 2)
    implicit.decoded_as = fakes.WithoutDensity
    assert study(implicit, data).posteriors is None
