"""``advae infer``: the posterior of a log joint density in a Python file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated, Literal, NamedTuple

from advae.cli.console import log, print_estimates, print_facts, print_json, print_table
from advae.cli.parser import POSITIONAL, FolderPath, Name, OutputOptions, Parser, Seed
from advae.errors import CheckpointError, ConfigError, WriteError, first_line
from advae.formatting import Table
from advae.inference.infer_options import InferOptions
from advae.io import read_json_object

SUMMARY = "fit a posterior to a log joint density and check it"
EXAMPLES = """
advae infer eight_schools.py
advae infer eight_schools.py --out posteriors/schools --reference hmc
advae infer eight_schools.py --family flow --steps 1000 --fits 2
advae infer eight_schools.py --resume posteriors/schools
"""
SUMMARY_COLUMNS = ("number", "mean", "sd", "5%", "50%", "95%", "rhat")


@dataclass(frozen=True, kw_only=True)
class InferCommandOptions(OutputOptions):
    """Fit a posterior to the log joint density of a Python file, check it, and write samples, summary and
    report. The file defines parameters = {name: shape or constraint} and log_joint(**named tensors) -> [S]. It
    is run: name only files that you trust."""

    file: Annotated[str | None, "FILE", POSITIONAL] = None
    """Python file with parameters and log_joint."""
    resume: FolderPath | None = None
    """Resume an interrupted posterior, from the same file."""
    out: FolderPath | None = None
    """Run directory (default: runs/FILE/DATE-TIME-sSEED)."""
    seed: Seed = 0
    """Seed of all random numbers."""
    device: Name = "cpu"
    """cpu, cuda, cuda:N or auto."""
    reference: Literal["hmc"] | None = None
    """Also sample by a long run of Hamiltonian Monte Carlo (hmc), to compare with."""
    fit: InferOptions
    """How to fit."""


def parser() -> Parser[InferCommandOptions]:
    return Parser(
        "infer",
        InferCommandOptions,
        EXAMPLES,
        usage="FILE [--resume DIR] [option …]",
        groups={"fit": "variational inference"},
    )


def run(options: InferCommandOptions) -> int:
    """Fit, check, report."""
    from advae.inference.model_file import load_model_file
    from advae.inference.variational_inference import infer
    from advae.training.signals import Interrupted
    from advae.training.train import dated_run_dir

    saved = _read_run(options) if options.resume else None
    if options.file is None:
        raise ConfigError("FILE is missing.", expected="advae infer FILE", fix="see advae infer --help")
    model = load_model_file(options.file, saved.source["sha256"] if saved else None)
    fit, seed = (saved.fit, saved.seed) if saved else (options.fit, options.seed)
    out = Path(options.resume or options.out or dated_run_dir(Path(options.file).stem, seed))
    log(options, f"fitting {fit.family} to {model.path} …")
    try:
        infer(
            model.log_joint,
            model.parameters,
            data=model.data,
            log_likelihood=model.log_likelihood,
            device=options.device,
            reference=options.reference,
            seed=seed,
            out=out,
            resume=saved is not None,
            command=options.command,
            source=saved.source if saved else model.source(),
            quiet=options.quiet or options.json,
            **fit.to_dict(),
        )
    except Interrupted as stop:
        stop.args = (f"{stop}; a checkpoint was saved\n  resume:   {_resume_command(options.file, out)}",)
        raise
    except WriteError as error:
        fix = f"{error.fix}; then resume: {_resume_command(options.file, out)}"
        raise WriteError(
            "Inference stopped: a file cannot be written.", given=error.given, fix=fix
        ) from error
    _print_result(out, options)
    return 0


class SavedRun(NamedTuple):
    """What a run that is resumed was started with."""

    source: dict[str, str]
    fit: InferOptions
    seed: int


def _read_run(options: InferCommandOptions) -> SavedRun:
    """Return what the run was started with. Its model file is not run unless the command line names it."""
    from advae.run import Run

    fixed = {*InferOptions.__dataclass_fields__, "out", "seed"}
    changed = sorted(f"--{name.replace('_', '-')}" for name in options.given & fixed)
    if changed:
        raise ConfigError("Options cannot change when a posterior is resumed.", given=", ".join(changed))
    config = Run.open(str(options.resume)).config
    fit, source, seed = (config.get(key) for key in ("inference", "source", "seed"))
    if not isinstance(fit, dict):
        raise ConfigError(
            "Run is not a posterior.", given=options.resume, fix="resume it with: advae train --resume"
        )
    if not (isinstance(source, dict) and isinstance(source.get("sha256"), str)):
        raise ConfigError(
            "Posterior was fitted from Python.",
            given=options.resume,
            fix="call advae.infer(…, out=…, resume=True)",
        )
    if options.file is None:
        raise ConfigError(
            "A posterior is resumed with its model file: a file that only a run directory names is not run.",
            given=f"--resume {options.resume}",
            fix=_resume_command(str(source.get("file", "FILE")), str(options.resume)),
        )
    if not isinstance(seed, int):
        raise CheckpointError("config.yaml was edited.", given=f"seed: {seed!r}", expected="an integer")
    return SavedRun(source, InferOptions.from_dict(fit), seed)


def _resume_command(file: str, folder: str | Path) -> str:
    """Return the command to type. A name that a terminal would not show as it is becomes FILE."""
    return f"advae infer {quote(file) if file.isprintable() else 'FILE'} --resume {quote(str(folder))}"


def _print_result(out: Path, options: InferCommandOptions) -> None:
    from advae.run import Run

    run_dir, summary = Run.open(out), read_json_object(out / "summary.json")
    if options.json:
        files = {"run": str(out), "report": str(out / "report.html")}
        print_json({**files, **summary, "estimates": run_dir.estimates()})
        return
    if options.quiet:
        print(out)
        return
    try:
        rows = [
            [name, *("–" if row[key] is None else f"{row[key]:.4g}" for key in SUMMARY_COLUMNS[1:])]
            for name, row in summary["parameters"].items()
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            "Summary of the posterior was edited.",
            given=f"{out / 'summary.json'}: {first_line(error)}",
            fix="delete it and resume the run: the results are then written again",
        ) from None
    print_table(Table.from_texts(SUMMARY_COLUMNS, rows, right=SUMMARY_COLUMNS[1:]))
    print()
    print_estimates(run_dir.estimates(), run_dir.remarks())
    print()
    samples = out / ("draws.nc" if (out / "draws.nc").exists() else "draws.npz")
    print_facts({"run": out, "draws": samples, "report": out / "report.html"})
