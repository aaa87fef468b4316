"""Training curves: quantities, scales, smoothing."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import matplotlib
import numpy as np

from advae.report.figures.curves import (
    collect_curves,
    collect_rate_distortion,
    rate_distortion,
    smooth,
    training_curves,
)
from advae.report.figures.style import DARK, to_png

RNG = np.random.default_rng(0)


def test_metrics_are_grouped_by_quantity_and_split() -> None:
    lines = [
        {"step": 1, "split": "train", "time": 0.1, "train/loss/model": 3.0, "train/rate": 1e-3},
        {"step": 2, "split": "train", "time": 0.2, "train/loss/model": float("nan"), "train/kl": 1.0},
        {"step": 2, "split": "validation", "time": 0.2, "validation/kl": 2.0, "note": "text"},
    ]
    quantities = collect_curves(lines)
    assert {name: sorted(splits) for name, splits in quantities.items()} == {
        "kl": ["train", "validation"],
        "loss/model": ["train"],
    }
    assert quantities["loss/model"]["train"][1].tolist() == [3.0]
    panels = [axes for axes in training_curves(lines).axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == ["kl", "loss · model"]


def test_large_first_values_do_not_set_the_scale() -> None:
    lines = [{"step": i, "train/kl": 1e6 if i < 5 else 2 + math.sin(i)} for i in range(1000)]
    low, high = training_curves(lines).axes[0].get_ylim()
    assert 0 < low < high < 5


def test_smoothing_keeps_a_constant_and_the_mean() -> None:
    assert np.allclose(smooth(np.full(1000, 3.0)), 3.0)
    noisy = RNG.normal(size=1000)
    assert smooth(noisy).std() < 0.5 * noisy.std()


def test_matplotlib_settings_are_restored() -> None:
    before = dict(matplotlib.rcParams)
    to_png(training_curves([{"step": 1, "train/kl": 1.0}], theme=DARK), DARK)
    assert dict(matplotlib.rcParams) == before


def test_all_panels_show_the_steps_of_the_whole_training() -> None:
    lines = [{"step": step, "train/kl": 1.0 / step} for step in (50, 100, 300)]
    lines.append({"step": 300, "validation/error/x": 0.5})
    panels = [axes for axes in training_curves(lines).axes if axes.get_visible()]
    limits = {axes.get_xlim() for axes in panels}
    assert len(panels) == 2 and len(limits) == 1
    assert all(low <= 0 and 300 <= high < 330 for low, high in limits)


def test_rate_distortion_curve_of_a_run(fakes: ModuleType, tmp_path: Path) -> None:
    """The root of the mean squared error, and the band below the rate; arrays of another evaluation are ignored."""
    estimate = fakes.make_estimate("rate-distortion rmse", metric="rate-distortion", n=2)
    (tmp_path / "eval").mkdir()
    arrays = {"distortion": np.array([[9.0, 1.0], [41.0, 7.0]]), "rate": np.array([[0.0, 3.0], [0.0, 5.0]])}
    file = tmp_path / "eval" / "rate-distortion-rmse.npz"
    np.savez(file, **arrays, band=np.array([0.0, 1.0]))
    curve = collect_rate_distortion(fakes.FakeRun(tmp_path), [estimate])
    assert curve is not None
    assert (
        curve.distortion.tolist() == [5, 2]
        and curve.rate.tolist() == [0, 4]
        and curve.lower.tolist() == [0, 3]
    )
    assert len(rate_distortion({"a": curve, "b": curve}).axes) == 1
    np.savez(file, **arrays, band=np.array([0.0, np.nan]))
    assert collect_rate_distortion(fakes.FakeRun(tmp_path), [estimate]) is None
    np.savez(file, **arrays, band=np.zeros(3))
    assert collect_rate_distortion(fakes.FakeRun(tmp_path), [estimate]) is None
