"""Figures of what an evaluation found for single images; each is drawn only where it was computed.

eval/inference-gap*.npz    value [N]: log p(x) − ELBO, nats
eval/ais.npz               ess, acceptance [N]: of the chains of annealed importance sampling
eval/copying*.npz          samples, nearest [16, C, H, W]: samples, and the training images nearest to them
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from advae.evaluation.estimate import file_stem
from advae.formatting import format_count
from advae.report.figures.image_grid import columns_for, image_pairs
from advae.report.figures.style import LIGHT, WIDTH, FloatArray, Theme, corner_name, finite_rows, new_figure
from advae.report.html import Plate, plate
from advae.report.kinds import ADVERSARIAL
from advae.report.per_image import Arrays, arrays_of

if TYPE_CHECKING:
    from advae.run import Run

ALMOST_ALL = 0.99  # of the images stand in a histogram; a few far ones would squeeze the rest into a spike
NEIGHBOURS = (8, 4, 2)  # pairs in a row: as many as tiles of a readable size allow


def judged_plates(run: Run, estimates: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Plate]:
    """The figures by name; none where the evaluation left no arrays."""
    drawn: dict[str, Plate] = {}
    for estimate in estimates:
        arrays, n = arrays_of(run, estimate), estimate.get("n")
        stem = file_stem(str(estimate.get("name", "")))
        if stem.startswith("inference-gap") and _rows(arrays, n, "value"):
            drawn[stem] = gap_plate(arrays, estimate, folder / f"{stem}.png")
        elif stem == "ais" and _rows(arrays, n, "ess", "acceptance"):
            drawn[stem] = annealing_plate(arrays, estimate, folder / "ais.png")
        elif stem.startswith("copying") and _images(arrays, "samples", "nearest"):
            drawn[stem] = neighbours_plate(arrays, folder / f"{stem}.png")
    return drawn


def _rows(arrays: Arrays, n: int | None, *names: str) -> bool:
    """Whether there are such arrays, of so many images, with something to draw; others are of another evaluation."""
    found = [arrays.get(name, np.zeros(0)) for name in names]
    return all(a.ndim == 1 and len(a) == (n or len(a)) and np.isfinite(a).any() for a in found)


def _images(arrays: Arrays, *names: str) -> bool:
    """Whether there are such arrays [n, C, H, W], as many of one as of the other."""
    shapes = {arrays[name].shape if name in arrays else () for name in names}
    return len(shapes) == 1 and len(next(iter(shapes))) == 4 and next(iter(shapes))[0] > 0


def gap_plate(arrays: Arrays, estimate: Mapping[str, Any], file: Path) -> Plate:
    """The inference gap of every image."""
    values, protocol = arrays["value"], estimate.get("protocol") or {}
    log_prob, bound = protocol.get("log_prob", "log p(x)"), protocol.get("bound", "ELBO")
    reserve = {
        "lower bound": " log p(x) is bounded from below here, so the true gaps are, on average, no smaller.",
        ADVERSARIAL: " The bound holds a critic's opinion: the gaps can come out too small, or below zero.",
    }
    return plate(
        lambda theme: spread(values, "log p(x) − ELBO, nats", theme=theme),
        "Inference gap.",
        f"How many nats of log p(x) the encoder gives away, by image: {log_prob} less {bound} of"
        f" {format_count(len(values))} images. An encoder that gives the true posterior has no gap."
        + reserve.get(str(estimate.get("kind")), ""),
        file=file,
    )


def annealing_plate(arrays: Arrays, estimate: Mapping[str, Any], file: Path) -> Plate:
    """Whether annealing can be believed: its effective sample sizes, and its acceptance."""
    chains = (estimate.get("protocol") or {}).get("chains")
    count = f"the {format_count(chains)} chains" if chains else "the chains"
    return plate(
        lambda theme: annealing(arrays["ess"], arrays["acceptance"], chains, theme=theme),
        "Annealed importance sampling, image by image.",
        f"Left: as how many equally weighted chains {count} of an image count; where it is near 1, a single chain"
        " decides, and the bound may be loose. Right: the share of proposed moves that were accepted; where it is"
        " near 0, chains stood still.",
        file=file,
    )


def neighbours_plate(arrays: Arrays, file: Path) -> Plate:
    """Whether the model copies."""
    return plate(
        lambda theme: neighbours(arrays["samples"], arrays["nearest"], theme=theme),
        "Nearest training images.",
        "The samples that lie nearest to training images, and under each that image. Twins would mean that the"
        " model repeats what it was trained on.",
        file=file,
    )


def spread(values: ArrayLike, label: str, *, theme: Theme = LIGHT) -> Figure:
    """A histogram of one figure an image [N], its median marked."""
    numbers = finite_rows(np.asarray(values).reshape(-1, 1))[:, 0]
    with theme.context():
        figure = new_figure(WIDTH, 2.1)
        axes = figure.subplots()
        _histogram(axes, numbers, None, theme)
        axes.set(xlabel=label, ylabel="images")
    return figure


def annealing(ess: ArrayLike, acceptance: ArrayLike, chains: int | None, *, theme: Theme = LIGHT) -> Figure:
    """Histograms of effective sample sizes [N], of 1 to ``chains``, and of acceptance [N]."""
    sizes, rates = (finite_rows(np.asarray(v).reshape(-1, 1))[:, 0] for v in (ess, acceptance))
    with theme.context():
        figure = new_figure(WIDTH, 2.0)
        left, right = figure.subplots(1, 2, gridspec_kw={"wspace": 0.1})
        _histogram(left, sizes, (1.0, float(max(chains or 0, sizes.max(), 1.01))), theme)
        _histogram(right, rates, (0.0, 1.0), theme)
        left.set(xlabel="effective sample size", ylabel="images")
        right.set(xlabel="acceptance")
    return figure


def neighbours(samples: ArrayLike, nearest: ArrayLike, *, theme: Theme = LIGHT) -> Figure:
    """Samples [n, C, H, W], gray levels, and under each the training image nearest to it."""
    columns = next(n for n in NEIGHBOURS if n <= columns_for(np.shape(samples)[-1]))
    return image_pairs(samples, nearest, ("sample", "nearest"), columns=columns, theme=theme)


def _histogram(axes: Axes, values: FloatArray, limits: tuple[float, float] | None, theme: Theme) -> None:
    """Counts of images between the limits, or of almost all images, with the median; the rest in a note."""
    low, high = limits or _reach(values)
    bins = int(np.clip(1.5 * np.sqrt(len(values)), 8, 48))
    axes.hist(values, bins=bins, range=(low, high), color=theme.first, alpha=0.5, lw=0)
    median = float(np.median(values))
    axes.axvline(median, color=theme.ink, lw=1.0, ls=(0, (4, 3)))
    corner_name(axes, "")
    axes.set_xlim(low, high)
    right = median > (low + high) / 2
    axes.annotate(
        f"median {median:.2f}".replace("-", "−"), (median, 1), (-4 if right else 4, -1),
        xycoords=("data", "axes fraction"), textcoords="offset points", va="top",
        ha="right" if right else "left",
    )  # fmt: skip
    outside = int(((values < low) | (values > high)).sum())
    if outside:
        axes.set_title(
            f"{format_count(outside)} {'image' if outside == 1 else 'images'} outside",
            loc="right",
            fontsize=7.5,
            color=theme.muted,
        )


def _reach(values: FloatArray) -> tuple[float, float]:
    """From 0, or what lies below it, to where almost all values lie."""
    tail = (1 - ALMOST_ALL) / 2
    low, high = (float(v) for v in np.quantile(values, [tail, 1 - tail]))
    low, high = min(0.0, 1.05 * low), max(0.0, 1.05 * high)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
