"""Figures for data that are vectors: data and samples, and reconstructions."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from advae.report.figures.style import (
    DASHED,
    LIGHT,
    WIDTH,
    FloatArray,
    Theme,
    finite_rows,
    label_histogram,
    make_panels,
    marker_area,
    new_figure,
)

MAX_DIMENSIONS = 6  # with a panel


def vector_samples(data: ArrayLike, samples: ArrayLike, *, theme: Theme = LIGHT) -> Figure:
    """Plot data and samples, each ``[N, n]``: a scatter plot and up to six marginals.

    With n > 2 the scatter plot shows the two principal directions of the data.
    """
    data, samples = finite_rows(data), finite_rows(samples)
    count = min(MAX_DIMENSIONS, data.shape[1])
    points, axis_names = _project_to_plane(data, samples)
    with theme.context():
        figure = new_figure(WIDTH, 3.5)
        left, right = np.asarray(figure.subfigures(1, 2), dtype=object)
        axes = left.subplots()
        area = marker_area(len(data) + len(samples))
        for (x, y), color, name in zip(
            points, (theme.primary, theme.secondary), ("data", "model"), strict=True
        ):
            axes.scatter(x, y, s=area, color=color, alpha=0.5, lw=0, label=name)
        axes.set(xlabel=axis_names[0], ylabel=axis_names[1])
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=2, markerscale=2)
        for i, panel in enumerate(make_panels(right, count, 1 if count <= 3 else 2)):
            _plot_marginals(panel, data[:, i], samples[:, i], f"$x_{{{i + 1}}}$", theme)
    return figure


def vector_reconstructions(
    originals: ArrayLike, reconstructions: ArrayLike, *, theme: Theme = LIGHT
) -> Figure:
    """Plot reconstructed against original values, a panel for each of up to six dimensions."""
    x, x_hat = (np.asarray(v, dtype=np.float64).reshape(len(v), -1) for v in (originals, reconstructions))  # type: ignore[arg-type]
    count = min(MAX_DIMENSIONS, x.shape[1])
    columns = min(3, count)
    with theme.context():
        figure = new_figure(WIDTH if columns > 1 else 3.2, 2.3 * -(-count // columns))
        for i, axes in enumerate(make_panels(figure, count, columns)):
            axes.axline((0, 0), slope=1, color=theme.muted, lw=0.8, ls=DASHED)
            axes.scatter(x[:, i], x_hat[:, i], s=marker_area(len(x)), color=theme.primary, alpha=0.5, lw=0)
            axes.set(xlabel=f"$x_{{{i + 1}}}$", ylabel=rf"$\hat{{x}}_{{{i + 1}}}$")
    return figure


def _plot_marginals(axes: Axes, data: FloatArray, samples: FloatArray, name: str, theme: Theme) -> None:
    low, high = np.percentile(np.concatenate([data, samples]), [0.2, 99.8])
    limits = (low, high) if high > low else (low - 0.5, high + 0.5)
    bins = int(np.clip(1.2 * math.sqrt(len(data)), 10, 36))
    axes.hist(data, bins=bins, range=limits, density=True, color=theme.primary, alpha=0.4, lw=0)
    axes.hist(samples, bins=bins, range=limits, density=True, color=theme.secondary, histtype="step", lw=1.1)
    label_histogram(axes, name)


def _project_to_plane(
    data: FloatArray, samples: FloatArray
) -> tuple[tuple[FloatArray, FloatArray], tuple[str, str]]:
    """Return data and samples, ``[2, N]``, in the plane of the data's principal directions, and its axes' names."""
    if data.shape[1] == 2:
        return (data.T, samples.T), ("$x_1$", "$x_2$")
    if data.shape[1] == 1:
        rng = np.random.default_rng(0)
        points = [np.stack([v[:, 0], rng.uniform(size=len(v))]) for v in (data, samples)]
        return (points[0], points[1]), ("$x_1$", "random height")
    mean = data.mean(axis=0)
    directions = np.linalg.svd(data - mean, full_matrices=False)[2][:2]
    axis_names = ("principal direction 1 of the data", "principal direction 2 of the data")
    return (directions @ (data - mean).T, directions @ (samples - mean).T), axis_names
