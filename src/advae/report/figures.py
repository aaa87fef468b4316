"""Figures of the latent space (codes, prior against aggregated posterior) and of data that are vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from advae.report.base import LIGHT, WIDTH, FloatArray, Theme, bare, finite_rows, new_figure, plain

MASSES = (0.5, 0.9)  # of the regions drawn for prior and aggregated posterior
HISTOGRAMS = 10  # dimensions with a histogram of their own: those farthest from the prior
NAMED_CLASSES = 20  # more classes are coloured by a scale and not named in the figure


def codes(
    z: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    names: Sequence[str] | None = None,
    theme: Theme = LIGHT,
) -> Figure:
    """Codes z [N, d] in two dimensions, coloured by label [N] (class k is called ``names[k]``), and their regions.

    With d > 2 they are projected on their two principal directions (SVD), about the origin, where a
    standard normal prior stays standard normal; so the circles hold 50 % and 90 % of the prior.
    """
    z = np.asarray(z, dtype=np.float64)
    keep = np.isfinite(z).all(axis=1)
    points, axis_names = project(z[keep])
    classes = None if labels is None else np.asarray(labels)[keep]
    reach = max(3.2, 1.12 * float(np.percentile(np.abs(points), 99.8))) if len(points) else 3.2
    with theme.context():
        figure = new_figure(WIDTH, 0.545 * WIDTH)
        left, right = figure.subplots(1, 2)
        for axes in (left, right):
            axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel=axis_names[0])
            _prior_circles(axes, theme)
        left.set_ylabel(axis_names[1])
        _scatter(left, points, classes, names, theme)
        _regions(right, points, reach, theme)
        left.set_title("codes" if classes is None else "codes, by label")
        lines = (
            Line2D([], [], color=theme.first, label="aggregated posterior"),
            Line2D([], [], color=theme.muted, ls=(0, (4, 3)), lw=1, label="prior"),
        )
        place = {"loc": "lower left", "bbox_to_anchor": (-0.02, 0.995), "borderpad": 0.2, "columnspacing": 1.2}
        right.legend(handles=lines, ncols=2, handlelength=1.6, borderaxespad=0, **place).set_in_layout(False)
    return figure


def project(z: FloatArray) -> tuple[FloatArray, tuple[str, str]]:
    """Codes [N, d] in two dimensions [N, 2], and what the two are."""
    dimensions = z.shape[1]
    if dimensions == 2:
        return z, ("$z_1$", "$z_2$")
    if dimensions < 2 or len(z) < 3:
        jitter = np.random.default_rng(0).normal(size=(len(z), 2))
        jitter[:, :dimensions] = z[:, :1] if dimensions == 1 else z[:, :2]
        return jitter, ("$z_1$", "noise, for sight" if dimensions < 2 else "$z_2$")
    _, scales, directions = np.linalg.svd(z - z.mean(axis=0), full_matrices=False)
    total = float((scales**2).sum()) or 1.0
    shares = [f"principal direction {i + 1} ({100 * scales[i] ** 2 / total:.0f} % of variance)" for i in (0, 1)]
    return z @ directions[:2].T, (shares[0], shares[1])


def prior_against_aggregated(z: ArrayLike, *, theme: Theme = LIGHT) -> Figure:
    """The aggregated posterior, codes z [N, d], against N(0, 1) in every dimension.

    Above: histograms of the (up to ten) dimensions farthest from the prior. Middle: median, the middle
    68 % (thick) and 95 % (thin) of every dimension, over the prior's bands. Below: standard deviations.
    """
    z = finite_rows(z)
    farthest = np.argsort(-_distance(z), kind="stable")[:HISTOGRAMS]
    shown = np.sort(farthest)
    columns = max(1, min(5, len(shown)))
    rows = max(1, -(-len(shown) // columns))
    with theme.context():
        figure = new_figure(WIDTH, 1.05 * rows + 2.6)
        above, lower = figure.subfigures(2, 1, height_ratios=[1.05 * rows, 2.6])
        panels = list(np.asarray(above.subplots(rows, columns, squeeze=False, sharex=True)).flat)
        for axes, dimension in zip(panels, shown, strict=False):
            _histogram(axes, z[:, dimension], f"$z_{{{dimension + 1}}}$", theme)
        for spare in panels[len(shown) :]:
            spare.set_visible(False)
        middle, below = lower.subplots(2, 1, sharex=True, height_ratios=[3, 2])
        _quantiles(middle, z, theme)
        _deviations(below, z, theme)
    return figure


def vectors(data: ArrayLike, samples: ArrayLike, *, theme: Theme = LIGHT) -> Figure:
    """Vectors of the data and of the model, each [N, n]: a scatter and up to six marginals.

    With n > 2 the scatter shows the two principal directions of the data.
    """
    data, samples = finite_rows(data), finite_rows(samples)
    count = min(6, data.shape[1])
    with theme.context():
        figure = new_figure(WIDTH, 3.5)
        left, right = figure.subfigures(1, 2, width_ratios=[1, 1])
        axes = left.subplots()
        (a, b), names = _plane(data, samples)
        size = _size(len(a) + len(b))
        for points, colour, name in ((a, theme.first, "data"), (b, theme.second, "model")):
            axes.scatter(*points.T, s=size, color=colour, alpha=0.5, lw=0, label=name)
        axes.set(xlabel=names[0], ylabel=names[1])
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=2, markerscale=2)
        columns = 1 if count <= 3 else 2
        panels = list(np.asarray(right.subplots(-(-count // columns), columns, squeeze=False)).flat)
        for i, panel in enumerate(panels):
            panel.set_visible(i < count)
            if i < count:
                _marginals(panel, data[:, i], samples[:, i], f"$x_{{{i + 1}}}$", theme)
    return figure


def vector_reconstructions(originals: ArrayLike, reconstructions: ArrayLike, *, theme: Theme = LIGHT) -> Figure:
    """Each reconstructed value against its original, a panel for each of up to six dimensions."""
    x, x_hat = (np.asarray(v, dtype=np.float64).reshape(len(np.asarray(v)), -1) for v in (originals, reconstructions))
    count = min(6, x.shape[1])
    columns = min(3, count)
    with theme.context():
        figure = new_figure(WIDTH if columns > 1 else 3.2, 2.3 * -(-count // columns))
        panels = list(np.asarray(figure.subplots(-(-count // columns), columns, squeeze=False)).flat)
        for i, axes in enumerate(panels):
            axes.set_visible(i < count)
            if i < count:
                axes.axline((0, 0), slope=1, color=theme.muted, lw=0.8, ls=(0, (4, 3)))
                axes.scatter(x[:, i], x_hat[:, i], s=_size(len(x)), color=theme.first, alpha=0.5, lw=0)
                axes.set(xlabel=f"$x_{{{i + 1}}}$", ylabel=rf"$\hat{{x}}_{{{i + 1}}}$")
    return figure


def _prior_circles(axes: Axes, theme: Theme) -> None:
    for mass in MASSES:  # |z|² of two standard normals is exponential with mean 2
        radius = math.sqrt(-2 * math.log1p(-mass))
        axes.add_patch(Circle((0, 0), radius, fill=False, color=theme.muted, lw=1, ls=(0, (4, 3)), zorder=4))


def _scatter(
    axes: Axes,
    points: FloatArray,
    labels: NDArray[np.generic] | None,
    names: Sequence[str] | None,
    theme: Theme,
) -> None:
    size = _size(len(points))
    kinds = [] if labels is None else np.unique(labels).tolist()
    if labels is None or len(kinds) > NAMED_CLASSES:
        scale = {"color": theme.first} if labels is None else {"c": labels, "cmap": "viridis"}
        axes.scatter(*points.T, s=size, alpha=0.6, lw=0, **scale)
        return
    # In a fixed shuffled order, or the last class would lie over all others.
    order = np.random.default_rng(0).permutation(len(points))
    colours = np.array([theme.classes[kinds.index(k) % len(theme.classes)] for k in labels.tolist()])
    axes.scatter(*points[order].T, s=size, c=list(colours[order]), alpha=0.7, lw=0)
    for index, kind in enumerate(kinds):
        x, y = np.median(points[labels == kind], axis=0)
        colour = theme.classes[index % len(theme.classes)]
        halo = [withStroke(linewidth=3, foreground=theme.paper)]
        name = names[kind] if names is not None and 0 <= kind < len(names) else kind
        axes.text(
            *(x, y, plain(name)), color=colour, size=12, weight="bold", ha="center", va="center",
            path_effects=halo, zorder=6,
        )  # fmt: skip


def _regions(axes: Axes, points: FloatArray, reach: float, theme: Theme) -> None:
    """Smallest regions that hold the masses, from a smoothed histogram."""
    if len(points) < 20:
        return
    bins = 90
    counts, edges, _ = np.histogram2d(*points.T, bins=bins, range=[(-reach, reach)] * 2)
    width = max(1.5, bins / (2 * reach) * 0.9 * len(points) ** (-1 / 6))  # Scott's rule, in bins
    offsets = np.arange(bins)[:, None] - np.arange(bins)[None, :]
    kernel = np.exp(-0.5 * (offsets / width) ** 2)
    kernel /= kernel.sum(axis=1, keepdims=True)
    density = kernel @ counts @ kernel.T
    ranked = np.sort(density.ravel())[::-1]
    mass = np.cumsum(ranked) / ranked.sum()
    levels = sorted({float(ranked[np.searchsorted(mass, m)]) for m in MASSES})
    centres = (edges[1:] + edges[:-1]) / 2
    fills = [(theme.first, alpha) for alpha in (0.13, 0.3)][-len(levels) :]
    axes.contourf(centres, centres, density.T, levels=[*levels, np.inf], colors=fills)
    axes.contour(centres, centres, density.T, levels=levels, colors=[theme.first], linewidths=1.1)


def _distance(z: FloatArray) -> FloatArray:
    """Each dimension's largest gap between its quantiles and the standard normal's: [d]."""
    if not len(z):
        return np.zeros(z.shape[1])
    shares = np.array([0.025, 0.16, 0.5, 0.84, 0.975])
    normal = np.array([-1.95996, -0.99446, 0.0, 0.99446, 1.95996])
    gaps: FloatArray = np.abs(np.quantile(z, shares, axis=0) - normal[:, None]).max(axis=0)
    return gaps


def _histogram(axes: Axes, values: FloatArray, name: str, theme: Theme) -> None:
    reach = max(3.5, float(np.abs(values).max(initial=0)) * 1.02)
    grid = np.linspace(-reach, reach, 240)
    axes.hist(values, bins=36, range=(-reach, reach), density=True, color=theme.first, alpha=0.45, lw=0)
    axes.plot(grid, np.exp(-0.5 * grid**2) / math.sqrt(2 * math.pi), color=theme.ink, lw=0.9)
    _name(axes, name)


def _name(axes: Axes, name: str) -> None:
    axes.text(0.03, 0.97, name, transform=axes.transAxes, va="top")
    axes.margins(y=0.12)
    bare(axes)


def _quantiles(axes: Axes, z: FloatArray, theme: Theme) -> None:
    for reach, alpha in ((1.95996, 0.10), (0.99446, 0.14)):
        axes.axhspan(-reach, reach, color=theme.muted, alpha=alpha, lw=0)
    axes.axhline(0, color=theme.muted, lw=0.8, ls=(0, (4, 3)))
    if len(z):
        low, lower, median, upper, high = np.quantile(z, [0.025, 0.16, 0.5, 0.84, 0.975], axis=0)
        where = np.arange(1, z.shape[1] + 1)
        thick = min(5.0, 220 / z.shape[1])
        axes.vlines(where, low, high, color=theme.first, lw=max(0.5, thick / 5))
        axes.vlines(where, lower, upper, color=theme.first, lw=thick)
        axes.scatter(where, median, s=thick**2 * 0.7, color=theme.paper, lw=0, zorder=3)
    axes.set(xlim=(0.3, z.shape[1] + 0.7), ylabel="quantiles of $z$")
    axes.grid(False, axis="x")


def _deviations(axes: Axes, z: FloatArray, theme: Theme) -> None:
    deviation = z.std(axis=0) if len(z) else np.zeros(z.shape[1])
    axes.bar(np.arange(1, z.shape[1] + 1), deviation, width=0.66, color=theme.first, alpha=0.6, lw=0)
    axes.axhline(1, color=theme.ink, lw=0.9)
    axes.xaxis.set_major_locator(MaxNLocator(16, integer=True))
    axes.set(ylim=(0, 1.15 * max(1.0, deviation.max())))
    axes.set(xlim=(0.3, z.shape[1] + 0.7), ylabel="std", xlabel="latent dimension")
    axes.grid(False, axis="x")


def _marginals(axes: Axes, data: FloatArray, samples: FloatArray, name: str, theme: Theme) -> None:
    low, high = np.percentile(np.concatenate([data, samples]), [0.2, 99.8])
    limits = (low, high) if high > low else (low - 0.5, high + 0.5)
    axes.hist(data, bins=36, range=limits, density=True, color=theme.first, alpha=0.4, lw=0)
    axes.hist(samples, bins=36, range=limits, density=True, color=theme.second, histtype="step", lw=1.1)
    _name(axes, name)


def _plane(data: FloatArray, samples: FloatArray) -> tuple[tuple[FloatArray, FloatArray], tuple[str, str]]:
    """Data and samples in the plane of the data's two principal directions, or as they are."""
    if data.shape[1] == 2:
        return (data, samples), ("$x_1$", "$x_2$")
    if data.shape[1] == 1:
        rng = np.random.default_rng(0)
        a, b = (np.column_stack([v[:, 0], rng.uniform(size=len(v))]) for v in (data, samples))
        return (a, b), ("$x_1$", "noise, for sight")
    centre = data.mean(axis=0)
    directions = np.linalg.svd(data - centre, full_matrices=False)[2][:2].T
    names = ("principal direction 1 of the data", "principal direction 2 of the data")
    return ((data - centre) @ directions, (samples - centre) @ directions), names


def _size(count: int) -> float:
    """Area of a point in a scatter of ``count``."""
    return float(np.clip(9000 / max(count, 1), 2.5, 12))
