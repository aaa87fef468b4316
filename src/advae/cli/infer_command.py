"""``advae infer``: the posterior of a log joint density in a Python file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated, Literal

from advae.cli.console import log, print_estimates, print_facts, print_json, print_table
from advae.cli.parser import POSITIONAL, FolderPath, Name, OutputOptions, Parser, Seed
from advae.errors import ConfigError
from advae.inference.infer_options import InferOptions
from advae.io import read_json

SUMMARY = "fit a posterior to a log joint density and check it"
EXAMPLES = """
advae infer eight_schools.py
advae infer eight_schools.py --out posteriors/schools --reference hmc
advae infer eight_schools.py --family flow --steps 1000 --fits 2
advae infer --resume posteriors/schools
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
    """Resume an interrupted posterior."""
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
    usage, groups = "(FILE | --resume DIR) [option …]", {"fit": "variational inference"}
    return Parser("infer", InferCommandOptions, EXAMPLES, usage=usage, groups=groups)


def run(options: InferCommandOptions) -> int:
    """Fit, check, report."""
    if (options.file is None) == (options.resume is None):
        raise ConfigError("Nothing to infer.", expected="advae infer FILE, or --resume DIR")
    from advae.inference.model_file import load_model_file
    from advae.inference.variational_inference import infer
    from advae.training.signals import Interrupted
    from advae.training.train import dated_run_dir

    if options.resume:
        file, fit, seed = _read_run(options)
        out = Path(options.resume)
    else:
        file, fit, seed = str(options.file), options.fit, options.seed
        out = Path(options.out or dated_run_dir(Path(file).stem, seed))
    model = load_model_file(file)
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
            resume=options.resume is not None,
            command=options.command,
            source=model.source(),
            quiet=options.quiet or options.json,
            **fit.to_dict(),
        )
    except Interrupted as stop:
        stop.args = (f"{stop}; a checkpoint was saved\n  resume:   advae infer --resume {quote(str(out))}",)
        raise
    _print_result(out, options)
    return 0


def _read_run(options: InferCommandOptions) -> tuple[str, InferOptions, int]:
    """Return the model file, options and seed of the run to resume."""
    from advae.run import Run

    fixed = {*InferOptions.__dataclass_fields__, "out", "seed"}
    changed = sorted(f"--{name.replace('_', '-')}" for name in options.given & fixed)
    if changed:
        raise ConfigError("Options cannot change when a posterior is resumed.", given=", ".join(changed))
    config = Run.open(str(options.resume)).config
    if "inference" not in config:
        raise ConfigError(
            "Run is not a posterior.", given=options.resume, fix="resume it with: advae train --resume"
        )
    file = config["source"].get("file")
    if not file:
        raise ConfigError(
            "Posterior was fitted from Python.",
            given=options.resume,
            fix="call advae.infer(…, out=…, resume=True)",
        )
    return file, InferOptions.from_dict(config["inference"]), config["seed"]


def _print_result(out: Path, options: InferCommandOptions) -> None:
    from advae.run import Run

    run_dir, summary = Run.open(out), read_json(out / "summary.json")
    if options.json:
        files = {"run": str(out), "report": str(out / "report.html")}
        print_json({**files, **summary, "estimates": run_dir.estimates()})
        return
    if options.quiet:
        print(out)
        return
    rows = [
        [name, *("–" if row[key] is None else f"{row[key]:.4g}" for key in SUMMARY_COLUMNS[1:])]
        for name, row in summary["parameters"].items()
    ]
    print_table(SUMMARY_COLUMNS, rows, right=SUMMARY_COLUMNS[1:])
    print()
    print_estimates(run_dir.estimates(), run_dir.remarks())
    print()
    samples = out / ("draws.nc" if (out / "draws.nc").exists() else "draws.npz")
    print_facts({"run": out, "draws": samples, "report": out / "report.html"})
