"""HTML page of a comparison: table of estimates, samples, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from torch import Tensor

from advae.data import preprocessing_from_dict
from advae.errors import AdvaeError
from advae.io import write_atomically, write_json
from advae.report.comparison import Comparison, compare
from advae.report.estimate_table import kind_legend, read_evaluation
from advae.report.figures.curves import (
    collect_curves,
    collect_rate_distortion,
    overlaid_curves,
    rate_distortion,
)
from advae.report.figures.image_grid import labeled_grids
from advae.report.html import HtmlFigures, render
from advae.report.run_report import RATE_DISTORTION_CAPTION

if TYPE_CHECKING:
    from advae.run import Run

NUM_SAMPLES = 64
SAMPLES_CAPTION = (
    "Means of p(x|z) for latents sampled from the prior, the same ones for every run; for a model without a density"
    " or without latents, samples. Not selected."
)
CURVES_CAPTION = "Validation data where every run recorded them, else running means over training batches."


def write_comparison(runs: Sequence[Run], out: Path, comparison: Comparison | None = None) -> Path:
    """Write ``compare.html``, ``compare.json`` and PNG figures of runs into a folder, and return the page's path."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    comparison = comparison or compare(runs)
    write_json(out / "compare.json", comparison.to_dict())
    samples, skipped = collect_samples(runs, comparison.runs)
    metrics = {name: run.metrics() for name, run in zip(comparison.runs, runs, strict=True)}
    figures = HtmlFigures(out)
    if samples:
        figures.add("compare-samples", "Samples.", SAMPLES_CAPTION, labeled_grids, samples)
    rates = {
        name: curve
        for name, run in zip(comparison.runs, runs, strict=True)
        if (curve := collect_rate_distortion(run, read_evaluation(run)[0]))
    }
    if rates:
        caption = RATE_DISTORTION_CAPTION
        figures.add("compare-rate-distortion", "Rate and distortion.", caption, rate_distortion, rates)
    if any(collect_curves(lines) for lines in metrics.values()):
        figures.add("compare-curves", "Training curves.", CURVES_CAPTION, overlaid_curves, metrics)
    page = render(
        "comparison.html",
        runs=comparison.runs,
        paths=comparison.paths,
        table=comparison.table(),
        differences=comparison.differences_table(),
        legend=kind_legend(kind for row in comparison.rows for kind in row.kinds),
        figures=figures.values(),
        skipped=skipped,
    )
    write_atomically(out / "compare.html", page)
    return out / "compare.html"


def collect_samples(runs: Sequence[Run], names: Sequence[str]) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Return samples, in gray levels, of each run whose data are images, and the reasons why others have none."""
    samples: dict[str, NDArray[Any]] = {}
    skipped = []
    for run, name in zip(runs, names, strict=True):
        try:
            model = run.model()
        except AdvaeError as error:
            skipped.append(f"{name}: {error.what}")
            continue
        if len(model.x_shape) != 3:
            skipped.append(f"{name}: its data are not images")
            continue
        data = run.env.get("data") or model.info.get("data")
        x = model.sample(NUM_SAMPLES, seed=0, mean=model.latent_dim > 0)
        samples[name] = to_gray_levels(x, data.get("preprocessing") if isinstance(data, Mapping) else None)
    return samples, skipped


def to_gray_levels(x: Tensor, preprocessing: Any) -> NDArray[Any]:
    """Map observations to gray levels 0..255 by their preprocessing; if it is not known, scale them to that range."""
    try:
        return preprocessing_from_dict(dict(preprocessing or {})).to_gray(x).cpu().numpy()
    except (AdvaeError, KeyError, TypeError, ValueError):
        low, high = float(x.min()), float(x.max())
        return ((x - low) * (255.0 / max(high - low, 1e-12))).cpu().numpy()
