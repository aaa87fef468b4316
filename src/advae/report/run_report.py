"""The report of a run: figures as PNG files, and one self-contained HTML page that reads like a paper."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from matplotlib.figure import Figure

from advae.formatting import format_count, round_to_error
from advae.io import write_atomically
from advae.report.estimate_table import headlines, sections
from advae.report.figure_data import Array, Study, study
from advae.report.figures.curves import collect, curves
from advae.report.figures.image_grid import image_grid, interpolation_rows, reconstruction_pairs
from advae.report.figures.latents import codes, prior_against_aggregated
from advae.report.figures.per_image_plots import judged_plates
from advae.report.figures.posteriors import posterior_panels
from advae.report.figures.style import Theme
from advae.report.figures.vectors import vector_reconstructions, vectors
from advae.report.html import Plate, plate, render
from advae.report.kinds import meanings
from advae.report.run_summary import describe_method, environment, facts, kind_of_model, protocol_text

ERRORS = " Errors of x and z are the shares of variance that x → z → x′ and z → x → z′ leave unexplained."

if TYPE_CHECKING:
    from advae.data import Dataset
    from advae.model import LatentModel
    from advae.run import Run


def write_report(run: Run, model: LatentModel, data: Dataset) -> Path:
    """Write ``figures/*.png`` and ``report.html`` into a run directory.

    What a run does not have (labels, estimates, metrics, images) is left out, and the page says so.

    Args:
        run: the run directory.
        model: its model.
        data: its data; the report looks at the test split.

    Returns:
        The path of the page.
    """
    folder = run.path / "figures"
    folder.mkdir(exist_ok=True)
    seen, metrics, estimates = study(model, data), run.metrics(), run.estimates()
    tables, common = sections(estimates, run.remarks())
    single = judged_plates(run, estimates, folder)
    page = render(
        "template.html",
        title=str(run.config.get("recipe") or run.name),
        name=run.name,
        method=describe_method(run.config),
        abstract=abstract(run, data, estimates),
        facts=facts(run, model, data.describe()),
        sections=tables,
        common=common,
        bracketed=any(table.has("interval") for table in tables),
        meanings=meanings(estimates),
        plates=plates(seen, metrics, data, folder),
        single=list(single.values()),
        last=last_values(metrics),
        use=use(run, model),
        path=str(run.path),
        environment=environment(run.env),
        config=yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True),
    )
    path = run.path / "report.html"
    write_atomically(path, page)
    return path


def abstract(run: Run, data: Dataset, estimates: list[dict[str, Any]]) -> str:
    """The run in two or three sentences."""
    described, method = data.describe(), describe_method(run.config)
    shape = " × ".join(str(n) for n in data.x_shape)
    steps = max((m["step"] for m in run.metrics() if m.get("step")), default=None)
    sentences = [
        f"{kind_of_model(run.config)} trained by {method.name or 'an unnamed method'} on {data.name}:"
        f" {format_count(len(data.train))} observations of shape {shape}, observed as {protocol_text(described)}"
        + (f", for {format_count(steps)} steps." if steps else ".")
    ]
    figures = [
        f"{row.name} {row.value}{' ± ' + row.stderr if row.stderr else ''} {row.unit}".rstrip()
        + f" ({row.kind})"
        for row in headlines(estimates)
    ]
    silent = "Evaluated; no figure here ranks models." if estimates or run.remarks() else "Not evaluated yet."
    measured = f"Measured: {'; '.join(figures)}." if figures else silent
    warned = any(remark.get("warning") for remark in run.remarks())
    return " ".join([*sentences, measured, *["Not all figures can be believed: see the warnings."] * warned])


def plates(seen: Study, metrics: list[dict[str, Any]], data: Dataset, folder: Path) -> dict[str, Plate]:
    """The figures by name, each drawn, written to the folder and ready for the page."""
    drawn = image_plates(seen, folder) if seen.images else vector_plates(seen, folder)
    if seen.codes is not None:
        drawn |= latent_plates(seen, seen.codes, data, folder)
    if collect(metrics):
        drawn["curves"] = plate(
            lambda theme: curves(metrics, theme=theme),
            "Curves of training.",
            "Every quantity that was recorded: on training batches pale as recorded, with a running mean;"
            " on validation data as dots. The start of a run may leave the frame where it would flatten the"
            " rest. A critic's accuracy of one half (dashed) means that it cannot tell its two kinds of pairs"
            " apart; its saturation is the share of pairs about which it is too sure to be of use."
            + ERRORS
            * ("error/x" in collect(metrics)),
            file=folder / "curves.png",
        )
    return drawn


def image_plates(seen: Study, folder: Path) -> dict[str, Plate]:
    """Samples as a sheet of images; with an encoder reconstructions and interpolations, else observations beside."""
    drawn = {
        "samples": plate(
            lambda theme: image_grid(seen.samples, theme=theme),
            "Samples.",
            f"{seen.kind}; not selected.",
            file=folder / "samples.png",
        )
    }
    if seen.reconstructions is None:
        drawn["observations"] = plate(
            lambda theme: image_grid(seen.originals, theme=theme),
            "Observations.",
            f"Of the {seen.split} split, as the model sees them, to set beside the samples; not selected.",
            file=folder / "observations.png",
        )
        return drawn
    reconstructions = seen.reconstructions
    drawn["reconstructions"] = plate(
        lambda theme: reconstruction_pairs(seen.originals, reconstructions, theme=theme),
        "Reconstructions.",
        f"Observations x from the {seen.split} split as the model sees them, and under each the mean of"
        " p(x|z) at its code; not selected.",
        file=folder / "reconstructions.png",
    )
    if seen.paths is not None:
        paths, ends = seen.paths, seen.ends
        drawn["interpolations"] = plate(
            lambda theme: interpolation_rows(paths, ends, theme=theme),
            "Interpolations.",
            f"Decoded paths between the codes of two observations of the {seen.split} split, which stand at"
            " the ends of each row.",
            file=folder / "interpolations.png",
        )
    return drawn


def vector_plates(seen: Study, folder: Path) -> dict[str, Plate]:
    """Samples of data that are not images and, with an encoder, reconstructions."""
    kind = seen.kind[:1].lower() + seen.kind[1:]
    drawn = {
        "samples": plate(
            lambda theme: vectors(seen.data, seen.samples, theme=theme),
            "Samples.",
            f"Observations of the {seen.split} split beside {kind}: in"
            " two dimensions, and as densities of single values (data filled, model outlined).",
            file=folder / "samples.png",
        )
    }
    if seen.reconstructions is not None:
        reconstructions = seen.reconstructions
        drawn["reconstructions"] = plate(
            lambda theme: vector_reconstructions(seen.originals, reconstructions, theme=theme),
            "Reconstructions.",
            f"Reconstructed against original values, {seen.split} split; on the dashed line they are equal.",
            file=folder / "reconstructions.png",
        )
    return drawn


def latent_plates(seen: Study, found: Array, data: Dataset, folder: Path) -> dict[str, Plate]:
    """The codes ``found`` in two dimensions, and the prior against the aggregated posterior."""
    each = "one draw" if seen.draws == 1 else f"{seen.draws} draws"
    what = f"{each} from q(z|x) for each of {format_count(seen.encoded)} observations of the {seen.split} split"
    flat = "" if found.shape[1] == 2 else ", projected on their principal directions"
    colour = (
        "Left: coloured by label, a class's name at its median. Right" if seen.labels is not None else "Right"
    )

    def draw_codes(theme: Theme) -> Figure:
        return codes(found, seen.labels, names=getattr(data, "class_names", None), theme=theme)

    drawn = {
        "codes": plate(
            draw_codes,
            "Latent codes.",
            f"{what[0].upper()}{what[1:]}{flat}. {colour}: the regions that hold 50 % and 90 % of them, and"
            " (dashed) of the prior.",
            file=folder / "codes.png",
        ),
        "prior": plate(
            lambda theme: prior_against_aggregated(found, theme=theme),
            "Prior against aggregated posterior.",
            "Where the two differ, samples come from codes that the decoder was not trained on. Above:"
            " histograms of codes against N(0, 1), of the ten dimensions farthest from it if there are more."
            " Middle: median, central 68 % (thick) and 95 % (thin) of every dimension; shaded, the same of"
            " the prior. Below: standard deviations; the prior's is 1.",
            file=folder / "prior.png",
        ),
    }
    if seen.posteriors is not None:
        posteriors = seen.posteriors
        drawn["posteriors"] = plate(
            lambda theme: posterior_panels(posteriors, theme=theme),
            "True posteriors, and the encoder’s.",
            f"For the first {len(posteriors.axes)} of these observations: shaded, the smallest regions that hold 50 %,"
            " 90 % and 99 % of p(z|x), computed on a grid; dots, draws from q(z|x). Dots outside the shade are"
            " codes that do not belong to the observation; shade without dots is what the encoder misses. Every"
            " panel has a window of its own.",
            file=folder / "posteriors.png",
        )
    return drawn


def last_values(metrics: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Each quantity with its last value in training and in validation."""
    return [
        (name, *(round_to_error(splits[s][1][-1])[0] if s in splits else "" for s in ("train", "validation")))  # type: ignore[misc]
        for name, splits in collect(metrics).items()
    ]


def use(run: Run, model: LatentModel) -> str:
    """Code that a reader can copy."""
    shape = ", ".join(str(n) for n in model.x_shape)
    opened = f"import advae\n\nmodel = advae.load({str(run.path)!r})\n"
    samples = f"samples = model.sample(64)           # [64, {shape}]\n"
    if model.has_encoder:
        return (
            opened
            + samples
            + f"z = model.encode(x).rsample()        # x [B, {shape}] to codes [B, {model.latent}]\n"
            + "x_hat = model.decode(z).mean         # and back\n"
            + "path = model.interpolate(x[0], x[1], steps=8)\n"
        )
    if not model.latent:
        return (
            opened
            + samples
            + f"p = model.decode(x.new_zeros(len(x), 0))\nlog_p = p.log_prob(x)  # x [B, {shape}]\n"
        )
    return (
        opened
        + samples
        + f"z = model.prior.sample((64,))        # codes [64, {model.latent}]\n"
        + "x = model.decode(z).sample()         # the sample at each\n"
    )
