"""``advae infer``: the posterior of a log joint density in a file of one's own."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from shlex import quote
from typing import Any

from advae.cli.console import print_estimates, print_facts, print_json, print_table, say
from advae.cli.parser import Parser, add_output, count, one_of, seed
from advae.errors import ConfigError
from advae.inference.infer_options import FAMILIES, InferOptions

EXAMPLES = """\
  advae infer eight_schools.py
  advae infer eight_schools.py --out posteriors/schools --reference hmc
  advae infer eight_schools.py --family flow --steps 1000 --fits 2
  advae infer --resume posteriors/schools"""

OPTIONS: dict[str, tuple[Any, str]] = {
    "fits": (count, "independent fits in one batch"),
    "steps": (count, "updates of q"),
    "batch": (count, "draws of each fit in a step"),
    "rate": (float, "Adam's learning rate of q"),
    "critic_rate": (float, "Adam's learning rate of the critic"),
    "critic_steps": (count, "critic updates for each of q"),
    "contrast": (
        one_of("full", "diagonal"),
        "covariance of the normal that q is contrasted with: full or diagonal",
    ),
    "known": (one_of("target", "none"), "what the critic is told: the target's density, or nothing"),
    "noise": (count, "further noise numbers of the implicit family"),
    "critic_width": (count, "width of the critic"),
    "critic_blocks": (count, "residual blocks of the critic"),
    "temper": (float, "power of the log joint that fits begin under"),
    "minibatch": (count, "rows of the file's data in a step"),
    "dtype": (one_of("float32", "float64"), "arithmetic: float32 or float64"),
}
"""Options of inference by their Python names."""


def parser() -> Parser:
    """Its arguments."""
    made = Parser(
        "infer",
        "Fit a posterior to the log joint density of a Python file, check it, and write draws, summary and report. The"
        " file defines parameters = {name: shape or constraint} and log_joint(**named tensors) -> [S]. It is run: name"
        " only files that you trust.",
        EXAMPLES,
        usage="(FILE | --resume DIR) [option …]",
    )
    add = made.add_argument
    add("file", metavar="FILE", nargs="?", help="a Python file with parameters and log_joint")
    add("--resume", metavar="DIR", help="go on with a posterior that was stopped")
    add("--out", metavar="DIR", help="run directory (default: runs/FILE/DATE-TIME-sSEED)")
    add(
        "--family",
        metavar="NAME",
        type=one_of(*FAMILIES),
        default="implicit",
        help=f"{', '.join(FAMILIES)} (default: implicit)",
    )
    add("--seed", metavar="N", type=seed, default=0, help="of everything random (default: 0)")
    add("--device", metavar="NAME", default="cpu", help="cpu, cuda, cuda:N or auto (default: cpu)")
    add(
        "--reference",
        metavar="NAME",
        type=one_of("hmc"),
        help="hmc: a long run of Hamiltonian Monte Carlo beside it",
    )
    for name, (kind, text) in OPTIONS.items():
        default = InferOptions.__dataclass_fields__[name].default
        add(
            f"--{name.replace('_', '-')}",
            dest=name,
            metavar="VALUE",
            type=kind,
            help=f"{text} (default: {default})",
        )
    add_output(made, "summary and estimates")
    return made


def run(args: argparse.Namespace) -> int:
    """Fit, check, report."""
    if (args.file is None) == (args.resume is None):
        raise ConfigError("what is to be inferred?", expected="advae infer FILE, or --resume DIR")
    from advae.inference.model_file import read_model_file
    from advae.inference.variational_inference import infer
    from advae.training.signals import Interrupted

    file, out, chosen = (_resumed if args.resume else _new)(args)
    model = read_model_file(file)
    say(args, f"fitting {chosen['family']} to {model.path} …")
    try:
        infer(
            model.log_joint,
            model.parameters,
            data=model.data,
            log_likelihood=model.log_likelihood,
            device=args.device,
            reference=args.reference,
            out=out,
            resume=args.resume is not None,
            command=args.command,
            source=model.source(),
            quiet=args.quiet or args.json,
            **chosen,
        )
    except Interrupted as stop:
        stop.args = (f"{stop}; a checkpoint was saved\n  go on:   advae infer --resume {quote(str(out))}",)
        raise
    _finish(out, args)
    return 0


def _new(args: argparse.Namespace) -> tuple[str, Path, dict[str, Any]]:
    from advae.training.train import dated_folder

    chosen = {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
    out = Path(args.out or dated_folder(Path(args.file).stem, args.seed))
    return args.file, out, {"family": args.family, "seed": args.seed, **chosen}


def _resumed(args: argparse.Namespace) -> tuple[str, Path, dict[str, Any]]:
    """The file, folder and options of a run."""
    from advae.run import Run

    given = [f"--{name.replace('_', '-')}" for name in OPTIONS if getattr(args, name) is not None]
    if args.out is not None or given:
        what = [*(["--out"] if args.out is not None else []), *given]
        raise ConfigError("a posterior goes on as it was configured", given=", ".join(what))
    config = Run.open(args.resume).config
    if "inference" not in config:
        raise ConfigError(
            "this run is no posterior", given=args.resume, remedy="advae train --resume goes on with it"
        )
    file = config["source"].get("file")
    if not file:
        raise ConfigError(
            "this posterior was fitted from Python",
            given=args.resume,
            remedy="call advae.infer(…, out=…, resume=True)",
        )
    return file, Path(args.resume), {**config["inference"], "seed": config["seed"]}


def _finish(out: Path, args: argparse.Namespace) -> None:
    from advae.run import Run

    done = Run.open(out)
    summary = json.loads((out / "summary.json").read_text())
    if args.json:
        print_json(
            {"run": str(out), "report": str(out / "report.html"), **summary, "estimates": done.estimates()}
        )
        return
    if args.quiet:
        print(out)
        return
    columns = ("number", "mean", "sd", "5%", "50%", "95%", "rhat")
    rows = [
        [label, *(f"{row[key]:.4g}" for key in columns[1:])] for label, row in summary["parameters"].items()
    ]
    print_table(columns, rows, right=columns[1:])
    print()
    print_estimates(done.estimates(), done.remarks())
    print()
    draws = out / ("draws.nc" if (out / "draws.nc").exists() else "draws.npz")
    print_facts({"run": out, "draws": draws, "report": out / "report.html"})
