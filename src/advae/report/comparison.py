"""The page of a comparison: the table of estimates, a sheet of samples, and curves over each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from torch import Tensor

from advae.data import preprocessing_from_dict
from advae.errors import AdvaeError
from advae.io import write_atomically, write_json
from advae.report.comparison_page import compare
from advae.report.figures.curves import collect, overlaid_curves
from advae.report.figures.image_grid import sheets_beside
from advae.report.html import Plate, plate, render

if TYPE_CHECKING:
    from advae.run import Run

SAMPLES = 64


def write_comparison(runs: Sequence[Run], out: Path) -> Path:
    """Write ``compare.html``, ``compare.json`` and PNG figures into the folder ``out``.

    Returns:
        The path of the page.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    result = compare(runs)
    write_json(out / "compare.json", result.as_dict())
    samples, silent = gather_samples(runs, result.runs)
    metrics = {name: run.metrics() for name, run in zip(result.runs, runs, strict=True)}
    plates: list[Plate] = []
    if samples:
        caption = (
            "Means of p(x|z) at codes drawn from the prior, the same draws for every run; of a model without a"
            " density or without codes, draws. Not selected."
        )
        plates.append(
            plate(
                lambda t: sheets_beside(samples, theme=t),
                "Samples.",
                caption,
                file=out / "compare-samples.png",
            )
        )
    if any(collect(m) for m in metrics.values()):
        caption = "On validation data where all runs recorded it, else running means over training batches."
        plates.append(
            plate(
                lambda t: overlaid_curves(metrics, theme=t),
                "Curves.",
                caption,
                file=out / "compare-curves.png",
            )
        )
    page = render("comparison.html", result=result, plates=plates, silent=silent)
    write_atomically(out / "compare.html", page)
    return out / "compare.html"


def gather_samples(runs: Sequence[Run], names: Sequence[str]) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Samples of each run whose data are images, in gray levels; and the reasons why others have none."""
    samples: dict[str, NDArray[Any]] = {}
    silent = []
    for run, name in zip(runs, names, strict=True):
        try:
            model = run.model()
        except AdvaeError as error:
            silent.append(f"{name}: {error.what}")
            continue
        if len(model.x_shape) != 3:
            silent.append(f"{name}: its data are not images")
            continue
        preprocessing = (run.env.get("data") or model.info.get("data") or {}).get("preprocessing")
        samples[name] = to_levels(model.sample(SAMPLES, seed=0, mean=model.latent > 0), preprocessing)
    return samples, silent


def to_levels(x: Tensor, description: Mapping[str, Any] | None) -> NDArray[Any]:
    """Observations in the model's space to gray levels 0..255, by the description of their preprocessing.

    If that is missing, they are stretched so that they fill the scale.
    """
    try:
        return preprocessing_from_dict(dict(description or {})).to_gray(x).cpu().numpy()
    except (AdvaeError, KeyError):
        low, high = float(x.min()), float(x.max())
        return ((x - low) * (255.0 / max(high - low, 1e-12))).cpu().numpy()
