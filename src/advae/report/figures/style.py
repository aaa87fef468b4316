"""Style of all figures: a light and a dark theme, size, fonts, and PNG export.

Figures use matplotlib's object interface on an Agg canvas and leave pyplot and other global state alone. In a page
they are transparent, and the page shows the version of its own theme; in a file they have the theme's background.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

DPI = 200  # two pixels per CSS pixel, for dense screens
WIDTH = 7.0  # inches, 700 CSS pixels: the width of a page's text
MAX_LABEL_LENGTH = 60  # characters
DASHED = (0, (4, 3))


@dataclass(frozen=True)
class Theme:
    """Colors of one version; ``palette`` has ten that are easy to tell apart."""

    name: str
    background: str
    foreground: str
    muted: str
    grid: str
    primary: str
    secondary: str
    palette: tuple[str, ...]

    def context(self) -> AbstractContextManager[None]:
        """Apply the theme's matplotlib settings within a ``with`` block."""
        return matplotlib.rc_context(
            {
                "font.family": ["STIXGeneral", "DejaVu Serif"],
                "mathtext.fontset": "stix",
                "font.size": 9.5,
                "axes.titlesize": 9.5,
                "axes.titlelocation": "left",
                "axes.titlepad": 5,
                "axes.labelsize": 9,
                "axes.labelcolor": self.muted,
                "axes.edgecolor": self.muted,
                "axes.linewidth": 0.6,
                "axes.facecolor": "none",
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.grid": True,
                "axes.axisbelow": True,
                "grid.color": self.grid,
                "grid.linewidth": 0.5,
                "text.color": self.foreground,
                "axes.titlecolor": self.foreground,
                "xtick.color": self.muted,
                "ytick.color": self.muted,
                "xtick.labelsize": 8,
                "ytick.labelsize": 8,
                "xtick.major.size": 2.5,
                "ytick.major.size": 2.5,
                "xtick.major.width": 0.6,
                "ytick.major.width": 0.6,
                "lines.linewidth": 1.3,
                "legend.frameon": False,
                "legend.fontsize": 9,
                "figure.facecolor": "none",
                "savefig.facecolor": "none",
            }
        )


LIGHT = Theme(
    name="light",
    background="#ffffff",
    foreground="#1d1c1a",
    muted="#69655d",
    grid="#e6e2da",
    primary="#2b5f94",
    secondary="#c9562f",
    palette=(
        *("#2f6ca8", "#d2602f", "#3b8f5a", "#8a57a6", "#c4932a"),
        *("#2f9faa", "#c14a7c", "#7a6650", "#7c858f", "#8aa336"),
    ),
)
DARK = Theme(
    name="dark",
    background="#16181c",
    foreground="#dedbd3",
    muted="#a09c93",
    grid="#31343a",
    primary="#83b4e6",
    secondary="#f0936b",
    palette=(
        *("#79b0e8", "#f28e62", "#6cc48c", "#c197dd", "#e8bf5c"),
        *("#62cdd6", "#ee86b0", "#b8a184", "#aab2bb", "#bdd663"),
    ),
)
THEMES = (LIGHT, DARK)


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of ``width`` by ``height`` inches, with a layout without overlaps."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def make_panels(figure: FigureBase, count: int, columns: int, **options: Any) -> list[Axes]:
    """Return ``count`` axes in rows of ``columns``; the rest of the last row stays empty."""
    grid = figure.subplots(max(1, -(-count // columns)), columns, squeeze=False, **options)
    panels: list[Axes] = np.asarray(grid).ravel().tolist()
    for unused in panels[count:]:
        unused.set_visible(False)
    for lowest in panels[max(0, count - columns) : count]:
        lowest.xaxis.set_tick_params(labelbottom=True)  # with a shared axis, also above an empty place
    return panels[:count]


def limit_ticks(axes: Axes, count: int) -> None:
    """Limit the ticks of both axes to about ``count`` round numbers."""
    axes.xaxis.set_major_locator(MaxNLocator(count))
    axes.yaxis.set_major_locator(MaxNLocator(count))


def region_levels(density: FloatArray, masses: Sequence[float]) -> list[float]:
    """Return the densities at the edges of the smallest regions that hold these masses, increasing and distinct.

    ``density`` has values on a grid, of any scale; there are no levels if it is not finite.
    """
    if not np.isfinite(density.max()):
        return []
    ranked = np.sort(density.ravel())[::-1]
    mass = np.cumsum(ranked) / ranked.sum()
    return sorted({float(ranked[np.searchsorted(mass, share)]) for share in masses} - {0.0, ranked[0]})


def to_png(figure: Figure, theme: Theme = LIGHT, *, transparent: bool = False) -> bytes:
    """Return a figure as PNG, with the theme's background or transparent."""
    buffer = io.BytesIO()
    background = "none" if transparent else theme.background
    with theme.context():
        if figure.get_layout_engine() is not None:  # once: it takes longer than rendering
            figure.draw_without_rendering()
            figure.set_layout_engine(None)
        figure.savefig(
            buffer, format="png", dpi=figure.dpi, facecolor=background, metadata={"Software": None}
        )
    return buffer.getvalue()


def escape_mathtext(text: object) -> str:
    """Return a user's string as one line of limited length that matplotlib shows without math.

    >>> escape_mathtext("cost $5")
    'cost \\\\$5'
    """
    line = " ".join(str(text).split())
    line = line if len(line) <= MAX_LABEL_LENGTH else line[: MAX_LABEL_LENGTH - 1] + "…"
    return line.replace("$", r"\$")


def finite_rows(values: ArrayLike) -> FloatArray:
    """Return the flattened rows of ``values [N, …]`` without NaN or infinity, ``[M, n]``."""
    array = np.asarray(values, dtype=np.float64)
    array = array.reshape(len(array), -1) if array.size else array.reshape(len(array), 0)
    return array[np.isfinite(array).all(axis=1)]


def label_histogram(axes: Axes, name: str, *, on_right: bool = False) -> None:
    """Label a histogram in its corner, and remove the vertical axis, whose scale has no meaning."""
    x, alignment = (0.97, "right") if on_right else (0.03, "left")
    axes.text(x, 0.97, name, transform=axes.transAxes, va="top", ha=alignment)
    axes.margins(y=0.12)
    axes.grid(False)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def marker_area(count: int) -> float:
    """Return the marker area, in square points, for a scatter plot of ``count`` markers."""
    return float(np.clip(9000 / max(count, 1), 2.5, 12))
