"""Posteriors over named parameters: marginals, pairs, and the bounds over the training steps."""

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
    DASHED,
    LIGHT,
    WIDTH,
    FloatArray,
    Theme,
    escape_mathtext,
    label_histogram,
    limit_ticks,
    make_panels,
    marker_area,
    new_figure,
)

COLUMNS, MAX_MARGINALS = 4, 16
MAX_PAIRED_PARAMETERS, MAX_PAIRS = 4, 3
SHOWN_QUANTILES = (0.004, 0.996)  # of a panel; outliers would squeeze the rest
NUM_EDGES = 46  # of histograms
MAX_POINTS = 1500  # of a scatter plot
LINE_STYLES = {"mean-field": (0, (1, 1.4)), "full-rank": (0, (4, 2))}


def marginals(
    samples: FloatArray,
    labels: Sequence[str],
    baselines: Mapping[str, FloatArray],
    reference: FloatArray | None = None,
    *,
    theme: Theme = LIGHT,
) -> Figure:
    """Plot all samples (filled), each fit (thin line), baselines (dashed) and the reference for every parameter.

    Args:
        samples: ``[F, S, n]``, of F fits.
        labels: of the n parameters.
        baselines: samples ``[S', n]`` of normal approximations, by name.
        reference: samples ``[S'', n]`` of Hamiltonian Monte Carlo.
        theme: colors.
    """
    count = min(len(labels), MAX_MARGINALS)
    columns = min(COLUMNS, count)
    fit_style: dict[str, Any] = {"color": theme.primary, "lw": 0.6, "alpha": 0.7}
    handles = [Line2D([], [], color=theme.primary, label="this posterior", lw=1.3)]
    lines = list[tuple[FloatArray, dict[str, Any]]]()
    for name, values in baselines.items():
        lines.append((values, {"color": theme.secondary, "lw": 1.0, "ls": LINE_STYLES.get(name, "-")}))
        handles.append(Line2D([], [], **lines[-1][1], label=f"{name} normal"))
    if reference is not None:
        lines.append((reference, {"color": theme.foreground, "lw": 1.0}))
        handles.append(Line2D([], [], **lines[-1][1], label="HMC"))
    with theme.context():
        figure = new_figure(WIDTH, 0.45 + 1.35 * math.ceil(count / columns))
        for j, axes in enumerate(make_panels(figure, count, columns)):
            pooled = samples[:, :, j].ravel()
            edges = _bin_edges(pooled if reference is None else np.concatenate([pooled, reference[:, j]]))
            weights = np.full(len(pooled), 1 / (len(pooled) * (edges[1] - edges[0])))
            axes.hist(pooled, bins=list(edges), weights=weights, color=theme.primary, alpha=0.35, lw=0)
            for fit in samples[:, :, j]:
                _plot_density(axes, fit, edges, **fit_style)
            for values, style in lines:
                _plot_density(axes, values[:, j], edges, **style)
            axes.set_xlim(edges[0], edges[-1])
            axes.set_ylim(bottom=0)
            axes.xaxis.set_major_locator(MaxNLocator(3))
            is_mass_on_left = bool(np.median(pooled) < 0.7 * edges[0] + 0.3 * edges[-1])
            label_histogram(axes, escape_mathtext(labels[j]), on_right=is_mass_on_left)
        figure.legend(handles=handles, loc="outside upper left", ncols=5)
    return figure


def pairs(
    samples: FloatArray,
    labels: Sequence[str],
    baselines: Mapping[str, FloatArray],
    reference: FloatArray | None = None,
    *,
    theme: Theme = LIGHT,
) -> Figure:
    """Plot the least Gaussian parameters in pairs: a row per pair; reference, posterior and baselines in columns.

    Arguments are those of :func:`marginals`.
    """
    parameters = least_gaussian(samples, baselines, reference)
    shown_pairs = [(a, b) for i, a in enumerate(parameters) for b in parameters[i + 1 :]][:MAX_PAIRS]
    pooled = samples.reshape(-1, samples.shape[2])
    columns = {"this posterior": (pooled, theme.primary)}
    columns |= {name: (values, theme.secondary) for name, values in baselines.items()}
    if reference is not None:
        columns = {"HMC": (reference, theme.foreground), **columns}
    rows = max(1, len(shown_pairs))
    with theme.context():
        figure = new_figure(WIDTH, 0.3 + 1.75 * rows)
        panels = np.asarray(figure.subplots(rows, len(columns), squeeze=False, sharex="row", sharey="row"))
        for row, (a, b) in zip(panels, shown_pairs, strict=False):
            shown = (pooled if reference is None else reference)[:, [a, b]]
            low, high = np.quantile(shown, SHOWN_QUANTILES, axis=0)
            pad = 0.15 * (high - low) + 1e-12
            for axes, (values, color) in zip(row, columns.values(), strict=True):
                subset = np.random.default_rng(0).permutation(len(values))[:MAX_POINTS]
                x, y = values[subset][:, [a, b]].T
                axes.scatter(x, y, s=0.5 * marker_area(MAX_POINTS), color=color, alpha=0.4, lw=0)
                axes.set(xlim=(low[0] - pad[0], high[0] + pad[0]), ylim=(low[1] - pad[1], high[1] + pad[1]))
                axes.set_xlabel(escape_mathtext(labels[a]))
                limit_ticks(axes, 3)
            row[0].set_ylabel(escape_mathtext(labels[b]))
        for axes, name in zip(panels[0], columns, strict=True):
            axes.set_title(name)
    return figure


def least_gaussian(
    samples: FloatArray, baselines: Mapping[str, FloatArray], reference: FloatArray | None
) -> list[int]:
    """Return the parameters whose marginals differ most from the full-rank normal, in standard deviations."""
    pooled = samples.reshape(-1, samples.shape[2])
    if "full-rank" not in baselines:
        return list(range(min(MAX_PAIRED_PARAMETERS, pooled.shape[1])))
    target, levels = pooled if reference is None else reference, np.linspace(0.02, 0.98, 49)
    differences = np.quantile(target, levels, axis=0) - np.quantile(baselines["full-rank"], levels, axis=0)
    distances = np.abs(differences).mean(axis=0) / (target.std(axis=0) + 1e-12)
    return [int(j) for j in np.argsort(-distances, kind="stable")[:MAX_PAIRED_PARAMETERS]]


def training_bounds(
    steps: Sequence[int],
    values: FloatArray,
    evidence: tuple[float, float] | None = None,
    *,
    theme: Theme = LIGHT,
) -> Figure:
    """Plot the bound of every fit per step, ``values [T, F]`` in nats, and the evidence by annealing as a band."""
    with theme.context():
        figure = new_figure(WIDTH, 2.4)
        axes = figure.subplots()
        for i, bounds in enumerate(values.T):
            axes.plot(steps, bounds, color=theme.palette[i % len(theme.palette)], lw=0.9, label=f"fit {i}")
        late = values[len(values) // 2 :]
        low, high = (float(np.quantile(late, q)) for q in (0.02, 0.98)) if late.size else (0.0, 1.0)
        if evidence is not None:
            value, error = evidence
            axes.axhspan(value - 2 * error, value + 2 * error, color=theme.muted, alpha=0.3, lw=0)
            label = "log evidence by annealing"
            axes.axhline(value, color=theme.foreground, lw=0.8, ls=DASHED, label=label)
            low, high = min(low, value), max(high, value)
        pad = max(0.5, 0.6 * (high - low))
        axes.set(xlabel="step", ylabel="bound, nats", ylim=(low - pad, high + pad))
        axes.legend(loc="lower right", ncols=3)
    return figure


def _bin_edges(values: FloatArray) -> FloatArray:
    low, high = np.quantile(values, SHOWN_QUANTILES)
    pad = 0.12 * (high - low) + 1e-9 * (1 + abs(low))
    return np.linspace(low - pad, high + pad, NUM_EDGES)


def _plot_density(axes: Axes, values: FloatArray, edges: FloatArray, **style: Any) -> None:
    heights, _ = np.histogram(values, bins=edges)
    axes.plot((edges[1:] + edges[:-1]) / 2, heights / (len(values) * (edges[1] - edges[0])), **style)
