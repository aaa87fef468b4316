"""The true posterior of a code of two dimensions beside the encoder's draws, for a few observations."""

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

from advae.report.figures.image_grid import as_colours
from advae.report.figures.style import LIGHT, WIDTH, FloatArray, Theme, new_figure, point_size

MASSES = (0.99, 0.9, 0.5)  # of the regions that are shaded, from pale to full
SHADES = (0.16, 0.34, 0.62)
COLUMNS = 3
ROOM = 1.25  # of a panel's side to what it shows
INSET = 0.24  # of a panel's side: the observation itself, in a corner


@dataclass(frozen=True)
class Posteriors:
    """What is drawn for B observations.

    Attributes:
        axes: of the grids, ``[B, 2, points]``.
        log_density: log p(z|x), ``[B, points, points]``: ``[b, i, j]`` at ``(axes[b, 0, i], axes[b, 1, j])``.
        draws: from q(z|x), ``[B, S, 2]``.
        shown: the observations as images in gray levels ``[B, C, H, W]``, or None.
    """

    axes: FloatArray
    log_density: FloatArray
    draws: FloatArray
    shown: ArrayLike | None = None


def posterior_panels(found: Posteriors, *, theme: Theme = LIGHT) -> Figure:
    """A panel an observation: the smallest regions that hold 50, 90 and 99 % of p(z|x), and draws from q(z|x)."""
    count = len(found.axes)
    columns = min(COLUMNS, count)
    rows = math.ceil(count / columns)
    with theme.context():
        figure = new_figure(WIDTH * columns / COLUMNS, 0.55 + 2.3 * rows)
        panels = list(np.asarray(figure.subplots(rows, columns, squeeze=False)).flat)
        for spare in panels[count:]:
            spare.set_visible(False)
        for i, axes in enumerate(panels[:count]):
            _panel(axes, found, i, theme)
            axes.set_xlabel("$z_1$" if i + columns >= count else "")
            axes.set_ylabel("$z_2$" if i % columns == 0 else "")
        handles: list[Artist] = [
            Patch(color=theme.first, alpha=shade, lw=0, label=label)
            for shade, label in zip(reversed(SHADES), ("true posterior: 50 %", "90 %", "99 %"), strict=True)
        ]
        dots = Line2D([], [], color=theme.second, marker="o", ms=3, ls="", label="draws of the encoder")
        figure.legend(handles=[*handles, dots], loc="outside upper left", ncols=4, handlelength=1.2)
    return figure


def _panel(axes: Axes, found: Posteriors, i: int, theme: Theme) -> None:
    horizontal, vertical = found.axes[i]
    draws, levels = found.draws[i], mass_levels(found.log_density[i])
    seen = draws[np.isfinite(draws).all(axis=1)]
    if levels:
        density = np.exp(found.log_density[i] - found.log_density[i].max())
        fills = [(theme.first, shade) for shade in SHADES[-len(levels) :]]
        axes.contourf(horizontal, vertical, density.T, levels=[*levels, np.inf], colors=fills)
        inside = np.argwhere(density >= levels[0])
        seen = np.concatenate([seen, np.column_stack([horizontal[inside[:, 0]], vertical[inside[:, 1]]])])
    axes.scatter(
        draws[:, 0], draws[:, 1], s=0.4 * point_size(len(draws)), color=theme.second, alpha=0.45, lw=0
    )
    low, high = _window(seen)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    if found.shown is not None:
        corner = axes.inset_axes((*_emptiest((seen - low) / (high - low)), INSET, INSET))
        corner.imshow(as_colours(np.asarray(found.shown)[i : i + 1])[0], interpolation="nearest")
        corner.set(xticks=[], yticks=[])
        corner.grid(False)
        corner.spines[:].set(visible=True, color=theme.muted, linewidth=0.6)


def _window(points: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The lower left and upper right corner of a square about the points [N, 2], with room for the image."""
    if not len(points):
        return np.full(2, -1.0), np.full(2, 1.0)
    low, high = points.min(axis=0), points.max(axis=0)
    half = ROOM * float((high - low).max()) / 2 or 1.0
    return (low + high) / 2 - half, (low + high) / 2 + half


def mass_levels(log_density: FloatArray) -> list[float]:
    """Densities, of the mode's, above which the smallest regions with these masses lie; rising, no two alike."""
    if not np.isfinite(log_density.max()):
        return []
    ranked = np.sort(np.exp(log_density - log_density.max()).ravel())[::-1]
    mass = np.cumsum(ranked) / ranked.sum()
    return sorted({float(ranked[np.searchsorted(mass, share)]) for share in MASSES} - {0.0, 1.0})


def _emptiest(points: FloatArray) -> tuple[float, float]:
    """Left and bottom of the corner with the fewest of the points [N, 2], in shares of the panel's side."""
    near, far = 0.02, 0.98 - INSET
    corners = [(far, far), (near, far), (near, near), (far, near)]
    inside = [
        int(((points >= corner) & (points <= np.add(corner, INSET))).all(axis=1).sum()) for corner in corners
    ]
    return corners[int(np.argmin(inside))]
