"""The report of a posterior: one self-contained page, made from what lies in its run directory."""

from __future__ import annotations

import zipfile
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from advae.errors import CheckpointError
from advae.formatting import format_count, format_duration, round_to_error
from advae.io import read_json, write_atomically
from advae.report.estimate_table import sections
from advae.report.figures.marginals import MOST, bounds, marginals, pairs
from advae.report.figures.style import FloatArray
from advae.report.html import Plate, plate, render
from advae.report.kinds import meanings
from advae.report.run_summary import environment

if TYPE_CHECKING:
    from advae.run import Run


def write_inference_report(run: Run) -> Path:
    """Write ``figures/*.png`` and ``report.html`` of a posterior's run directory, and return the page's path.

    Raises:
        CheckpointError: the run holds no posterior that was finished.
    """
    if not (run.path / "summary.json").is_file():
        raise CheckpointError(
            "this run holds no finished posterior",
            given=run.path,
            fix=f"go on with it: advae infer --resume {quote(str(run.path))}",
        )
    found, config = read_json(run.path / "summary.json"), run.config
    names = list(config["parameters"])
    draws = stacked(arrays(run.path / "draws.npz"), names, 2)
    beside = arrays(run.path / "baselines.npz")
    others = {
        kind: stacked({name: beside[f"{kind}/{name}"] for name in names}, names, 2).reshape(
            -1, draws.shape[2]
        )
        for kind in ("mean-field", "full-rank")
        if f"{kind}/{names[0]}" in beside
    }
    chains = arrays(run.path / "reference.npz")
    reference = stacked(chains, names, 2).reshape(-1, draws.shape[2]) if chains else None
    folder = run.path / "figures"
    folder.mkdir(exist_ok=True)
    tables, common = sections(run.estimates(), run.remarks())
    page = render(
        "inference.html",
        title=title(config),
        abstract=abstract(config, found),
        facts=facts(config, found),
        rows=parameter_rows(found, reference, list(found["parameters"])),
        reference=found.get("reference"),
        sections=tables,
        common=common,
        bracketed=False,
        meanings=meanings(run.estimates()),
        plates=plates(found, draws, others, reference, folder),
        path=str(run.path),
        netcdf=(run.path / "draws.nc").exists(),
        source=config["source"].get("text", ""),
        environment=environment(run.env),
        config=yaml.safe_dump(
            {k: v for k, v in config.items() if k != "source"}, sort_keys=False, allow_unicode=True
        ),
    )
    path = run.path / "report.html"
    write_atomically(path, page)
    return path


def arrays(path: Path) -> dict[str, FloatArray]:
    """The arrays of an .npz file; none where there is no such file, or it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: np.asarray(file[name], dtype=np.float64) for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile):
        return {}


def stacked(values: dict[str, FloatArray], names: list[str], axes: int) -> FloatArray:
    """Named arrays ``[*axes, *shape]`` side by side, ``[*axes, n]``."""
    return np.concatenate([values[name].reshape(*values[name].shape[:axes], -1) for name in names], axis=axes)


def title(config: dict[str, Any]) -> str:
    """What the posterior is of."""
    return str(config["source"].get("name") or "Posterior")


def abstract(config: dict[str, Any], found: dict[str, Any]) -> str:
    """The posterior in three sentences."""
    options, count = config["inference"], len(found["parameters"])
    value, error = round_to_error(found["log_evidence"]["value"], found["log_evidence"]["stderr"])
    return (
        f"A posterior over {count} numbers, by {options['fits']} independent fits of the family"
        f" {options['family']}, in {format_duration(found['seconds'])}. The log evidence by annealing is {value}"
        f"{' ± ' + error if error else ''} nats. {found['verdict']}"
    )


def facts(config: dict[str, Any], found: dict[str, Any]) -> list[tuple[str, str]]:
    """What was fitted, and how."""
    o = config["inference"]
    parameters = ", ".join(
        f"{name} {'×'.join(map(str, p['shape'])) or 'number'}"
        + ("" if p["constraint"] == "Real()" else f" in {p['constraint']}")
        for name, p in config["parameters"].items()
    )
    blocks = f"{o['critic_blocks']} residual blocks of {o['critic_width']}"
    critic = f"{blocks}, {o['contrast']} contrast, known terms: {o['known']}"
    rows = [
        ("parameters", parameters),
        ("family", f"{o['family']}, networks of {', '.join(map(str, o['hidden']))}"),
        ("critic", critic),
        ("fits", str(o["fits"])),
        ("steps", f"{format_count(o['steps'])} of {o['batch']} draws a fit"),
        ("seed", str(config["seed"])),
        ("source", str(config["source"].get("file", ""))),
    ]
    has_critic = o["family"] in ("implicit", "noise-basis")
    return [(name, text) for name, text in rows if text and (has_critic or name != "critic")]


def parameter_rows(
    found: dict[str, Any], reference: FloatArray | None, labels: list[str]
) -> list[tuple[str, list[str]]]:
    """A row a number: mean, standard deviation, three quantiles, R-hat; with a reference, its mean and deviation."""
    rows = []
    for j, label in enumerate(labels):
        row = found["parameters"][label]
        cells = [round_to_error(row[key])[0] for key in ("mean", "sd", "5%", "50%", "95%")]
        cells.append(f"{row['rhat']:.3f}" if row["rhat"] == row["rhat"] else "—")
        if reference is not None:
            cells += [round_to_error(float(reference[:, j].mean()))[0], round_to_error(float(reference[:, j].std()))[0]]
        rows.append((label, cells))
    return rows


def plates(
    found: dict[str, Any],
    draws: FloatArray,
    others: dict[str, FloatArray],
    reference: FloatArray | None,
    folder: Path,
) -> dict[str, Plate]:
    """The figures by name."""
    labels = list(found["parameters"])
    hmc = "" if reference is None else " In ink, a long run of Hamiltonian Monte Carlo."
    first = f" The first {MOST} of {len(labels)} numbers." if len(labels) > MOST else ""
    drawn = {
        "marginals": plate(
            lambda theme: marginals(draws, labels, others, reference, theme=theme),
            "Marginals.",
            "Filled, all draws; thin lines, each fit by itself: where they part, the fits disagree."
            f" Dashed and dotted, normals fitted to the same target.{hmc}{first}",
            file=folder / "marginals.png",
        )
    }
    if len(labels) > 1:
        drawn["pairs"] = plate(
            lambda theme: pairs(draws, labels, others, reference, theme=theme),
            "Pairs.",
            "Draws of the numbers whose marginals are least like those of a normal; all panels of a row show the same"
            " window.",
            file=folder / "pairs.png",
        )
    if found["history"]:
        steps, values = [row[0] for row in found["history"]], np.array([row[1] for row in found["history"]])
        evidence = (found["log_evidence"]["value"], found["log_evidence"]["stderr"])
        drawn["bounds"] = plate(
            lambda theme: bounds(steps, values, evidence, theme=theme),
            "The bound over the steps.",
            "Of one batch of each fit, in nats; at first under a power of the target, where it is no bound on the"
            " evidence. Where a critic is in it, it is an estimate that may lie on either side.",
            file=folder / "bounds.png",
        )
    return drawn
