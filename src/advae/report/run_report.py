"""Report of a run: one self-contained HTML page, and its figures as PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from advae.formatting import format_count, format_with_error
from advae.io import write_atomically
from advae.report.estimate_table import describe_kind, estimate_table, headline_estimates, kind_legend
from advae.report.figure_data import Array, FigureData, collect_figure_data
from advae.report.figures.curves import collect_curves, training_curves
from advae.report.figures.image_grid import image_grid, interpolation_rows, reconstruction_pairs
from advae.report.figures.latents import aggregated_posterior, latent_scatter
from advae.report.figures.per_image import per_image_figures
from advae.report.figures.posteriors import posterior_panels
from advae.report.figures.vectors import vector_reconstructions, vector_samples
from advae.report.html import HtmlFigure, embed_figure, render
from advae.report.run_summary import (
    describe_method,
    describe_model,
    describe_preprocessing,
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
LATENTS_CAPTION = "the regions that hold 50 % and 90 % of them, and (dashed) of the prior."
PRIOR_CAPTION = (
    "Where the two differ, samples come from latents that the decoder was not trained on. Top: histograms of the"
    " latents and N(0, 1), for up to ten dimensions with the largest deviations. Middle: median, central 68 % (thick)"
    " and 95 % (thin) of every dimension; shaded, those of the prior. Bottom: standard deviations; the prior’s is 1."
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
    """
    folder = run.path / "figures"
    folder.mkdir(exist_ok=True)
    figure_data, metrics, estimates = collect_figure_data(model, data), run.metrics(), run.estimates()
    page = render(
        "run_report.html",
        title=str(run.config.get("recipe") or run.name),
        name=run.name,
        path=str(run.path),
        method=describe_method(run.config),
        abstract=make_abstract(run, data, estimates),
        summary=run_summary(run, model, data.describe()),
        table=estimate_table(estimates, run.remarks()),
        legend=kind_legend(estimates),
        figures=make_figures(figure_data, metrics, data, folder),
        per_image=list(per_image_figures(run, estimates, folder).values()),
        last_values=last_values(metrics),
        usage=usage_code(run, model),
        environment=environment(run.env),
        config=yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True),
    )
    path = run.path / "report.html"
    write_atomically(path, page)
    return path


def make_abstract(run: Run, data: Dataset, estimates: list[dict[str, Any]]) -> str:
    """Return the run in two or three sentences."""
    shape = " × ".join(str(n) for n in data.x_shape)
    steps = max((m["step"] for m in run.metrics() if m.get("step")), default=None)
    training = (
        f"{describe_model(run.config)}, trained by {describe_method(run.config).name or 'an unnamed method'} on"
        f" {data.name}: {format_count(len(data.train))} observations of shape {shape}, preprocessing"
        f" {describe_preprocessing(data.describe())}" + (f", {format_count(steps)} steps." if steps else ".")
    )
    headlines = [
        f"{e['name']} {format_with_error(e['value'], e['stderr'], e.get('interval'))} {e.get('unit') or ''}".rstrip()
        + f" ({describe_kind(str(e['kind']))})"
        for e in headline_estimates(estimates)
    ]
    remarks = run.remarks()
    if headlines:
        results = f"Results: {'; '.join(headlines)}."
    else:
        results = (
            "No metric of the evaluation ranks models." if estimates or remarks else "Not evaluated yet."
        )
    warning = (
        "Some estimates are unreliable: see the warnings." if any(r.get("warning") for r in remarks) else ""
    )
    return " ".join(filter(None, (training, results, warning)))


def make_figures(
    figure_data: FigureData, metrics: list[dict[str, Any]], data: Dataset, folder: Path
) -> dict[str, HtmlFigure]:
    """Plot the figures, write them to a folder, and return them by name."""
    make_data_figures = image_figures if figure_data.has_images else vector_figures
    figures = make_data_figures(figure_data, folder)
    if figure_data.latents is not None:
        figures |= latent_figures(figure_data, figure_data.latents, data, folder)
    quantities = collect_curves(metrics)
    if quantities:
        caption = CURVES_CAPTION + (CYCLE_ERRORS_CAPTION if "error/x" in quantities else "")
        figures["curves"] = embed_figure(
            folder / "curves.png", "Training curves.", caption, training_curves, metrics
        )
    return figures


def image_figures(figure_data: FigureData, folder: Path) -> dict[str, HtmlFigure]:
    """Return samples, and reconstructions and interpolations or, without an encoder, observations."""
    split, originals = figure_data.split, figure_data.originals
    caption = f"{figure_data.samples_description}; not selected."
    figures = {
        "samples": embed_figure(folder / "samples.png", "Samples.", caption, image_grid, figure_data.samples)
    }
    if figure_data.reconstructions is None:
        caption = f"Preprocessed observations of the {split} split, for comparison; not selected."
        figures["observations"] = embed_figure(
            folder / "observations.png", "Observations.", caption, image_grid, originals
        )
        return figures
    caption = (
        f"Preprocessed observations x of the {split} split, and below each the mean of p(x|z) at its latent; not"
        " selected."
    )
    figures["reconstructions"] = embed_figure(
        folder / "reconstructions.png",
        "Reconstructions.",
        caption,
        reconstruction_pairs,
        originals,
        figure_data.reconstructions,
    )
    if figure_data.paths is not None:
        caption = (
            f"Decoded paths between the latents of two observations of the {split} split, which are shown at the ends"
            " of each row."
        )
        figures["interpolations"] = embed_figure(
            folder / "interpolations.png",
            "Interpolations.",
            caption,
            interpolation_rows,
            figure_data.paths,
            figure_data.endpoints,
        )
    return figures


def vector_figures(figure_data: FigureData, folder: Path) -> dict[str, HtmlFigure]:
    """Return samples of data that are not images and, with an encoder, reconstructions."""
    description = figure_data.samples_description[:1].lower() + figure_data.samples_description[1:]
    caption = (
        f"Observations of the {figure_data.split} split and {description}: in two dimensions, and as densities of"
        " single values (data filled, model outlined)."
    )
    figures = {
        "samples": embed_figure(
            folder / "samples.png", "Samples.", caption, vector_samples, figure_data.data, figure_data.samples
        )
    }
    if figure_data.reconstructions is not None:
        caption = f"Reconstructed against original values, {figure_data.split} split; dashed, equality."
        figures["reconstructions"] = embed_figure(
            folder / "reconstructions.png",
            "Reconstructions.",
            caption,
            vector_reconstructions,
            figure_data.originals,
            figure_data.reconstructions,
        )
    return figures


def latent_figures(
    figure_data: FigureData, latents: Array, data: Dataset, folder: Path
) -> dict[str, HtmlFigure]:
    """Return the latents in two dimensions, the aggregated posterior against the prior, and true posteriors."""
    per_example, labels, posteriors = (
        figure_data.latents_per_example, figure_data.labels, figure_data.posteriors,
    )  # fmt: skip
    samples = "One sample" if per_example == 1 else f"{per_example} samples"
    projection = "" if latents.shape[1] == 2 else ", projected on their principal directions"
    panels = "Right" if labels is None else "Left: colored by label, with names at the class medians. Right"
    caption = (
        f"{samples} from q(z|x) for each of {format_count(figure_data.num_encoded)} observations of the"
        f" {figure_data.split} split{projection}. {panels}: {LATENTS_CAPTION}"
    )
    names = getattr(data, "class_names", None)
    figures = {
        "latents": embed_figure(
            folder / "latents.png", "Latents.", caption, latent_scatter, latents, labels, names=names
        ),
        "prior": embed_figure(
            folder / "prior.png",
            "Aggregated posterior and prior.",
            PRIOR_CAPTION,
            aggregated_posterior,
            latents,
        ),
    }
    if posteriors is not None:
        caption = f"For the first {len(posteriors.axes)} of these observations: {POSTERIORS_CAPTION}"
        figures["posteriors"] = embed_figure(
            folder / "posteriors.png",
            "True posteriors and the encoder’s.",
            caption,
            posterior_panels,
            posteriors,
        )
    return figures


def last_values(metrics: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Return the last training and validation value of each quantity."""
    return [
        (name, *(format_with_error(splits[s][1][-1]) if s in splits else "" for s in ("train", "validation")))  # type: ignore[misc]
        for name, splits in collect_curves(metrics).items()
    ]


def usage_code(run: Run, model: LatentModel) -> str:
    """Return Python code that loads and uses the model."""
    shape = ", ".join(str(n) for n in model.x_shape)
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
