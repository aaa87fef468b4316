"""Figures for data that are vectors: marginals and pairs of data and samples, and reconstructions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from advae.report.figures.style import (
    DASHED,
    LIGHT,
    WIDTH,
    FloatArray,
    Theme,
    escape_mathtext,
    finite_rows,
    label_histogram,
    limit_ticks,
    make_panels,
    marker_area,
    new_figure,
)

MAX_MARGINALS, MAX_PAIRED_COLUMNS = 12, 5
COLUMNS = 4  # panels in a row
MAX_POINTS = 500  # of each kind in the panel of a pair
SHOWN_PERCENTILES = (0.2, 99.8)  # of data and samples; outliers would squeeze the rest
PANEL_WIDTH = 20  # characters


def shown_columns(distances: FloatArray, count: int = MAX_MARGINALS) -> list[int]:
    """Return the ``count`` columns with the largest distances, in their order."""
    return sorted(np.argsort(-distances, kind="stable")[:count].tolist())


def marginal_distances(data: ArrayLike, samples: ArrayLike) -> FloatArray:
    """Return the Kolmogorov–Smirnov distance between data and samples in each column, ``[n]``."""
    data, samples = np.sort(finite_rows(data), axis=0), np.sort(finite_rows(samples), axis=0)
    distances = []
    for x, y in zip(data.T, samples.T, strict=True):
        points = np.concatenate([x, y])
        ranks = [np.searchsorted(v, points, side="right") / max(1, len(v)) for v in (x, y)]
        distances.append(float(np.abs(ranks[0] - ranks[1]).max(initial=0.0)))
    return np.array(distances)


def principal_columns(data: ArrayLike, count: int = MAX_PAIRED_COLUMNS) -> list[int]:
    """Return columns that represent the others: the one with the largest weight in each principal direction."""
    x = finite_rows(data)
    std = x.std(axis=0)
    directions = np.linalg.svd((x - x.mean(axis=0)) / np.where(std > 0, std, 1.0), full_matrices=False)[2]
    chosen: list[int] = []
    for weights in directions[:count]:
        chosen.append(next(int(j) for j in np.argsort(-np.abs(weights)) if j not in chosen))
    return sorted(chosen)


def vector_marginals(
    data: ArrayLike, samples: ArrayLike, names: Sequence[str] | None = None, *, theme: Theme = LIGHT
) -> Figure:
    """Plot histograms of data (filled) and samples (outlined), each ``[N, n]``: the 12 columns that differ most."""
    data, samples = finite_rows(data), finite_rows(samples)
    shown = shown_columns(marginal_distances(data, samples))
    columns = min(COLUMNS, len(shown))
    with theme.context():
        figure = new_figure(WIDTH, 0.45 + 1.5 * -(-len(shown) // columns))
        for i, panel in zip(shown, make_panels(figure, len(shown), columns), strict=True):
            _plot_marginals(panel, data[:, i], samples[:, i], theme)
            panel.set_title(column_label(names, i))
        _add_legend(figure, theme)
    return figure


def vector_pairs(
    data: ArrayLike, samples: ArrayLike, names: Sequence[str] | None = None, *, theme: Theme = LIGHT
) -> Figure:
    """Plot data and samples, each ``[N, n]`` with n > 1, for every pair of up to five columns."""
    count = min(MAX_POINTS, len(finite_rows(data)))
    points = [finite_rows(values)[:count] for values in (data, samples)]
    shown = principal_columns(data)
    size = len(shown) - 1
    limits = [_limits(np.concatenate([p[:, j] for p in points])) for j in shown]
    side = WIDTH / max(size, 2)
    with theme.context():
        figure = new_figure(side * size, 0.3 + side * size * 0.9)
        grid = np.asarray(figure.subplots(size, size, squeeze=False, sharex="col", sharey="row"))
        for row in range(size):
            for column in range(size):
                axes = grid[row, column]
                if column > row:
                    axes.set_visible(False)
                    continue
                x, y = shown[column], shown[row + 1]
                _scatter(axes, [p[:, [x, y]] for p in points], theme)
                axes.set(xlim=limits[column], ylim=limits[row + 1])
                limit_ticks(axes, 3)
                if row == size - 1:
                    axes.set_xlabel(column_label(names, x))
                if column == 0:
                    axes.set_ylabel(column_label(names, y))
        _add_legend(figure, theme)
    return figure


def vector_reconstructions(
    originals: ArrayLike,
    reconstructions: ArrayLike,
    names: Sequence[str] | None = None,
    columns: Sequence[int] | None = None,
    *,
    theme: Theme = LIGHT,
) -> Figure:
    """Plot reconstructed against original values, ``[N, n]`` each, a panel for each of these columns (or the first)."""
    x, x_hat = (np.asarray(v, dtype=np.float64).reshape(len(v), -1) for v in (originals, reconstructions))  # type: ignore[arg-type]
    shown = list(range(min(MAX_MARGINALS, x.shape[1]))) if columns is None else list(columns)
    in_row = min(COLUMNS, len(shown))
    with theme.context():
        figure = new_figure(WIDTH if in_row > 1 else 3.2, 0.2 + 1.85 * -(-len(shown) // in_row))
        for i, axes in zip(shown, make_panels(figure, len(shown), in_row), strict=True):
            axes.axline((float(np.mean(x[:, i])),) * 2, slope=1, color=theme.muted, lw=0.8, ls=DASHED)
            area = 0.6 * marker_area(len(x))
            axes.scatter(x[:, i], x_hat[:, i], s=area, color=theme.primary, alpha=0.5, lw=0)
            axes.set_title(column_label(names, i))
            limit_ticks(axes, 4)
        figure.supxlabel("original", fontsize=9, color=theme.muted)
        figure.supylabel("reconstructed", fontsize=9, color=theme.muted)
    return figure


def column_label(names: Sequence[str] | None, index: int) -> str:
    """Return a column's name, cut to fit a panel, or its number.

    >>> column_label(["price, $"], 0), column_label(None, 0)
    ('price, \\\\$', '$x_{1}$')
    """
    if not names:
        return f"$x_{{{index + 1}}}$"
    name = names[index]
    return escape_mathtext(name if len(name) <= PANEL_WIDTH else name[: PANEL_WIDTH - 1] + "…")


def _add_legend(figure: Figure, theme: Theme) -> None:
    style: dict[str, Any] = {"ls": "", "marker": "s", "markersize": 6}
    handles = [
        Line2D([], [], color=theme.primary, alpha=0.6, label="data", **style),
        Line2D([], [], color=theme.secondary, label="samples of the model", **style),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2)


def _scatter(axes: Axes, points: Sequence[FloatArray], theme: Theme) -> None:
    area = 0.5 * marker_area(sum(map(len, points)))
    for values, color in zip(points, (theme.primary, theme.secondary), strict=True):
        axes.scatter(values[:, 0], values[:, 1], s=area, color=color, alpha=0.5, lw=0)


def _plot_marginals(axes: Axes, data: FloatArray, samples: FloatArray, theme: Theme) -> None:
    limits = _limits(np.concatenate([data, samples]))
    bins = int(np.clip(1.2 * math.sqrt(len(data)), 10, 36))
    axes.hist(data, bins=bins, range=limits, density=True, color=theme.primary, alpha=0.4, lw=0)
    axes.hist(samples, bins=bins, range=limits, density=True, color=theme.secondary, histtype="step", lw=1.1)
    label_histogram(axes, "")
    axes.xaxis.set_major_locator(MaxNLocator(3))


def _limits(values: FloatArray) -> tuple[float, float]:
    low, high = (float(v) for v in np.percentile(values, SHOWN_PERCENTILES)) if len(values) else (0.0, 0.0)
    pad = 0.03 * (high - low) if high > low else 0.5
    return low - pad, high + pad
