"""Latent space: samples from the encoder, the aggregated posterior against the prior, and true posteriors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

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
    region_levels,
)
from advae.tiling import to_rgb

REGION_MASSES = (0.5, 0.9)  # of the contours of prior and aggregated posterior
MAX_HISTOGRAMS, HISTOGRAM_BINS = 10, 36
NO_LABEL = -1
MAX_NAMED_CLASSES = 20  # more classes are colored by a scale, without names
QUANTILE_LEVELS = (0.025, 0.16, 0.5, 0.84, 0.975)
NORMAL_QUANTILES = (-1.95996, -0.99446, 0.0, 0.99446, 1.95996)
MIN_NOTED_FRACTION = 5e-4  # of latents outside a histogram, which is shown as 0.1 %
DENSITY_BINS = 90  # per axis
MIN_DENSITY_POINTS = 20

POSTERIOR_MASSES = (0.99, 0.9, 0.5)
POSTERIOR_ALPHAS = (0.16, 0.34, 0.62)
POSTERIOR_COLUMNS = 3
WINDOW_SCALE = 1.25  # side of a panel relative to the range of what it shows
INSET_SIZE = 0.24  # of the observation in a corner, relative to the panel


def latent_scatter(
    z: ArrayLike, labels: ArrayLike | None = None, *, names: Sequence[str] | None = None, theme: Theme = LIGHT
) -> Figure:
    """Plot latents ``z [N, d]`` colored by label ``[N]`` (class k is ``names[k]``), and regions of high density.

    With d > 2 they are projected on their principal directions (SVD) about the origin, where a standard normal prior
    remains standard normal; so the circles hold 50 % and 90 % of the prior.
    """
    z = np.asarray(z, dtype=np.float64)
    is_finite = np.isfinite(z).all(axis=1)
    points, axis_names = project_to_plane(z[is_finite])
    classes = None if labels is None else np.asarray(labels)[is_finite]
    reach = max(3.2, 1.12 * float(np.percentile(np.abs(points), 99.8))) if len(points) else 3.2
    with theme.context():
        figure = new_figure(WIDTH, 0.545 * WIDTH)
        left, right = figure.subplots(1, 2)
        for axes in (left, right):
            axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel=axis_names[0])
            for mass in REGION_MASSES:  # |z|² of two standard normals is exponential with mean 2
                radius = math.sqrt(-2 * math.log1p(-mass))
                circle = Circle((0, 0), radius, fill=False, color=theme.muted, lw=1, ls=DASHED, zorder=4)
                axes.add_patch(circle)
        left.set_ylabel(axis_names[1])
        _scatter(left, points, classes, names, theme)
        _shade_density(right, points, reach, theme)
        left.set_title("latents" if classes is None else "latents, by label")
        lines = (
            Line2D([], [], color=theme.primary, label="aggregated posterior"),
            Line2D([], [], color=theme.muted, ls=DASHED, lw=1, label="prior"),
        )
        legend = right.legend(
            handles=lines, ncols=2, loc="lower left", bbox_to_anchor=(-0.02, 0.995),
            handlelength=1.6, columnspacing=1.2, borderpad=0.2, borderaxespad=0,
        )  # fmt: skip
        legend.set_in_layout(False)
    return figure


def project_to_plane(z: FloatArray) -> tuple[FloatArray, tuple[str, str]]:
    """Return latents ``[N, d]`` in two dimensions ``[N, 2]``, and the names of the axes."""
    dimensions = z.shape[1]
    if dimensions == 2:
        return z, ("$z_1$", "$z_2$")
    if dimensions < 2 or len(z) < 3:
        points = np.random.default_rng(0).normal(size=(len(z), 2))
        points[:, :dimensions] = z[:, :2]
        return points, ("$z_1$", "random height" if dimensions < 2 else "$z_2$")
    _, scales, directions = np.linalg.svd(z - z.mean(axis=0), full_matrices=False)
    total = float((scales**2).sum()) or 1.0
    first, second = (f"{100 * scale**2 / total:.0f} % of variance" for scale in scales[:2])
    return z @ directions[:2].T, (f"principal direction 1 ({first})", f"principal direction 2 ({second})")


def _scatter(
    axes: Axes, points: FloatArray, labels: NDArray[Any] | None, names: Sequence[str] | None, theme: Theme
) -> None:
    area = marker_area(len(points))
    classes = [] if labels is None else [label for label in np.unique(labels).tolist() if label != NO_LABEL]
    if labels is None or len(classes) > MAX_NAMED_CLASSES:
        scale = colormaps["viridis"]
        color = theme.primary if labels is None else scale(labels.astype(float) / max(1, int(labels.max())))
        axes.scatter(points[:, 0], points[:, 1], s=area, c=color, alpha=0.6, lw=0)
        return
    # In random order, so that the last class does not cover all others.
    order = np.random.default_rng(0).permutation(len(points))
    palette = {label: theme.palette[i % len(theme.palette)] for i, label in enumerate(classes)}
    colors = np.array([palette.get(label, theme.muted) for label in labels.tolist()])
    x, y = points[order].T
    axes.scatter(x, y, s=area, c=list(colors[order]), alpha=0.7, lw=0)
    for label, color in palette.items():
        center = np.median(points[labels == label], axis=0)
        name = names[label] if names is not None and 0 <= label < len(names) else label
        axes.text(
            *(*center, escape_mathtext(name)), color=color, size=12, weight="bold", ha="center", va="center",
            path_effects=[withStroke(linewidth=3, foreground=theme.background)], zorder=6,
        )  # fmt: skip


def _shade_density(axes: Axes, points: FloatArray, reach: float, theme: Theme) -> None:
    """Shade the smallest regions that hold the masses, from a smoothed histogram."""
    if len(points) < MIN_DENSITY_POINTS:
        return
    limits = [(-reach, reach)] * 2
    counts, edges, _ = np.histogram2d(points[:, 0], points[:, 1], bins=DENSITY_BINS, range=limits)
    scott_width = DENSITY_BINS / (2 * reach) * 1.1 * len(points) ** (-1 / 6)  # in bins
    offsets = np.arange(DENSITY_BINS)[:, None] - np.arange(DENSITY_BINS)[None, :]
    kernel = np.exp(-0.5 * (offsets / max(1.5, scott_width)) ** 2)
    kernel /= kernel.sum(axis=1, keepdims=True)
    density = kernel @ counts @ kernel.T
    if levels := region_levels(density, REGION_MASSES):
        centers = (edges[1:] + edges[:-1]) / 2
        fills = [(theme.primary, alpha) for alpha in (0.13, 0.3)[-len(levels) :]]
        axes.contourf(centers, centers, density.T, levels=[*levels, np.inf], colors=fills)
        axes.contour(centers, centers, density.T, levels=levels, colors=[theme.primary], linewidths=1.1)


# --- aggregated posterior -----------------------------------------------------------------------------------


def aggregated_posterior(z: ArrayLike, *, theme: Theme = LIGHT) -> Figure:
    """Plot the aggregated posterior, latents ``z [N, d]``, against N(0, 1) in every dimension.

    Top: histograms of up to ten dimensions with the largest deviations from the prior. Bottom: median, central 68 %
    (thick) and 95 % (thin) of every dimension, and shaded those of the prior.
    """
    z = finite_rows(z)
    dimensions = np.sort(np.argsort(-_quantile_deviation(z), kind="stable")[:MAX_HISTOGRAMS])
    columns = max(1, min(5, len(dimensions)))
    height = 1.05 * max(1, -(-len(dimensions) // columns))
    with theme.context():
        figure = new_figure(WIDTH, height + 1.8)
        top, lower = np.asarray(figure.subfigures(2, 1, height_ratios=[height, 1.8]), dtype=object)
        panels = make_panels(top, len(dimensions), columns, sharex=True)
        for axes, dimension in zip(panels, dimensions, strict=True):
            _histogram(axes, z[:, dimension], f"$z_{{{dimension + 1}}}$", theme)
        _plot_quantiles(lower.subplots(), z, theme)
    return figure


def _quantile_deviation(z: FloatArray) -> FloatArray:
    """Return the largest distance of each dimension's quantiles to those of a standard normal, ``[d]``."""
    if not len(z):
        return np.zeros(z.shape[1])
    normal = np.array(NORMAL_QUANTILES)[:, None]
    deviations: FloatArray = np.abs(np.quantile(z, QUANTILE_LEVELS, axis=0) - normal).max(axis=0)
    return deviations


def _histogram(axes: Axes, values: FloatArray, name: str, theme: Theme) -> None:
    # Without the outermost 1 %, which could squeeze the rest into a spike; a note says how many they are.
    reach = max(3.5, 1.1 * float(np.quantile(np.abs(values), 0.99))) if len(values) else 3.5
    grid = np.linspace(-reach, reach, 240)
    if len(values):
        # Heights are a density of all values, shown or not.
        weights = np.full(len(values), HISTOGRAM_BINS / (2 * reach * len(values)))
        axes.hist(
            values,
            bins=HISTOGRAM_BINS,
            range=(-reach, reach),
            weights=weights,
            color=theme.primary,
            alpha=0.45,
            lw=0,
        )
        outside = float((np.abs(values) > reach).mean())
        if outside >= MIN_NOTED_FRACTION:
            note = f"{100 * outside:.1f} % outside"
            axes.text(0.97, 0.97, note, transform=axes.transAxes, ha="right", va="top", size=6.5)
    axes.plot(grid, np.exp(-0.5 * grid**2) / math.sqrt(2 * math.pi), color=theme.foreground, lw=0.9)
    label_histogram(axes, name)


def _plot_quantiles(axes: Axes, z: FloatArray, theme: Theme) -> None:
    for reach, alpha in ((NORMAL_QUANTILES[-1], 0.10), (NORMAL_QUANTILES[-2], 0.14)):
        axes.axhspan(-reach, reach, color=theme.muted, alpha=alpha, lw=0)
    axes.axhline(0, color=theme.muted, lw=0.8, ls=DASHED)
    if len(z):
        low, lower, median, upper, high = np.quantile(z, QUANTILE_LEVELS, axis=0)
        dimensions = np.arange(1, z.shape[1] + 1)
        thick = min(5.0, 220 / z.shape[1])
        axes.vlines(dimensions, low, high, color=theme.primary, lw=max(0.5, thick / 5))
        axes.vlines(dimensions, lower, upper, color=theme.primary, lw=thick)
        axes.scatter(dimensions, median, s=thick**2 * 0.7, color=theme.background, lw=0, zorder=3)
    axes.set(xlim=(0.3, z.shape[1] + 0.7), xlabel="latent dimension", ylabel="quantiles of $z$")
    axes.xaxis.set_major_locator(MaxNLocator(16, integer=True))
    axes.grid(False, axis="x")


# --- true posteriors of two-dimensional latents ------------------------------------------------------------


@dataclass(frozen=True)
class PosteriorGrids:
    """True posteriors of B observations on grids, with samples from the encoder.

    Attributes:
        axes: of the grids, ``[B, 2, points]``.
        log_density: log p(z|x), ``[B, points, points]``: ``[b, i, j]`` at ``(axes[b, 0, i], axes[b, 1, j])``.
        samples: from q(z|x), ``[B, S, 2]``.
        images: the observations in gray levels ``[B, C, H, W]``, or None.
    """

    axes: FloatArray
    log_density: FloatArray
    samples: FloatArray
    images: ArrayLike | None = None


def posterior_panels(grids: PosteriorGrids, *, theme: Theme = LIGHT) -> Figure:
    """Plot the smallest regions that hold 50, 90 and 99 % of p(z|x), and samples from q(z|x), per observation."""
    count = len(grids.axes)
    columns = min(POSTERIOR_COLUMNS, count)
    with theme.context():
        figure = new_figure(WIDTH * columns / POSTERIOR_COLUMNS, 0.55 + 2.3 * math.ceil(count / columns))
        for i, axes in enumerate(make_panels(figure, count, columns)):
            _plot_posterior(axes, grids, i, theme)
            axes.set_xlabel("$z_1$" if i + columns >= count else "")
            axes.set_ylabel("$z_2$" if i % columns == 0 else "")
        labels = ("true posterior: 50 %", "90 %", "99 %")
        handles: list[Artist] = [
            Patch(color=theme.primary, alpha=alpha, lw=0, label=label)
            for alpha, label in zip(reversed(POSTERIOR_ALPHAS), labels, strict=True)
        ]
        handles.append(
            Line2D([], [], color=theme.secondary, marker="o", ms=3, ls="", label="encoder samples")
        )
        figure.legend(handles=handles, loc="outside upper left", ncols=4, handlelength=1.2)
    return figure


def _plot_posterior(axes: Axes, grids: PosteriorGrids, i: int, theme: Theme) -> None:
    horizontal, vertical = grids.axes[i]
    density = np.exp(grids.log_density[i] - grids.log_density[i].max())
    samples, levels = grids.samples[i], region_levels(density, POSTERIOR_MASSES)
    visible = samples[np.isfinite(samples).all(axis=1)]
    if levels:
        fills = [(theme.primary, alpha) for alpha in POSTERIOR_ALPHAS[-len(levels) :]]
        axes.contourf(horizontal, vertical, density.T, levels=[*levels, np.inf], colors=fills)
        inside = np.argwhere(density >= levels[0])
        region = np.column_stack([horizontal[inside[:, 0]], vertical[inside[:, 1]]])
        visible = np.concatenate([visible, region])
    area = 0.4 * marker_area(len(samples))
    axes.scatter(samples[:, 0], samples[:, 1], s=area, color=theme.secondary, alpha=0.45, lw=0)
    low, high = _square_window(visible)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    limit_ticks(axes, 4)
    if grids.images is not None:
        inset = axes.inset_axes((*_emptiest_corner((visible - low) / (high - low)), INSET_SIZE, INSET_SIZE))
        inset.imshow(to_rgb(np.asarray(grids.images)[i : i + 1])[0], interpolation="nearest")
        inset.set(xticks=[], yticks=[])
        inset.grid(False)
        inset.spines[:].set(visible=True, color=theme.muted, linewidth=0.6)


def _square_window(points: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the lower left and upper right corner of a square around points ``[N, 2]``, with room for the image."""
    if not len(points):
        return np.full(2, -1.0), np.full(2, 1.0)
    low, high = points.min(axis=0), points.max(axis=0)
    half = WINDOW_SCALE * float((high - low).max()) / 2 or 1.0
    return (low + high) / 2 - half, (low + high) / 2 + half


def _emptiest_corner(points: FloatArray) -> tuple[float, float]:
    """Return left and bottom of the inset in the corner with the fewest points ``[N, 2]``, relative to the panel."""
    near, far = 0.02, 0.98 - INSET_SIZE
    corners = [(far, far), (near, far), (near, near), (far, near)]
    counts = [int(((points >= c) & (points <= np.add(c, INSET_SIZE))).all(axis=1).sum()) for c in corners]
    return corners[int(np.argmin(counts))]
