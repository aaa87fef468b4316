"""Figures of a posterior over named numbers: marginals, pairs, and the bound over the steps of the fits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from advae.report.figures.style import (
    LIGHT,
    WIDTH,
    FloatArray,
    Theme,
    corner_name,
    new_figure,
    plain,
    point_size,
)

COLUMNS, MOST = 4, 16  # panels of marginals: in a row, and in all
PAIRED = 4  # numbers that are shown in pairs
INSIDE = (0.004, 0.996)  # share of the draws that a panel shows: a few far ones would squeeze the rest
SHOWN = 1500  # dots of a cloud
DASHES = {"mean-field": (0, (1, 1.4)), "full-rank": (0, (4, 2))}


def marginals(
    draws: FloatArray,
    labels: Sequence[str],
    others: Mapping[str, FloatArray],
    reference: FloatArray | None = None,
    *,
    theme: Theme = LIGHT,
) -> Figure:
    """A panel a number: draws filled, each fit a thin line, others dashed, the reference in ink.

    Args:
        draws: ``[F, S, n]``.
        labels: of the n numbers.
        others: draws ``[S', n]`` to set beside, by name.
        reference: draws ``[S'', n]`` by Hamiltonian Monte Carlo.
        theme: colours.
    """
    count = min(len(labels), MOST)
    columns = min(COLUMNS, count)
    rows = math.ceil(count / columns)
    with theme.context():
        figure = new_figure(WIDTH, 0.45 + 1.35 * rows)
        panels = list(np.asarray(figure.subplots(rows, columns, squeeze=False)).flat)
        for spare in panels[count:]:
            spare.set_visible(False)
        for j, axes in enumerate(panels[:count]):
            every = [draws[:, :, j].ravel(), *([reference[:, j]] if reference is not None else [])]
            edges = _edges(np.concatenate(every))
            _filled(axes, draws[:, :, j].ravel(), edges, theme)
            for one in draws[:, :, j]:
                _line(axes, one, edges, color=theme.first, lw=0.6, alpha=0.7)
            for name, other in others.items():
                _line(axes, other[:, j], edges, color=theme.second, lw=1.0, ls=DASHES.get(name, "-"))
            if reference is not None:
                _line(axes, reference[:, j], edges, color=theme.ink, lw=1.0)
            axes.set_xlim(edges[0], edges[-1])
            axes.set_ylim(bottom=0)
            axes.xaxis.set_major_locator(MaxNLocator(3))
            corner_name(axes, plain(labels[j]))
        figure.legend(
            handles=_handles(others, reference is not None, theme), loc="outside upper left", ncols=5
        )
    return figure


def pairs(
    draws: FloatArray,
    labels: Sequence[str],
    others: Mapping[str, FloatArray],
    reference: FloatArray | None = None,
    *,
    theme: Theme = LIGHT,
) -> Figure:
    """Clouds of pairs of a few numbers: a row of panels for the draws, and one for each of what stands beside them.

    Args and theme: as for :func:`marginals`; a row for each pair, a column for each kind of draws.
    """
    chosen = telling(draws, others, reference)
    wanted = [(a, b) for i, a in enumerate(chosen) for b in chosen[i + 1 :]][:3]
    pooled = draws.reshape(-1, draws.shape[2])
    kinds: dict[str, FloatArray] = {"q": pooled, **others}
    if reference is not None:
        kinds = {"reference": reference, **kinds}
    with theme.context():
        figure = new_figure(WIDTH, 0.3 + 1.75 * max(1, len(wanted)))
        grid = np.asarray(
            figure.subplots(max(1, len(wanted)), len(kinds), squeeze=False, sharex="row", sharey="row")
        )
        for row, (a, b) in zip(grid, wanted, strict=False):
            window = reference if reference is not None else pooled
            low, high = np.quantile(window[:, [a, b]], INSIDE, axis=0)
            room = 0.15 * (high - low) + 1e-12
            for axes, (name, found) in zip(row, kinds.items(), strict=True):
                _cloud(axes, found[:, [a, b]], theme.ink if name == "reference" else _colour(name, theme))
                axes.set(
                    xlim=(low[0] - room[0], high[0] + room[0]), ylim=(low[1] - room[1], high[1] + room[1])
                )
                axes.set_xlabel(plain(labels[a]))
                axes.xaxis.set_major_locator(MaxNLocator(3))
                axes.yaxis.set_major_locator(MaxNLocator(3))
            row[0].set_ylabel(plain(labels[b]))
        for axes, name in zip(grid[0], kinds, strict=True):
            axes.set_title({"q": "this posterior", "reference": "HMC"}.get(name, name))
    return figure


def telling(draws: FloatArray, others: Mapping[str, FloatArray], reference: FloatArray | None) -> list[int]:
    """The numbers whose marginals are farthest from those of a full-rank normal, most first, in standard deviations."""
    pooled = draws.reshape(-1, draws.shape[2])
    truth = pooled if reference is None else reference
    levels = np.linspace(0.02, 0.98, 49)
    mine = np.quantile(truth, levels, axis=0)
    normal = others.get("full-rank")
    if normal is None:
        return list(range(min(PAIRED, pooled.shape[1])))
    apart = np.abs(mine - np.quantile(normal, levels, axis=0)).mean(axis=0) / (truth.std(axis=0) + 1e-12)
    return [int(j) for j in np.argsort(-apart, kind="stable")[:PAIRED]]


def bounds(
    steps: Sequence[int],
    values: FloatArray,
    evidence: tuple[float, float] | None = None,
    *,
    theme: Theme = LIGHT,
) -> Figure:
    """The bound of every fit over the steps, ``values [T, F]`` nats; the evidence by annealing as a band."""
    with theme.context():
        figure = new_figure(WIDTH, 2.4)
        axes = figure.subplots()
        for i in range(values.shape[1]):
            axes.plot(
                steps, values[:, i], color=theme.classes[i % len(theme.classes)], lw=0.9, label=f"fit {i}"
            )
        late = values[len(values) // 2 :]
        low, high = (float(np.quantile(late, q)) for q in (0.02, 0.98)) if late.size else (0.0, 1.0)
        if evidence is not None:
            value, error = evidence
            axes.axhspan(value - 2 * error, value + 2 * error, color=theme.muted, alpha=0.3, lw=0)
            axes.axhline(value, color=theme.ink, lw=0.8, ls=(0, (4, 3)), label="log evidence by annealing")
            low, high = min(low, value), max(high, value)
        room = max(0.5, 0.6 * (high - low))
        axes.set(xlabel="step", ylabel="bound, nats", ylim=(low - room, high + room))
        axes.legend(loc="lower right", ncols=3)
    return figure


def _edges(values: FloatArray) -> FloatArray:
    low, high = np.quantile(values, INSIDE)
    room = 0.12 * (high - low) + 1e-9 * (1 + abs(low))
    return np.linspace(low - room, high + room, 46)


def _filled(axes: Axes, values: FloatArray, edges: FloatArray, theme: Theme) -> None:
    weights = np.full(len(values), 1 / (len(values) * (edges[1] - edges[0])))
    axes.hist(values, bins=list(edges), weights=weights, color=theme.first, alpha=0.35, lw=0)


def _line(axes: Axes, values: FloatArray, edges: FloatArray, **style: Any) -> None:
    heights, _ = np.histogram(values, bins=edges)
    axes.plot((edges[1:] + edges[:-1]) / 2, heights / (len(values) * (edges[1] - edges[0])), **style)


def _cloud(axes: Axes, points: FloatArray, colour: str) -> None:
    some = np.random.default_rng(0).permutation(len(points))[:SHOWN]
    axes.scatter(points[some, 0], points[some, 1], s=0.5 * point_size(SHOWN), color=colour, alpha=0.4, lw=0)


def _colour(name: str, theme: Theme) -> str:
    return theme.first if name == "q" else theme.second


def _handles(others: Mapping[str, FloatArray], reference: bool, theme: Theme) -> list[Line2D]:
    found = [Line2D([], [], color=theme.first, label="this posterior")]
    found += [
        Line2D([], [], color=theme.second, lw=1.0, ls=DASHES.get(name, "-"), label=f"{name} normal")
        for name in others
    ]
    return found + ([Line2D([], [], color=theme.ink, lw=1.0, label="HMC")] if reference else [])
