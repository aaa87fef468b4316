"""Figures of the latent space (codes; prior against aggregated posterior in every dimension)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from advae.report.figures.style import (
    LIGHT,
    WIDTH,
    FloatArray,
    Theme,
    corner_name,
    finite_rows,
    new_figure,
    plain,
    point_size,
)

MASSES = (0.5, 0.9)  # of the regions drawn for prior and aggregated posterior
HISTOGRAMS = 10  # dimensions with a histogram of their own: those farthest from the prior
UNKNOWN = -1  # the label of an example without one
NAMED_CLASSES = 20  # more classes are coloured by a scale and not named in the figure


def codes(
    z: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    names: Sequence[str] | None = None,
    theme: Theme = LIGHT,
) -> Figure:
    """Codes z [N, d] in two dimensions, coloured by label [N] (class k is ``names[k]``), and their regions.

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
        legend = right.legend(
            handles=lines, ncols=2, loc="lower left", bbox_to_anchor=(-0.02, 0.995),
            handlelength=1.6, columnspacing=1.2, borderpad=0.2, borderaxespad=0,
        )  # fmt: skip
        legend.set_in_layout(False)
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
    first, second = (f"{100 * scale**2 / total:.0f} % of variance" for scale in scales[:2])
    return z @ directions[:2].T, (f"principal direction 1 ({first})", f"principal direction 2 ({second})")


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
        above, lower = np.asarray(figure.subfigures(2, 1, height_ratios=[1.05 * rows, 2.6]), dtype=object)
        panels = list(np.asarray(above.subplots(rows, columns, squeeze=False, sharex=True)).flat)
        for axes, dimension in zip(panels, shown, strict=False):
            _histogram(axes, z[:, dimension], f"$z_{{{dimension + 1}}}$", theme)
        for spare in panels[len(shown) :]:
            spare.set_visible(False)
        middle, below = lower.subplots(2, 1, sharex=True, height_ratios=[3, 2])
        _quantiles(middle, z, theme)
        _deviations(below, z, theme)
    return figure


def _prior_circles(axes: Axes, theme: Theme) -> None:
    for mass in MASSES:  # |z|² of two standard normals is exponential with mean 2
        radius = math.sqrt(-2 * math.log1p(-mass))
        axes.add_patch(Circle((0, 0), radius, fill=False, color=theme.muted, lw=1, ls=(0, (4, 3)), zorder=4))


def _scatter(
    axes: Axes,
    points: FloatArray,
    labels: NDArray[Any] | None,
    names: Sequence[str] | None,
    theme: Theme,
) -> None:
    size = point_size(len(points))
    kinds = [] if labels is None else [kind for kind in np.unique(labels).tolist() if kind != UNKNOWN]
    if labels is None or len(kinds) > NAMED_CLASSES:
        colour = (
            theme.first
            if labels is None
            else colormaps["viridis"](labels.astype(float) / max(1, int(labels.max())))
        )
        axes.scatter(points[:, 0], points[:, 1], s=size, c=colour, alpha=0.6, lw=0)
        return
    # In a fixed shuffled order, or the last class would lie over all others.
    order = np.random.default_rng(0).permutation(len(points))
    palette = {kind: theme.classes[i % len(theme.classes)] for i, kind in enumerate(kinds)}
    colours = np.array([palette.get(kind, theme.muted) for kind in labels.tolist()])
    x, y = points[order].T
    axes.scatter(x, y, s=size, c=list(colours[order]), alpha=0.7, lw=0)
    for kind, colour in palette.items():
        centre = np.median(points[labels == kind], axis=0)
        halo = [withStroke(linewidth=3, foreground=theme.paper)]
        name = names[kind] if names is not None and 0 <= kind < len(names) else kind
        axes.text(
            *(*centre, plain(name)), color=colour, size=12, weight="bold", ha="center", va="center",
            path_effects=halo, zorder=6,
        )  # fmt: skip


def _regions(axes: Axes, points: FloatArray, reach: float, theme: Theme) -> None:
    """Smallest regions that hold the masses, from a smoothed histogram."""
    if len(points) < 20:
        return
    bins = 90
    counts, edges, _ = np.histogram2d(points[:, 0], points[:, 1], bins=bins, range=[(-reach, reach)] * 2)
    width = max(1.5, bins / (2 * reach) * 1.1 * len(points) ** (-1 / 6))  # Scott's rule, in bins
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
    # All but one in a hundred: a few far codes would squeeze the rest into a spike. They are counted in a note.
    reach = max(3.5, 1.1 * float(np.quantile(np.abs(values), 0.99))) if len(values) else 3.5
    grid = np.linspace(-reach, reach, 240)
    if len(values):
        weights = np.full(len(values), 18 / (reach * len(values)))  # a density of all codes, shown or not
        axes.hist(
            values, bins=36, range=(-reach, reach), weights=weights, color=theme.first, alpha=0.45, lw=0
        )
        outside = float((np.abs(values) > reach).mean())
        if outside:
            note = f"{100 * outside:.1f} % outside"
            axes.text(0.97, 0.97, note, transform=axes.transAxes, ha="right", va="top", size=6.5)
    axes.plot(grid, np.exp(-0.5 * grid**2) / math.sqrt(2 * math.pi), color=theme.ink, lw=0.9)
    corner_name(axes, name)


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
