"""True posterior of a two-dimensional latent and the encoder's samples, for a few observations."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from advae.report.figures.style import LIGHT, WIDTH, FloatArray, Theme, marker_area, new_figure
from advae.tiling import to_rgb

REGION_MASSES = (0.99, 0.9, 0.5)
REGION_ALPHAS = (0.16, 0.34, 0.62)
COLUMNS = 3
WINDOW_SCALE = 1.25  # side of a panel relative to the range of what it shows
INSET_SIZE = 0.24  # of the observation in a corner, relative to the panel


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
    columns = min(COLUMNS, count)
    rows = math.ceil(count / columns)
    with theme.context():
        figure = new_figure(WIDTH * columns / COLUMNS, 0.55 + 2.3 * rows)
        panels = list(np.asarray(figure.subplots(rows, columns, squeeze=False)).flat)
        for unused in panels[count:]:
            unused.set_visible(False)
        for i, axes in enumerate(panels[:count]):
            _plot_panel(axes, grids, i, theme)
            axes.set_xlabel("$z_1$" if i + columns >= count else "")
            axes.set_ylabel("$z_2$" if i % columns == 0 else "")
        labels = ("true posterior: 50 %", "90 %", "99 %")
        handles: list[Artist] = [
            Patch(color=theme.primary, alpha=alpha, lw=0, label=label)
            for alpha, label in zip(reversed(REGION_ALPHAS), labels, strict=True)
        ]
        handles.append(
            Line2D([], [], color=theme.secondary, marker="o", ms=3, ls="", label="encoder samples")
        )
        figure.legend(handles=handles, loc="outside upper left", ncols=4, handlelength=1.2)
    return figure


def region_levels(log_density: FloatArray) -> list[float]:
    """Return the densities, relative to the mode, at the edges of the regions, in increasing order and distinct."""
    if not np.isfinite(log_density.max()):
        return []
    ranked = np.sort(np.exp(log_density - log_density.max()).ravel())[::-1]
    mass = np.cumsum(ranked) / ranked.sum()
    return sorted({float(ranked[np.searchsorted(mass, share)]) for share in REGION_MASSES} - {0.0, 1.0})


def _plot_panel(axes: Axes, grids: PosteriorGrids, i: int, theme: Theme) -> None:
    horizontal, vertical = grids.axes[i]
    samples, levels = grids.samples[i], region_levels(grids.log_density[i])
    visible = samples[np.isfinite(samples).all(axis=1)]
    if levels:
        density = np.exp(grids.log_density[i] - grids.log_density[i].max())
        fills = [(theme.primary, alpha) for alpha in REGION_ALPHAS[-len(levels) :]]
        axes.contourf(horizontal, vertical, density.T, levels=[*levels, np.inf], colors=fills)
        inside = np.argwhere(density >= levels[0])
        region = np.column_stack([horizontal[inside[:, 0]], vertical[inside[:, 1]]])
        visible = np.concatenate([visible, region])
    area = 0.4 * marker_area(len(samples))
    axes.scatter(samples[:, 0], samples[:, 1], s=area, color=theme.secondary, alpha=0.45, lw=0)
    low, high = _square_window(visible)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(4))
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
