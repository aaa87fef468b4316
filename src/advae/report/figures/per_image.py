"""Figures of per-example results of an evaluation, each plotted only if its arrays were saved.

eval/inference-gap*.npz    value [N]: log p(x) − ELBO, nats
eval/ais.npz               ess, acceptance [N]: of the chains of annealed importance sampling
eval/memorization*.npz     samples, nearest [n, C, H, W]: samples, and the training images nearest to them
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from advae.evaluation.estimate import file_stem
from advae.formatting import format_count
from advae.report.comparison import per_example_arrays
from advae.report.estimate_table import ADVERSARIAL, EstimateDict
from advae.report.figures.image_grid import image_pairs, num_columns
from advae.report.figures.style import (
    DASHED,
    LIGHT,
    WIDTH,
    FloatArray,
    Theme,
    finite_rows,
    label_histogram,
    new_figure,
)
from advae.report.html import HtmlFigures

if TYPE_CHECKING:
    from advae.run import Run

Arrays = Mapping[str, NDArray[Any]]

SHOWN_FRACTION = 0.99  # of the examples in a histogram; outliers would squeeze the rest into a spike
PAIR_COLUMNS = (8, 4, 2)  # in a row of nearest neighbors: as many as tiles of a readable size allow
GAP_CAVEATS = {
    "lower bound": " Only a lower bound on log p(x) is known, so the true gaps are larger on average.",
    ADVERSARIAL: " The ELBO contains a critic’s estimate, so gaps can be too small, or negative.",
}


def add_per_image_figures(figures: HtmlFigures, run: Run, estimates: Sequence[EstimateDict]) -> None:
    """Add the figures of estimates with saved arrays; arrays of another evaluation are ignored."""
    for estimate in estimates:
        metric, name = estimate.get("metric"), file_stem(str(estimate.get("name", "")))
        if metric not in ("inference-gap", "ais", "memorization"):
            continue
        arrays, protocol = per_example_arrays(run, estimate), estimate.get("protocol") or {}
        if metric == "inference-gap" and _have_values(arrays, estimate, "value"):
            caption = (
                f"log p(x) − ELBO of each example: {protocol.get('log_prob', 'log p(x)')} minus"
                f" {protocol.get('bound', 'ELBO')}, {format_count(len(arrays['value']))} examples. For an encoder that"
                f" equals the true posterior the gap is zero.{GAP_CAVEATS.get(str(estimate.get('kind')), '')}"
            )
            label = "log p(x) − ELBO, nats"
            figures.add(name, "Inference gap.", caption, value_histogram, arrays["value"], label)
        elif metric == "ais" and _have_values(arrays, estimate, "ess", "acceptance"):
            chains = protocol.get("chains")
            chains = chains if isinstance(chains, int) else None
            caption = (
                f"Left: effective sample size of the {f'{chains:,} ' if chains else ''}chains of an example; near 1, a"
                " single chain dominates and the bound may be loose. Right: acceptance rate of the HMC transitions;"
                " near 0, the chains did not move."
            )
            title, values = (
                "Annealed importance sampling, per example.",
                (arrays["ess"], arrays["acceptance"]),
            )
            figures.add(name, title, caption, ais_histograms, *values, chains)
        elif metric == "memorization" and _have_images(arrays, "samples", "nearest"):
            caption = (
                "The samples closest to training images, with the nearest training image below each. Near-identical"
                " pairs would indicate memorization."
            )
            pairs = arrays["samples"], arrays["nearest"]
            figures.add(name, "Nearest training images.", caption, nearest_neighbors, *pairs)


def value_histogram(values: ArrayLike, label: str, *, theme: Theme = LIGHT) -> Figure:
    """Plot a histogram of one value per example ``[N]`` with its median."""
    with theme.context():
        figure = new_figure(WIDTH, 2.1)
        axes = figure.subplots()
        _histogram(axes, _finite(values), None, theme)
        axes.set(xlabel=label, ylabel="examples")
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
        left.set(xlabel="effective sample size", ylabel="examples")
        right.set(xlabel="acceptance rate")
    return figure


def nearest_neighbors(samples: ArrayLike, nearest: ArrayLike, *, theme: Theme = LIGHT) -> Figure:
    """Plot samples ``[n, C, H, W]``, gray levels, with the nearest training image below each."""
    columns = next(n for n in PAIR_COLUMNS if n <= num_columns(np.shape(samples)[-1]))
    return image_pairs(samples, nearest, ("sample", "nearest"), columns=columns, theme=theme)


def _have_values(arrays: Arrays, estimate: EstimateDict, *names: str) -> bool:
    """Return whether the arrays have one number per image of the estimate, some of them finite."""
    values = [arrays.get(name, np.zeros(0)) for name in names]
    n = estimate.get("n")
    return all(
        v.ndim == 1 and v.dtype.kind in "fiu" and len(v) == (n or len(v)) and np.isfinite(v).any()
        for v in values
    )


def _have_images(arrays: Arrays, *names: str) -> bool:
    """Return whether the arrays exist and have the same shape ``[n, C, H, W]``."""
    images = [arrays.get(name, np.zeros(0)) for name in names]
    is_image = all(v.ndim == 4 and v.size and v.dtype.kind in "fiu" for v in images)
    return is_image and len({v.shape for v in images}) == 1


def _finite(values: ArrayLike) -> FloatArray:
    return finite_rows(np.asarray(values).reshape(-1, 1))[:, 0]


def _histogram(axes: Axes, values: FloatArray, limits: tuple[float, float] | None, theme: Theme) -> None:
    """Plot counts within the limits, or of almost all values, with the median; a note has the number outside."""
    low, high = limits or _central_range(values)
    bins = int(np.clip(1.5 * np.sqrt(len(values)), 8, 48))
    axes.hist(values, bins=bins, range=(low, high), color=theme.primary, alpha=0.5, lw=0)
    median = float(np.median(values))
    axes.axvline(median, color=theme.foreground, lw=1.0, ls=DASHED)
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
        note = f"{format_count(outside)} {'example' if outside == 1 else 'examples'} outside"
        axes.set_title(note, loc="right", fontsize=7.5, color=theme.muted)


def _central_range(values: FloatArray) -> tuple[float, float]:
    """Return a range that includes 0 and almost all values."""
    tail = (1 - SHOWN_FRACTION) / 2
    low, high = (float(v) for v in np.quantile(values, [tail, 1 - tail]))
    low, high = min(0.0, 1.05 * low), max(0.0, 1.05 * high)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
