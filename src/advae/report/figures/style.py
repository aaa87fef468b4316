"""What every figure shares: two themes (ink on paper, light on dark), size, typeface, and PNG bytes.

Figures are built with matplotlib's object interface on an Agg canvas; pyplot, and with it any global
state, is never touched. A figure drawn under a theme is transparent in the page, which shows the light
or the dark rendering, and stands on the theme's paper when it is written to a file of its own.
"""

from __future__ import annotations

import io
from contextlib import AbstractContextManager
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

DPI = 200  # the page shows two pixels as one of CSS, so that figures are sharp on dense screens
WIDTH = 7.0  # inches: the page's measure, 700 px of CSS


@dataclass(frozen=True)
class Theme:
    """Colours of one rendering: ``classes`` are told apart on the paper, ten before they repeat."""

    name: str
    paper: str
    ink: str
    muted: str
    grid: str
    first: str
    second: str
    classes: tuple[str, ...]

    def context(self) -> AbstractContextManager[None]:
        """Matplotlib settings of this theme, in force inside a ``with`` block only."""
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
                "text.color": self.ink,
                "axes.titlecolor": self.ink,
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
    paper="#ffffff",
    ink="#1d1c1a",
    muted="#69655d",
    grid="#e6e2da",
    first="#2b5f94",
    second="#c9562f",
    classes=(
        *("#2f6ca8", "#d2602f", "#3b8f5a", "#8a57a6", "#c4932a"),
        *("#2f9faa", "#c14a7c", "#7a6650", "#7c858f", "#8aa336"),
    ),
)
DARK = Theme(
    name="dark",
    paper="#16181c",
    ink="#dedbd3",
    muted="#a09c93",
    grid="#31343a",
    first="#83b4e6",
    second="#f0936b",
    classes=(
        *("#79b0e8", "#f28e62", "#6cc48c", "#c197dd", "#e8bf5c"),
        *("#62cdd6", "#ee86b0", "#b8a184", "#aab2bb", "#bdd663"),
    ),
)
THEMES = (LIGHT, DARK)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of ``width`` by ``height`` inches whose parts keep clear of each other."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure, theme: Theme = LIGHT, *, transparent: bool = False) -> bytes:
    """The figure as PNG: on the theme's paper, or transparent for a page that has its own."""
    buffer = io.BytesIO()
    paper = "none" if transparent else theme.paper
    with theme.context():
        if figure.get_layout_engine() is not None:  # lay out once: it takes longer than drawing
            figure.draw_without_rendering()
            figure.set_layout_engine(None)
        figure.savefig(buffer, format="png", dpi=figure.dpi, facecolor=paper, metadata={"Software": None})
    return buffer.getvalue()


def plain(text: object) -> str:
    """A user's string as matplotlib shall draw it: no mathematics, one line, not too long.

    >>> plain("cost $5")
    'cost \\\\$5'
    """
    line = " ".join(str(text).split())
    line = line if len(line) <= 60 else line[:59] + "…"
    return line.replace("$", r"\$")


def finite_rows(values: ArrayLike) -> FloatArray:
    """The rows of ``values`` [N, ...] without a NaN or infinity, each flattened: [M, n]."""
    array = np.asarray(values, dtype=np.float64)
    array = array.reshape(len(array), -1) if array.size else array.reshape(len(array), 0)
    return array[np.isfinite(array).all(axis=1)]


def corner_name(axes: Axes, name: str) -> None:
    """Name a histogram in its corner, and take away its vertical axis: the height has no meaning."""
    axes.text(0.03, 0.97, name, transform=axes.transAxes, va="top")
    axes.margins(y=0.12)
    axes.grid(False)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def point_size(count: int) -> float:
    """Area of a point in a scatter of ``count``, in square points."""
    return float(np.clip(9000 / max(count, 1), 2.5, 12))
