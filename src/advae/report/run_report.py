"""Report of a run: one self-contained HTML page, and its figures as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml

from advae.formatting import Table, format_count, format_with_error
from advae.io import path_inside, write_atomically
from advae.report.comparison import per_example_arrays
from advae.report.estimate_table import (
    EstimateDict,
    estimate_table,
    kind_legend,
    read_evaluation,
    table_note,
)
from advae.report.figure_data import FigureData, collect_figure_data
from advae.report.figures.curves import (
    collect_curves,
    collect_rate_distortion,
    last_value,
    rate_distortion,
    training_curves,
)
from advae.report.figures.image_grid import image_grid, interpolation_rows, reconstruction_pairs
from advae.report.figures.latents import aggregated_posterior, latent_scatter, posterior_panels
from advae.report.figures.per_image import add_per_image_figures
from advae.report.figures.vectors import (
    MAX_MARGINALS,
    shown_columns,
    vector_marginals,
    vector_pairs,
    vector_reconstructions,
)
from advae.report.headlines import make_headlines
from advae.report.html import HtmlFigures, render
from advae.report.run_summary import (
    describe_method,
    describe_model,
    environment,
    run_summary,
)

if TYPE_CHECKING:
    from advae.data import Dataset
    from advae.model import LatentModel
    from advae.run import Run

CURVES_CAPTION = (
    "All recorded quantities: on training batches as recorded (pale) and as a running mean, on validation data as"
    " dots. The first values may be outside a panel if they would flatten the rest. A critic’s accuracy of one half"
    " (dashed) means that it cannot tell its two kinds of pairs apart; its saturation is the share of pairs whose"
    " log ratio is too large to be learned."
)
CYCLE_ERRORS_CAPTION = (
    " The errors of x and z are the shares of variance that are not explained by x → z → x′ and z → x → z′."
)
RATE_DISTORTION_CAPTION = (
    "Nats that a latent needs, beyond the prior, for the decoder to reproduce an example with a given error, by the"
    " best posterior of each; means at equal weight of both. The curve is an upper limit; the band below it is as"
    " wide as the error measured on examples that the model generated."
)
LATENTS_CAPTION = "the regions that hold 50 % and 90 % of them, and (dashed) of the prior."
PRIOR_CAPTION = (
    "Where the two differ, samples come from latents that the decoder was not trained on. Top: histograms of the"
    " latents and N(0, 1), for up to ten dimensions with the largest deviations. Bottom: median, central 68 % (thick)"
    " and 95 % (thin) of every dimension; shaded, those of the prior."
)
POSTERIORS_CAPTION = (
    "shaded, the smallest regions that hold 50 %, 90 % and 99 % of p(z|x), computed on a grid; dots, samples from"
    " q(z|x). Dots outside the regions are latents that do not explain the observation; regions without dots are"
    " missed by the encoder. Every panel has its own axes."
)


def write_report(run: Run, model: LatentModel, data: Dataset) -> Path:
    """Write ``figures/*.png`` and ``report.html`` into a run directory, and return the page's path.

    Sections without content (labels, estimates, metrics, images) are left out.

    Args:
        run: the run directory.
        model: its model.
        data: its data, of which the test split is shown.

    Raises:
        CheckpointError: a file of the run is damaged.
    """
    metrics = run.metrics()
    estimates, remarks = read_evaluation(run)
    figures, per_image = (HtmlFigures(run.path, "figures") for _ in range(2))
    add_figures(figures, collect_figure_data(model, data), data)
    curves = collect_curves(metrics)
    if curves:
        caption = CURVES_CAPTION + (CYCLE_ERRORS_CAPTION if "error/x" in curves else "")
        figures.add("curves", "Training curves.", caption, training_curves, metrics)
    if curve := collect_rate_distortion(run, estimates):
        figures.add(
            "rate-distortion",
            "Rate and distortion.",
            RATE_DISTORTION_CAPTION,
            rate_distortion,
            {run.name: curve},
        )
    add_per_image_figures(per_image, run, estimates)
    page = render(
        "run_report.html",
        title=str(run.config.get("recipe") or run.name),
        name=run.name,
        path=str(run.path),
        method=describe_method(run.config),
        abstract=make_abstract(run, data),
        headlines=make_headlines(estimates),
        remarks=[table_note(r) for r in sorted(remarks, key=lambda r: not r.get("warning")) if is_fault(r)],
        columns=column_errors(run, estimates, data),
        summary=run_summary(run, model, data.describe()),
        table=estimate_table(estimates, remarks),
        legend=kind_legend(str(e.get("kind")) for e in estimates),
        figures=figures,
        per_image=per_image.values(),
        last_values=[
            (
                name,
                [format_with_error(splits[s][1][-1]) if s in splits else "" for s in ("train", "validation")],
            )
            for name, splits in curves.items()
        ],
        usage=usage_code(run, model),
        environment=environment(run.env),
        config=yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True),
    )
    path = path_inside(run.path) / "report.html"
    write_atomically(path, page)
    return path


def make_abstract(run: Run, data: Dataset) -> str:
    """Return model and data in a sentence."""
    shape, steps = " × ".join(map(str, data.x_shape)), last_value(run.metrics(), "step")
    return (
        f"{describe_model(run.config)}, trained by {describe_method(run.config).name or 'an unnamed method'} on"
        f" {data.name}: {format_count(len(data.train))} observations of shape {shape}, preprocessing"
        f" {data.preprocessing.name}" + (f", {format_count(steps)} steps." if steps else ".")
    )


def is_fault(remark: EstimateDict) -> bool:
    """Return whether a remark is a warning, or is based on a criterion that is not met."""
    criteria = remark.get("criteria") or ()
    return bool(remark.get("warning")) or any(not criterion.get("passed") for criterion in criteria)


def column_errors(run: Run, estimates: Sequence[EstimateDict], data: Dataset) -> Table | None:
    """Return the table of errors per column, of the model and of PCA; None if there are none."""
    shown = {
        str(e.get("variant")): values
        for e in estimates
        if e.get("metric") == "rmse"
        and (values := per_example_arrays(run, e).get("columns")) is not None
        and values.shape == data.x_shape
        and values.dtype.kind == "f"
    }
    model = shown.pop("", None)
    if model is None:
        return None
    names = getattr(data, "column_names", None) or [f"x{i + 1}" for i in range(len(model))]
    std = np.broadcast_to(np.asarray(data.describe()["preprocessing"].get("std", 1.0)), model.shape)
    errors = {"RMSE": model, **shown, "in its unit": model * std}
    rows = [[name, *(f"{v[i]:.3g}" for v in errors.values())] for i, name in enumerate(names)]
    return Table.from_texts(["column", *errors], rows, errors)


def add_figures(figures: HtmlFigures, shown: FigureData, data: Dataset) -> None:
    """Add samples, reconstructions and latents; without an encoder, samples and observations."""
    if shown.has_images:
        add_image_figures(figures, shown)
    else:
        add_vector_figures(figures, shown, getattr(data, "column_names", None))
    if shown.latents is not None:
        add_latent_figures(figures, shown, data)


def add_image_figures(figures: HtmlFigures, shown: FigureData) -> None:
    """Add samples, and reconstructions and interpolations or, without an encoder, observations."""
    split, x = shown.split, shown.originals
    caption = f"{shown.samples_description}; not selected."
    figures.add("samples", "Samples.", caption, image_grid, shown.samples)
    if shown.reconstructions is None:
        caption = f"Preprocessed observations of the {split} split, for comparison; not selected."
        figures.add("observations", "Observations.", caption, image_grid, x)
        return
    caption = (
        f"Preprocessed observations x of the {split} split, and below each the mean of p(x|z) at its latent; not"
        " selected."
    )
    figures.add(
        "reconstructions", "Reconstructions.", caption, reconstruction_pairs, x, shown.reconstructions
    )
    if shown.paths is not None:
        caption = (
            f"Decoded paths between the latents of two observations of the {split} split, which are shown at the ends"
            " of each row."
        )
        figures.add(
            "interpolations", "Interpolations.", caption, interpolation_rows, shown.paths, shown.endpoints
        )


def add_vector_figures(figures: HtmlFigures, shown: FigureData, names: Sequence[str] | None) -> None:
    """Add marginals and pairs of data and samples, and reconstructions; ``names`` are of the columns."""
    num_columns = shown.samples.shape[1]
    part = f" of {num_columns}" if num_columns > MAX_MARGINALS else ""
    description = shown.samples_description[:1].lower() + shown.samples_description[1:]
    caption = (
        f"Observations of the {shown.split} split (filled) and {description} (outlined): densities of single columns"
        + (f", the {MAX_MARGINALS}{part} in which they differ most." if part else ".")
    )
    figures.add("samples", "Columns.", caption, vector_marginals, shown.data, shown.samples, names)
    if num_columns > 1:
        caption = "The same in pairs" + (
            " of columns, one for each of the principal directions of the data." if part else "."
        )
        figures.add("pairs", "Pairs of columns.", caption, vector_pairs, shown.data, shown.samples, names)
    if shown.reconstructions is not None:
        x, x_hat = shown.originals, shown.reconstructions
        errors = np.square(x_hat - x).mean(axis=0) / np.maximum(x.var(axis=0), np.finfo(np.float32).tiny)
        caption = (
            f"Reconstructed (vertical) against original values, {shown.split} split; dashed, equality. Latents are"
            " means of q(z|x)."
        ) + (
            f" Shown are the {MAX_MARGINALS}{part} columns with the largest relative errors." if part else ""
        )
        options = {"names": names, "columns": shown_columns(errors)}
        figures.add(
            "reconstructions", "Reconstructions.", caption, vector_reconstructions, x, x_hat, **options
        )


def add_latent_figures(figures: HtmlFigures, shown: FigureData, data: Dataset) -> None:
    """Add latents in two dimensions, the aggregated posterior against the prior, and true posteriors."""
    latents, labels, posteriors = shown.latents, shown.labels, shown.posteriors
    assert latents is not None
    samples = "One sample" if shown.latents_per_example == 1 else f"{shown.latents_per_example} samples"
    projection = "" if latents.shape[1] == 2 else ", projected on their principal directions"
    panels = "Right" if labels is None else "Left: colored by label, with names at the class medians. Right"
    caption = (
        f"{samples} from q(z|x) for each of {format_count(shown.num_encoded)} observations of the {shown.split}"
        f" split{projection}. {panels}: {LATENTS_CAPTION}"
    )
    names = getattr(data, "class_names", None)
    figures.add("latents", "Latents.", caption, latent_scatter, latents, labels, names=names)
    figures.add("prior", "Aggregated posterior and prior.", PRIOR_CAPTION, aggregated_posterior, latents)
    if posteriors is not None:
        caption = f"For the first {len(posteriors.axes)} of these observations: {POSTERIORS_CAPTION}"
        title = "True posteriors and the encoder’s."
        figures.add("posteriors", title, caption, posterior_panels, posteriors)


def usage_code(run: Run, model: LatentModel) -> str:
    """Return Python code that loads and uses the model."""
    shape = ", ".join(map(str, model.x_shape))
    lines = [
        *("import advae", "", f"model = advae.load({str(run.path)!r})"),
        f"samples = model.sample(64)           # [64, {shape}]",
    ]
    if model.has_encoder:
        lines += [
            f"z = model.encode(x).rsample()        # x [B, {shape}] to z [B, {model.latent_dim}]",
            "x_hat = model.decode(z).mean",
            "path = model.interpolate(x[0], x[1], steps=8)",
        ]
    elif model.latent_dim:
        lines += [
            f"z = model.prior.sample((64,))        # [64, {model.latent_dim}]",
            f"x = model.decode(z).sample()         # [64, {shape}]",
        ]
    else:
        lines.append(f"log_p = model.decode(x.new_zeros(len(x), 0)).log_prob(x)  # x [B, {shape}]")
    return "\n".join(lines) + "\n"
