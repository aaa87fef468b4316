"""Training curves: quantities, scales, smoothing."""

from __future__ import annotations

import math

import matplotlib
import numpy as np

from advae.report.figures.curves import collect_curves, smooth, training_curves
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
