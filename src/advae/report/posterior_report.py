"""Report of a posterior: one self-contained HTML page, made from the files of its run directory."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import yaml

from advae.errors import AdvaeError, CheckpointError, first_line
from advae.formatting import format_count, format_duration, format_with_error
from advae.io import path_inside, read_json_object, read_npz, write_atomically
from advae.report.estimate_table import estimate_table, kind_legend, read_evaluation
from advae.report.figures.marginals import MAX_MARGINALS, marginals, pairs, training_bounds
from advae.report.figures.style import FloatArray
from advae.report.html import HtmlFigures, render
from advae.report.run_summary import Facts, environment

if TYPE_CHECKING:
    from advae.run import Run

BASELINE_FAMILIES = ("mean-field", "full-rank")
FAMILIES_WITH_CRITIC = ("implicit", "noise-basis")
SUMMARY_KEYS = ("mean", "sd", "5%", "50%", "95%")
BOUND_CAPTION = (
    "Estimated per batch of each fit, in nats; at first under a power of the target, where it does not bound the"
    " evidence. For families with a critic it is an adversarial estimate, which can be too high or too low."
)
MARGINALS_CAPTION = (
    "Filled, all samples; thin lines, single fits, which differ where the fits disagree. Dashed and dotted, normals"
    " fitted to the same target."
)
PAIRS_CAPTION = "The parameters whose marginals are least Gaussian; all panels of a row have the same axes."


class PosteriorSamples(NamedTuple):
    """Samples of all parameters: of the fits ``[F, S, n]``, of baselines and of HMC ``[S, n]``."""

    fits: FloatArray
    baselines: dict[str, FloatArray]
    reference: FloatArray | None

    @classmethod
    def load(cls, run: Run, names: list[str]) -> PosteriorSamples:
        """Load draws.npz and, where they exist, baselines.npz and reference.npz."""
        draws, baselines, reference = (
            _read_arrays(run, name) for name in ("draws", "baselines", "reference")
        )
        return cls(
            concatenate_parameters(draws, names),
            {
                family: _pool(concatenate_parameters(baselines, names, f"{family}/"))
                for family in BASELINE_FAMILIES
                if f"{family}/{names[0]}" in baselines
            },
            _pool(concatenate_parameters(reference, names)) if reference else None,
        )


def write_posterior_report(run: Run) -> Path:
    """Write ``figures/*.png`` and ``report.html`` into the run directory of a posterior, and return the page's path.

    Raises:
        CheckpointError: the fit is not finished, or a file of the run is damaged.
    """
    path = path_inside(run.path, "summary.json")
    if not path.is_file():
        raise CheckpointError(
            "Run has no finished posterior.",
            given=run.path,
            fix=f"resume it: advae infer FILE --resume {quote(str(run.path))}",
        )
    try:
        page = make_page(run, read_json_object(path))
    except AdvaeError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            "Files of the posterior have unexpected contents.",
            given=f"{run.path}: {first_line(error)}",
            expected="config.yaml, summary.json and *.npz as advae infer wrote them",
            fix="restore them, or infer again",
        ) from error
    path = path_inside(run.path) / "report.html"
    write_atomically(path, page)
    return path


def make_page(run: Run, summary: dict[str, Any]) -> str:
    """Return the page, and write its figures to the run."""
    config, (estimates, remarks) = run.config, read_evaluation(run)
    samples = PosteriorSamples.load(run, list(config["parameters"]))
    return render(
        "posterior_report.html",
        title=str(config["source"].get("name") or "Posterior"),
        path=str(run.path),
        abstract=make_abstract(config, summary),
        summary=posterior_facts(config),
        parameters=parameter_rows(summary, samples.reference),
        reference=summary.get("reference"),
        table=estimate_table(estimates, remarks),
        legend=kind_legend(str(e.get("kind")) for e in estimates),
        figures=make_figures(summary, samples, run.path),
        has_netcdf=(run.path / "draws.nc").exists(),
        source=str(config["source"].get("text", "")),
        environment=environment(run.env),
        config=yaml.safe_dump(
            {k: v for k, v in config.items() if k != "source"}, sort_keys=False, allow_unicode=True
        ),
    )


def concatenate_parameters(arrays: dict[str, FloatArray], names: list[str], prefix: str = "") -> FloatArray:
    """Return named arrays ``[F, S, *shape]`` next to each other, ``[F, S, n]``."""
    values = [arrays[prefix + name] for name in names]
    return np.concatenate([value.reshape(*value.shape[:2], -1) for value in values], axis=2)


def make_abstract(config: dict[str, Any], summary: dict[str, Any]) -> str:
    """Return the posterior in three sentences."""
    options, evidence = config["inference"], summary["log_evidence"]
    return (
        f"A posterior over {len(summary['parameters'])} parameters, from {options['fits']} independent fits of the"
        f" family {options['family']}, computed in {format_duration(summary['seconds'])}. The log evidence by"
        f" annealing is {format_with_error(evidence['value'], evidence['stderr'])} nats. {summary['verdict']}"
    )


def posterior_facts(config: dict[str, Any]) -> Facts:
    """Return the rows of the table of model and inference options."""
    options = config["inference"]
    parameters = ", ".join(
        f"{name} {'×'.join(map(str, p['shape'])) or 'scalar'}"
        + ("" if p["constraint"] == "Real()" else f" in {p['constraint']}")
        for name, p in config["parameters"].items()
    )
    critic = (
        f"{options['critic_blocks']} residual blocks of width {options['critic_width']}, {options['contrast']}"
        f" contrast, known terms: {options['known']}"
    )
    samples_per_step = format_count(options.get("samples_per_step", options.get("batch")))
    rows = [
        ("parameters", parameters),
        ("family", f"{options['family']}, layer widths {', '.join(map(str, options['hidden']))}"),
        ("critic", critic if options["family"] in FAMILIES_WITH_CRITIC else ""),
        ("fits", str(options["fits"])),
        ("steps", f"{format_count(options['steps'])}, {samples_per_step} samples per step and fit"),
        ("seed", str(config["seed"])),
        ("source", str(config["source"].get("file", ""))),
    ]
    return [(name, text) for name, text in rows if text]


def parameter_rows(summary: dict[str, Any], reference: FloatArray | None) -> list[tuple[str, list[str]]]:
    """Return mean, standard deviation, quantiles and R-hat of each parameter, and the moments of the reference."""
    rows = []
    for j, (label, row) in enumerate(summary["parameters"].items()):
        cells = [format_with_error(row[key]) for key in SUMMARY_KEYS]
        cells.append("—" if row["rhat"] is None or np.isnan(row["rhat"]) else f"{row['rhat']:.3f}")
        if reference is not None:
            cells += [format_with_error(reference[:, j].mean()), format_with_error(reference[:, j].std())]
        rows.append((label, cells))
    return rows


def make_figures(summary: dict[str, Any], samples: PosteriorSamples, run_dir: Path) -> HtmlFigures:
    """Plot the figures and write them to a run directory."""
    figures, labels = HtmlFigures(run_dir, "figures"), list(summary["parameters"])
    hmc = "" if samples.reference is None else " Dark line, a long run of Hamiltonian Monte Carlo."
    first = f" The first {MAX_MARGINALS} of {len(labels)} parameters." if len(labels) > MAX_MARGINALS else ""
    plotted = (samples.fits, labels, samples.baselines, samples.reference)
    figures.add("marginals", "Marginals.", f"{MARGINALS_CAPTION}{hmc}{first}", marginals, *plotted)
    if len(labels) > 1:
        figures.add("pairs", "Pairs.", PAIRS_CAPTION, pairs, *plotted)
    if summary["history"]:
        steps, bounds = zip(*summary["history"], strict=True)
        evidence = (summary["log_evidence"]["value"], summary["log_evidence"]["stderr"])
        values = np.array(bounds, dtype=np.float64)
        figures.add("bounds", "ELBO per step.", BOUND_CAPTION, training_bounds, steps, values, evidence)
    return figures


def _read_arrays(run: Run, name: str) -> dict[str, FloatArray]:
    """Return the arrays of an .npz file in float64; none if there is no such file or it cannot be read."""
    try:
        arrays = read_npz(path_inside(run.path, f"{name}.npz"))
    except CheckpointError:
        return {}
    return {key: np.asarray(value, dtype=np.float64) for key, value in arrays.items()}


def _pool(samples: FloatArray) -> FloatArray:
    return samples.reshape(-1, samples.shape[2])
