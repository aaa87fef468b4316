"""Training curves, a panel for every quantity in ``metrics.jsonl``, and rate-distortion curves.

eval/rate-distortion*.npz    distortion, rate [N, K]: of each example at K values of β; beta, band [K]
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from advae.report.comparison import per_example_arrays
from advae.report.estimate_table import EstimateDict
from advae.report.figures.style import (
    DASHED,
    LIGHT,
    WIDTH,
    FloatArray,
    Theme,
    escape_mathtext,
    make_panels,
    new_figure,
)

if TYPE_CHECKING:
    from advae.run import Run

Metrics = Sequence[Mapping[str, Any]]
Curve = tuple[FloatArray, FloatArray]  # steps, values

SPLITS = ("train", "validation")
EXCLUDED = ("lr", "rate", "time", "epoch", "speed")  # describe the machine or the schedule, not the model
FIRST_QUANTITIES = ("reconstruction", "rmse", "kl", "elbo", "error", "loss")
SHARES = ("accuracy", "saturation")  # quantities between 0 and 1
WARMUP_FRACTION = 0.05  # of a run; its values do not set the scale if they would flatten the rest
SMOOTHING_WINDOWS = 80  # a training curve is a running mean over this fraction of the run


def collect_curves(metrics: Metrics) -> dict[str, dict[str, Curve]]:
    """Return the curves of each quantity by split, in display order.

    ``train/loss/model`` is the quantity ``loss/model`` on the split ``train``; a name without a split belongs to the
    split of its line. Values that are missing or not finite are left out.
    """
    points: dict[str, dict[str, dict[float, float]]] = {}
    for line in metrics:
        for key, value in line.items():
            split, _, name = key.partition("/")
            if split not in SPLITS:
                split, name = str(line.get("split", "train")), key
            is_plotted = name != "step" and name.split("/")[0] not in EXCLUDED
            if is_plotted and _is_finite(value) and _is_finite(line.get("step")):
                points.setdefault(name, {}).setdefault(split, {})[float(line["step"])] = float(value)
    return {
        name: {split: _to_curve(values) for split, values in sorted(points[name].items())}
        for name in sorted(points, key=_display_rank)
    }


def last_value(metrics: Metrics, key: str) -> float | None:
    """Return the largest number under a key, such as ``step`` or ``time``; None if there is none."""
    return max((line[key] for line in metrics if _is_finite(line.get(key))), default=None)


def training_curves(metrics: Metrics, *, theme: Theme = LIGHT) -> Figure:
    """Plot training (pale: as recorded; line: running mean) and validation (dots) of one run."""
    quantities = collect_curves(metrics)
    with theme.context():
        figure, panels = _make_figure(len(quantities))
        for axes, (name, splits) in zip(panels, quantities.items(), strict=True):
            plotted = []
            for split, (steps, values) in splits.items():
                is_train = split == "train"
                color = theme.primary if is_train else theme.secondary
                mean = smooth(values) if is_train else values
                if is_train and len(values) > 2:
                    axes.plot(steps, values, color=color, alpha=0.28, lw=0.7)
                has_markers = not is_train or len(values) < 3
                axes.plot(
                    *(steps, mean), color=color, label=split, zorder=3,
                    marker="o" if has_markers else "", ms=2.2, lw=0.9 if has_markers else 1.3,
                )  # fmt: skip
                plotted.append((steps, mean))
            _format_panel(axes, name, plotted, theme)
        _finish(figure, panels)
    return figure


def overlaid_curves(runs: Mapping[str, Metrics], *, theme: Theme = LIGHT) -> Figure:
    """Plot one curve per run: validation if every run that has the quantity recorded it there, else training."""
    curves_by_run = {name: collect_curves(metrics) for name, metrics in runs.items()}
    names = sorted({quantity for curves in curves_by_run.values() for quantity in curves}, key=_display_rank)
    colors = {run: theme.palette[i % len(theme.palette)] for i, run in enumerate(runs)}
    with theme.context():
        figure, panels = _make_figure(len(names))
        for axes, quantity in zip(panels, names, strict=True):
            by_run = {run: curves[quantity] for run, curves in curves_by_run.items() if quantity in curves}
            shared_splits = [s for s in reversed(SPLITS) if all(s in splits for splits in by_run.values())]
            plotted = []
            for run, splits in by_run.items():
                split = shared_splits[0] if shared_splits else next(iter(splits))
                steps, values = splits[split]
                values = smooth(values) if split == "train" else values
                marker = "o" if len(steps) < 3 else ""
                axes.plot(steps, values, color=colors[run], label=escape_mathtext(run), marker=marker, ms=3)
                plotted.append((steps, values))
            _format_panel(axes, ", ".join([quantity, *shared_splits[:1]]), plotted, theme)
        _finish(figure, panels)
    return figure


@dataclass(frozen=True)
class RateDistortionCurve:
    """Distortion, rate and its lower limit ``[K]``, means over examples at equal β; ``axis`` names the distortion."""

    distortion: FloatArray
    rate: FloatArray
    lower: FloatArray
    axis: str


def collect_rate_distortion(run: Run, estimates: Sequence[EstimateDict]) -> RateDistortionCurve | None:
    """Return the rate-distortion curve of a run's last evaluation; None if there is none."""
    for estimate in (e for e in estimates if e.get("metric") == "rate-distortion"):
        arrays = per_example_arrays(run, estimate)
        values = [arrays.get(name, np.zeros(0)) for name in ("distortion", "rate", "band")]
        shape = values[0].shape
        is_valid = len(shape) == 2 and shape[0] == estimate.get("n") and [v.shape for v in values[1:]] == [
            shape,
            shape[1:],
        ]  # fmt: skip
        if not is_valid or not all(v.dtype.kind == "f" and np.isfinite(v).all() for v in values):
            continue
        distortion, rate = (v.astype(np.float64).mean(0) for v in values[:2])
        if is_rmse := estimate.get("kind") == "error":
            distortion = np.sqrt(np.maximum(distortion, 0))
        axis = f"root mean squared error, {estimate.get('unit')}" if is_rmse else "−log p(x|z), nats"
        return RateDistortionCurve(distortion, rate, np.maximum(rate - values[2], 0), axis)
    return None


def rate_distortion(curves: Mapping[str, RateDistortionCurve], *, theme: Theme = LIGHT) -> Figure:
    """Plot rates over distortions, a line per run with the band below it; a panel per kind of distortion."""
    kinds = list(dict.fromkeys(curve.axis for curve in curves.values()))
    with theme.context():
        figure = new_figure(WIDTH, 2.9)
        panels = make_panels(figure, len(kinds), len(kinds))
        for axes, kind in zip(panels, kinds, strict=True):
            for i, (run, curve) in enumerate(curves.items()):
                if curve.axis == kind:
                    color = theme.palette[i % len(theme.palette)]
                    axes.plot(curve.distortion, curve.rate, color=color, label=escape_mathtext(run))
                    axes.fill_between(
                        curve.distortion, curve.lower, curve.rate, color=color, alpha=0.25, lw=0
                    )
            axes.set(xlabel=escape_mathtext(kind), ylabel="rate, nats per example")
            axes.set_ylim(bottom=0)
            if len(curves) > 1:
                axes.legend()
    return figure


def smooth(values: FloatArray) -> FloatArray:
    """Return the running mean over 1/80 of a curve; at the ends, over the part of the window that exists."""
    kernel = np.ones(max(1, len(values) // SMOOTHING_WINDOWS) | 1)
    counts = np.convolve(np.ones(len(values)), kernel, "same")
    result: FloatArray = np.convolve(values, kernel, "same") / counts
    return result


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _to_curve(values: Mapping[float, float]) -> Curve:
    steps = sorted(values)
    return np.array(steps, dtype=np.float64), np.array([values[s] for s in steps], dtype=np.float64)


def _display_rank(name: str) -> tuple[int, str]:
    """Results of a model first, gradients last."""
    head = name.split("/")[0]
    known = (*FIRST_QUANTITIES, head, "gradient")
    return known.index(head) if head != "gradient" else len(known), name


def _make_figure(count: int) -> tuple[Figure, list[Axes]]:
    columns = min(3 if count <= 9 else 4, max(1, count))
    rows = -(-max(1, count) // columns)
    figure = new_figure(WIDTH, 0.4 + (1.65 if columns < 4 else 1.4) * rows if columns > 1 else 2.6)
    panels = make_panels(figure, count, columns)
    for lowest in panels[-columns:]:
        lowest.set_xlabel("step")
    return figure, panels


def _format_panel(axes: Axes, name: str, plotted: list[Curve], theme: Theme) -> None:
    axes.set_title(escape_mathtext(name.replace("/", " · ").replace("_", " ")))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    quantity = name.partition(",")[0].split("/")[-1]
    if quantity in SHARES:
        axes.set(ylim=(-0.04, 1.04), yticks=[0, 0.5, 1])
        if quantity == "accuracy":
            axes.axhline(0.5, color=theme.muted, lw=0.8, ls=DASHED)
    elif limits := _value_limits(plotted):
        axes.set_ylim(*limits)


def _value_limits(curves: list[Curve]) -> tuple[float, float] | None:
    """Return the range of the values, or of those after the warm-up if that would flatten the rest."""
    last = max((steps[-1] for steps, _ in curves), default=0.0)
    all_values = np.concatenate([values for _, values in curves] or [np.zeros(0)])
    late_values = np.concatenate([v[s >= WARMUP_FRACTION * last] for s, v in curves] or [np.zeros(0)])
    if len(late_values) < 3:
        return None
    low, high = np.percentile(late_values, [0.5, 99.5])
    if all_values.max() - all_values.min() <= 2.5 * (high - low):
        low, high = all_values.min(), all_values.max()
    pad = 0.07 * (high - low) or 0.05 * abs(high) or 1.0
    return float(low - pad), float(high + pad)


def _finish(figure: Figure, panels: list[Axes]) -> None:
    """Give all panels the steps of the whole training, and the figure a legend."""
    lines = [
        line for axes in panels for line in axes.get_lines() if not str(line.get_label()).startswith("_")
    ]
    last = max((float(np.max(line.get_xdata())) for line in lines), default=1.0)
    for axes in panels:
        axes.set_xlim(-0.02 * last, 1.02 * last)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: _abbreviate(step)))
    labeled = {str(line.get_label()): line for line in lines}
    if labeled:
        figure.legend(list(labeled.values()), list(labeled), loc="outside upper left", ncols=4)


def _abbreviate(step: float) -> str:
    """
    >>> _abbreviate(2500), _abbreviate(400), _abbreviate(2e6)
    ('2.5k', '400', '2M')
    """
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if abs(step) >= unit:
            return f"{step / unit:g}{name}"
    return f"{step:g}"
