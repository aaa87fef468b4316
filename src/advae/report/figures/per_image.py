"""Figures of per-image results of an evaluation, each plotted only if its arrays were saved.

eval/inference-gap*.npz    value [N]: log p(x) − ELBO, nats
eval/ais.npz               ess, acceptance [N]: of the chains of annealed importance sampling
eval/memorization*.npz     samples, nearest [n, C, H, W]: samples, and the training images nearest to them
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from advae.evaluation.estimate import file_stem
from advae.formatting import format_count
from advae.report.estimate_table import ADVERSARIAL
from advae.report.figures.image_grid import image_pairs, num_columns
from advae.report.figures.style import (
    LIGHT,
    WIDTH,
    FloatArray,
    Theme,
    finite_rows,
    label_histogram,
    new_figure,
)
from advae.report.html import HtmlFigure, embed_figure
from advae.report.per_example import Arrays, per_example_arrays

if TYPE_CHECKING:
    from advae.run import Run

Estimate = Mapping[str, Any]

SHOWN_FRACTION = 0.99  # of the images in a histogram; outliers would squeeze the rest into a spike
PAIR_COLUMNS = (8, 4, 2)  # in a row of nearest neighbors: as many as tiles of a readable size allow
GAP_CAVEATS = {
    "lower bound": " Only a lower bound on log p(x) is known, so the true gaps are larger on average.",
    ADVERSARIAL: " The ELBO contains a critic’s estimate, so gaps can be too small, or negative.",
}


def per_image_figures(run: Run, estimates: Sequence[Estimate], folder: Path) -> dict[str, HtmlFigure]:
    """Return the figures by name, for estimates with saved arrays."""
    figures: dict[str, HtmlFigure] = {}
    for estimate in estimates:
        make_figure = FIGURES.get(str(estimate.get("metric")))
        if make_figure is None:
            continue
        stem = file_stem(str(estimate.get("name", "")))
        figure = make_figure(per_example_arrays(run, estimate), estimate, folder / f"{stem}.png")
        if figure is not None:
            figures[stem] = figure
    return figures


def inference_gap_figure(arrays: Arrays, estimate: Estimate, file: Path) -> HtmlFigure | None:
    """Return the figure of the inference gaps of all images."""
    if not _have_values(arrays, estimate.get("n"), "value"):
        return None
    values, protocol = arrays["value"], estimate.get("protocol") or {}
    log_prob, bound = protocol.get("log_prob", "log p(x)"), protocol.get("bound", "ELBO")
    caption = (
        f"log p(x) − ELBO of each image: {log_prob} minus {bound}, {format_count(len(values))} images. For an encoder"
        f" that equals the true posterior the gap is zero.{GAP_CAVEATS.get(str(estimate.get('kind')), '')}"
    )
    return embed_figure(file, "Inference gap.", caption, value_histogram, values, "log p(x) − ELBO, nats")


def ais_figure(arrays: Arrays, estimate: Estimate, file: Path) -> HtmlFigure | None:
    """Return the figure of effective sample sizes and acceptance rates of annealed importance sampling."""
    if not _have_values(arrays, estimate.get("n"), "ess", "acceptance"):
        return None
    chains = (estimate.get("protocol") or {}).get("chains")
    of_chains = f" of the {format_count(chains)} chains" if chains else " of the chains"
    caption = (
        f"Left: effective sample size{of_chains} of an image; near 1, a single chain dominates and the bound may be"
        " loose. Right: acceptance rate of the HMC transitions; near 0, the chains did not move."
    )
    title = "Annealed importance sampling, per image."
    return embed_figure(file, title, caption, ais_histograms, arrays["ess"], arrays["acceptance"], chains)


def memorization_figure(arrays: Arrays, estimate: Estimate, file: Path) -> HtmlFigure | None:
    """Return the figure of the samples closest to training images."""
    if not _have_images(arrays, "samples", "nearest"):
        return None
    caption = (
        "The samples closest to training images, with the nearest training image below each. Near-identical pairs"
        " would indicate memorization."
    )
    pairs = arrays["samples"], arrays["nearest"]
    return embed_figure(file, "Nearest training images.", caption, nearest_neighbors, *pairs)


FIGURES: dict[str, Callable[[Arrays, Estimate, Path], HtmlFigure | None]] = {
    "inference-gap": inference_gap_figure,
    "ais": ais_figure,
    "memorization": memorization_figure,
}


def value_histogram(values: ArrayLike, label: str, *, theme: Theme = LIGHT) -> Figure:
    """Plot a histogram of one value per image ``[N]`` with its median."""
    with theme.context():
        figure = new_figure(WIDTH, 2.1)
        axes = figure.subplots()
        _histogram(axes, _finite(values), None, theme)
        axes.set(xlabel=label, ylabel="images")
    return figure


def ais_histograms(
    ess: ArrayLike, acceptance: ArrayLike, chains: int | None, *, theme: Theme = LIGHT
) -> Figure:
    """Plot histograms of effective sample sizes ``[N]``, from 1 to ``chains``, and of acceptance rates ``[N]``."""
    sizes, rates = _finite(ess), _finite(acceptance)
    with theme.context():
        figure = new_figure(WIDTH, 2.0)
        left, right = figure.subplots(1, 2, gridspec_kw={"wspace": 0.1})
        _histogram(left, sizes, (1.0, float(max(chains or 0, sizes.max(), 1.01))), theme)
        _histogram(right, rates, (0.0, 1.0), theme)
        left.set(xlabel="effective sample size", ylabel="images")
        right.set(xlabel="acceptance rate")
    return figure


def nearest_neighbors(samples: ArrayLike, nearest: ArrayLike, *, theme: Theme = LIGHT) -> Figure:
    """Plot samples ``[n, C, H, W]``, gray levels, with the nearest training image below each."""
    columns = next(n for n in PAIR_COLUMNS if n <= num_columns(np.shape(samples)[-1]))
    return image_pairs(samples, nearest, ("sample", "nearest"), columns=columns, theme=theme)


def _have_values(arrays: Arrays, n: int | None, *names: str) -> bool:
    """Return whether the arrays exist, have n values (else they are of another evaluation), and some are finite."""
    values = [arrays.get(name, np.zeros(0)) for name in names]
    return all(v.ndim == 1 and len(v) == (n or len(v)) and np.isfinite(v).any() for v in values)


def _have_images(arrays: Arrays, *names: str) -> bool:
    """Return whether the arrays exist and have the same shape ``[n, C, H, W]``."""
    shapes = {arrays[name].shape if name in arrays else () for name in names}
    shape = shapes.pop()
    return not shapes and len(shape) == 4 and shape[0] > 0


def _finite(values: ArrayLike) -> FloatArray:
    return finite_rows(np.asarray(values).reshape(-1, 1))[:, 0]


def _histogram(axes: Axes, values: FloatArray, limits: tuple[float, float] | None, theme: Theme) -> None:
    """Plot counts within the limits, or of almost all values, with the median; a note has the number outside."""
    low, high = limits or _central_range(values)
    bins = int(np.clip(1.5 * np.sqrt(len(values)), 8, 48))
    axes.hist(values, bins=bins, range=(low, high), color=theme.primary, alpha=0.5, lw=0)
    median = float(np.median(values))
    axes.axvline(median, color=theme.foreground, lw=1.0, ls=(0, (4, 3)))
    label_histogram(axes, "")
    axes.set_xlim(low, high)
    is_on_right = median > (low + high) / 2
    axes.annotate(
        f"median {median:.2f}".replace("-", "−"), (median, 1), (-4 if is_on_right else 4, -1),
        xycoords=("data", "axes fraction"), textcoords="offset points", va="top",
        ha="right" if is_on_right else "left",
    )  # fmt: skip
    outside = int(((values < low) | (values > high)).sum())
    if outside:
        noun = "image" if outside == 1 else "images"
        axes.set_title(
            f"{format_count(outside)} {noun} outside", loc="right", fontsize=7.5, color=theme.muted
        )


def _central_range(values: FloatArray) -> tuple[float, float]:
    """Return a range that includes 0 and almost all values."""
    tail = (1 - SHOWN_FRACTION) / 2
    low, high = (float(v) for v in np.quantile(values, [tail, 1 - tail]))
    low, high = min(0.0, 1.05 * low), max(0.0, 1.05 * high)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
