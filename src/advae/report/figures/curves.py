"""Curves of training: every quantity found in ``metrics.jsonl`` in a panel of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from advae.report.figures.style import LIGHT, WIDTH, FloatArray, Theme, new_figure, plain

Metrics = Sequence[Mapping[str, Any]]
Curve = tuple[FloatArray, FloatArray]

SPLITS = ("train", "validation")
SETTINGS = ("rate", "lr", "time", "epoch", "speed")  # of the machine or the schedule, not of the model
FIRST = ("reconstruction", "rmse", "kl", "elbo", "error", "loss")
WARM_UP = 0.05  # the share of a run whose values do not set the scale if they would flatten the rest
WINDOWS = 80  # a training curve is shown as the mean over 1/80 of the run


def collect(metrics: Metrics) -> dict[str, dict[str, Curve]]:
    """Quantity -> split -> (steps, values), in the order in which a reader asks for them.

    ``train/loss/model`` is the quantity ``loss/model`` on the split ``train``; a name without a split
    belongs to the split of its line. Values that are missing or not finite are left out.
    """
    points: dict[str, dict[str, dict[float, float]]] = {}
    for line in metrics:
        for key, value in line.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                continue
            split, _, name = key.partition("/")
            if split not in SPLITS:
                split, name = str(line.get("split", "train")), key
            if name == "step" or name.split("/")[0] in SETTINGS or "step" not in line:
                continue
            points.setdefault(name, {}).setdefault(split, {})[float(line["step"])] = float(value)
    return {
        name: {split: _curve(values) for split, values in sorted(points[name].items())}
        for name in sorted(points, key=_rank)
    }


def curves(metrics: Metrics, *, theme: Theme = LIGHT) -> Figure:
    """Training (pale: as recorded; line: running mean) and validation (dots) of one run, a panel each."""
    quantities = collect(metrics)
    with theme.context():
        figure, panels = _panels(quantities)
        for axes, (name, splits) in zip(panels, quantities.items(), strict=True):
            shown = []
            for split, (steps, values) in splits.items():
                held_out = split != "train"
                colour = theme.second if held_out else theme.first
                mean = values if held_out else smooth(values)
                if not held_out and len(values) > 2:
                    axes.plot(steps, values, color=colour, alpha=0.28, lw=0.7)
                dots = held_out or len(values) < 3
                axes.plot(
                    *(steps, mean), color=colour, label=split, zorder=3,
                    marker="o" if dots else "", ms=2.2, lw=0.9 if dots else 1.3,
                )  # fmt: skip
                shown.append((steps, mean))
            _finish(axes, name, shown, theme)
        _legend(figure, panels)
    return figure


def overlaid_curves(runs: Mapping[str, Metrics], *, theme: Theme = LIGHT) -> Figure:
    """One line a run: on validation data where every run that has the quantity has it, else on training."""
    found = {name: collect(metrics) for name, metrics in runs.items()}
    names = sorted({quantity for each in found.values() for quantity in each}, key=_rank)
    with theme.context():
        figure, panels = _panels(names)
        for axes, quantity in zip(panels, names, strict=True):
            having = {run: each[quantity] for run, each in found.items() if quantity in each}
            splits = [s for s in ("validation", "train") if all(s in v for v in having.values())]
            shown = []
            for index, run in enumerate(runs):
                if run not in having:
                    continue
                split = splits[0] if splits else next(iter(having[run]))
                steps, values = having[run][split]
                values = smooth(values) if split == "train" else values
                colour = theme.classes[index % len(theme.classes)]
                axes.plot(
                    steps, values, color=colour, label=plain(run), marker="o" if len(steps) < 3 else "", ms=3
                )
                shown.append((steps, values))
            where = f", {splits[0]}" if splits else ""
            _finish(axes, quantity + where, shown, theme)
        _legend(figure, panels)
    return figure


def smooth(values: FloatArray) -> FloatArray:
    """Running mean over 1/80 of the curve; at its ends over the part of the window that exists."""
    window = max(1, len(values) // WINDOWS) | 1
    kernel = np.ones(window)
    result: FloatArray = np.convolve(values, kernel, "same") / np.convolve(
        np.ones(len(values)), kernel, "same"
    )
    return result


def _curve(values: Mapping[float, float]) -> Curve:
    steps = sorted(values)
    return np.array(steps, dtype=np.float64), np.array([values[s] for s in steps], dtype=np.float64)


def _rank(name: str) -> tuple[int, str]:
    """First what is asked of a model, then what tells why; gradients last."""
    head = name.split("/")[0]
    return FIRST.index(head) if head in FIRST else len(FIRST) + (head == "gradient"), name


def _panels(names: Iterable[str]) -> tuple[Figure, list[Axes]]:
    count = max(1, len(list(names)))
    columns = min(3 if count <= 9 else 4, count)
    rows = -(-count // columns)
    figure = new_figure(WIDTH, 0.4 + (1.65 if columns < 4 else 1.4) * rows if columns > 1 else 2.6)
    panels: list[Axes] = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for spare in panels[len(list(names)) :]:
        spare.set_visible(False)
    for lowest in panels[max(0, count - columns) : count]:
        lowest.set_xlabel("step")
    return figure, panels[: len(list(names))]


def _finish(axes: Axes, name: str, shown: list[Curve], theme: Theme) -> None:
    axes.set_title(plain(name.replace("/", " · ").replace("_", " ")))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: _short(step)))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.margins(x=0.02)
    if name.split("/")[-1].split(",")[0] in ("accuracy", "saturation"):
        axes.set(ylim=(-0.04, 1.04), yticks=[0, 0.5, 1])
        if "accuracy" in name:
            axes.axhline(0.5, color=theme.muted, lw=0.8, ls=(0, (4, 3)))
    elif limits := _limits(shown):
        axes.set_ylim(*limits)


def _limits(shown: list[Curve]) -> tuple[float, float] | None:
    """The range of the values, or of those after the first 1/20 if the start would flatten the rest."""
    last = max((steps[-1] for steps, _ in shown), default=0.0)
    every = np.concatenate([values for _, values in shown] or [np.zeros(0)])
    late = np.concatenate([v[s >= WARM_UP * last] for s, v in shown] or [np.zeros(0)])
    if len(late) < 3:
        return None
    low, high = np.percentile(late, [0.5, 99.5])
    if every.max() - every.min() <= 2.5 * (high - low):
        low, high = every.min(), every.max()
    pad = 0.07 * (high - low) or 0.05 * abs(high) or 1.0
    return float(low - pad), float(high + pad)


def _legend(figure: Figure, panels: list[Axes]) -> None:
    lines = {line.get_label(): line for axes in panels for line in axes.get_lines()}
    named = {str(k): v for k, v in lines.items() if not str(k).startswith("_")}
    if named:
        figure.legend(list(named.values()), list(named), loc="outside upper left", ncols=4)


def _short(step: float) -> str:
    """
    >>> _short(2500), _short(400), _short(2e6)
    ('2.5k', '400', '2M')
    """
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if abs(step) >= unit:
            return f"{step / unit:g}{name}"
    return f"{step:g}"
