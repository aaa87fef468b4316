"""``advae train``: from a recipe, a file or a stopped run to a run with its figures and its report."""

from __future__ import annotations

import argparse
import os
import re
from dataclasses import fields
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from advae.cli.console import print_estimates, print_facts, print_json, say
from advae.cli.loaded_model import allow_packages, watched
from advae.cli.parser import Parser, add_allow, add_output, seed
from advae.errors import ConfigError

if TYPE_CHECKING:
    from advae.config import Config
    from advae.data import Dataset
    from advae.run import Run

EXAMPLES = """\
  advae train asvae-digits
  advae train avb-ac-mnist-fc32 --data.source path/to/mnist --train.steps 200000 --train.precision bf16
  advae train vae-digits --model.encoder my_package.nets.MyEncoder --model.encoder.width 64
  advae train --config my.yaml --seed 3 --out runs/mine
  advae train --resume runs/mine --train.steps 20000
  advae train vae-digits --train.rate 3e-4 --print-config > my.yaml"""

UNDOTTED = ("method", "description", "published")  # overrides whose names have no dot
COMPONENT = re.compile(r"method(\.name)?|model\.\w+(\.name)?")
IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


FIRST_SEEN = (
    "likelihood",
    "reconstruction",
)  # sections shown when a run ends, if it has any; the report has all


def parser() -> Parser:
    """Its arguments."""
    made = Parser(
        "train",
        "Train a recipe. Any option of it can be given as --section.option VALUE; with a recipe, --help lists"
        " all of them. A component is chosen by its name or import path (--model.encoder conv).",
        EXAMPLES,
        usage="(RECIPE | --config FILE | --resume RUN) [--section.option VALUE …] [option …]",
        dotted=UNDOTTED,
        add_help=False,
    )
    made.hints = _hints()
    add = made.add_argument
    add("recipe", metavar="RECIPE", nargs="?", help="a name from advae recipes, or a YAML file")
    add("--config", metavar="FILE", help="a recipe of your own, in YAML; the config.yaml of any run is one")
    add("--resume", metavar="RUN", help="go on with a run from its last checkpoint")
    add("--out", metavar="DIR", help="run directory (default: runs/RECIPE/DATE-TIME-sSEED)")
    add("--seed", metavar="N", type=seed, help="of everything random")
    add("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N")
    add("--no-report", action="store_true", help="neither evaluate the run nor write its report")
    add("--print-config", action="store_true", help="print the resolved configuration as YAML, and end")
    add("--dry-run", action="store_true", help="check data and networks, say what would be done, and end")
    add_allow(made)
    add_output(made, "where everything lies and the estimates")
    add("-h", "--help", action="store_true", help="show this help, and with RECIPE every option of it")
    return made


def _hints() -> dict[str, str]:
    """The whole names of options whose section was left out: --steps is --train.steps."""
    from advae.data.data_options import DataOptions
    from advae.training.train_options import TrainOptions

    sections = {"data": DataOptions, "train": TrainOptions}
    return {f.name: f"--{section}.{f.name}" for section, cls in sections.items() for f in fields(cls)}


def run(args: argparse.Namespace) -> int:
    """Train, evaluate, report."""
    if args.help:
        return _help(args)
    source = _source(args)
    overrides = _overrides(args)
    allow_packages([*args.allow, *_named_packages(overrides)])
    from advae.config import resolve

    config = resolve(source, overrides)
    if args.print_config:
        return _print_config(config, args.json)
    if args.dry_run:
        return _dry_run(config, args)
    from advae.training.distributed import first_process, leave

    args.quiet = args.quiet or not first_process()
    try:
        result = _made(config, overrides, args)
    finally:
        leave()
    if first_process():
        _finish(result, args)
    return 0


def _made(config: Config, overrides: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Train and judge, on all processes; what there is to say of it."""
    from advae.data import load_data
    from advae.evaluation.eval_data import Observed
    from advae.run import Run, refuse_used
    from advae.training.distributed import first_process
    from advae.training.train import continued, default_folder

    out = Path(args.resume or args.out or default_folder(config))
    if args.resume:
        continued(Run.open(out), overrides)
    elif first_process():
        refuse_used(out)  # before the data are read
    data = load_data(config.data)
    if not args.no_report:
        Observed(data).refuse_too_few()  # before any training
    done = _trained(config, data, overrides, out, args)
    result: dict[str, Any] = {
        "run": str(done.path),
        "model": str(done.path / "model"),
        "report": None,
        "estimates": [],
        "remarks": [],
    }
    if not args.no_report:
        result |= _judged(done, data, args)
    return result


def _source(args: argparse.Namespace) -> Any:
    """What to train: a recipe's name, a file, or the configuration of a run."""
    given = {"RECIPE": args.recipe, "--config": args.config, "--resume": args.resume}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise ConfigError(f"give one of RECIPE, --config and --resume, not {' and '.join(named)}")
    if not named:
        from advae.config import recipes

        raise ConfigError(
            "what is to be trained?",
            expected="advae train RECIPE, or --config FILE, or --resume RUN",
            remedy=f"the recipes that ship: {', '.join(recipes())}",
        )
    if args.config is not None and not args.config.endswith((".yaml", ".yml")):
        raise ConfigError("a configuration is a file ending in .yaml or .yml", given=args.config)
    if args.resume is None:
        return args.config or args.recipe
    from advae.run import Run

    if args.out is not None:
        raise ConfigError("a run goes on in its own folder", given=f"--out {args.out}", remedy="omit --out")
    return Run.open(args.resume).config


def _overrides(args: argparse.Namespace) -> dict[str, Any]:
    """Overrides by dotted name; a component given as ``{name: …}`` is read as YAML."""
    import yaml

    overrides: dict[str, Any] = dict(args.overrides)
    for key, value in args.overrides.items():
        if value.startswith("{"):
            try:
                overrides[key] = yaml.safe_load(value)
            except yaml.YAMLError:
                raise ConfigError(f"the value of --{key} is not valid YAML", given=value) from None
    plain = {"seed": args.seed, "device": args.device}
    return overrides | {key: value for key, value in plain.items() if value is not None}


def _named_packages(overrides: dict[str, Any]) -> list[str]:
    """Packages of components named by import path: to name one on the command line is to trust it."""
    found = []
    for key, value in overrides.items():
        name = value.get("name") if isinstance(value, dict) else value
        if COMPONENT.fullmatch(key) and isinstance(name, str) and IMPORT_PATH.fullmatch(name):
            found.append(name)
    return found


def _help(args: argparse.Namespace) -> int:
    parser().print_help()
    if args.recipe or args.config:
        overrides = _overrides(args)
        allow_packages([*args.allow, *_named_packages(overrides)])
        from advae.config import resolve, typed_parser

        config = resolve(_source(args), overrides)
        print(f"\nevery option of {config.recipe}, with what it would be trained with:\n")
        options, values = typed_parser(config.to_dict(), docs=True), _flat(config.to_dict())
        options.set_defaults(values)
        for action in options._actions:
            if action.dest not in values or action.dest == "recipe":  # whole sections as files: use --config
                action.help = argparse.SUPPRESS
            action.option_strings = [name for name in action.option_strings if not name.endswith("+")]
        print(options.format_help().partition("\n\n")[2].rstrip())
    return 0


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _print_config(config: Config, as_json: bool) -> int:
    import yaml

    if as_json:
        print_json(config.to_dict())
    else:
        print(yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True), end="")
    return 0


def _dry_run(config: Config, args: argparse.Namespace) -> int:
    """Everything up to the first step, and nothing written."""
    from advae.run import refuse_used
    from advae.training.setup import Setup
    from advae.training.train import default_folder

    out = Path(args.resume or args.out or default_folder(config))
    if not args.resume:
        refuse_used(out)
    setup = Setup(config)
    data = setup.data.describe()
    facts = {
        "recipe": config.recipe,
        "method": config.method["name"],
        "players": {player: list(nets) for player, nets in setup.method.players.items()},
        "parameters": setup.parameters(),
        "data": data,
        "steps": config.train.steps,
        "batch": config.train.batch,
        "seed": config.seed,
        "device": str(setup.fabric.device),
        "out": str(out),
    }
    if args.json:
        print_json(facts)
        return 0
    players = "; ".join(f"{player} moves {', '.join(nets)}" for player, nets in setup.method.players.items())
    sizes = ", ".join(f"{n:,} {part}" for part, n in data["sizes"].items())
    shape = " × ".join(map(str, data["shape"]))
    print_facts(
        facts
        | {
            "players": players,
            "parameters": ", ".join(f"{name} {n:,}" for name, n in setup.parameters().items()),
            "data": f"{data['name']}: {sizes}; {shape}, {data['protocol']['name']}",
            "steps": f"{config.train.steps:,} of {config.train.batch} examples",
        }
    )
    say(args, "nothing was written")
    return 0


def _trained(
    config: Config, data: Dataset, overrides: dict[str, Any], out: Path, args: argparse.Namespace
) -> Run:
    """The run, finished.

    Raises:
        Interrupted: a signal came; its message says how to go on.
    """
    from advae.training.signals import Interrupted
    from advae.training.train import resume, train

    try:
        if args.resume:
            return resume(out, options=overrides, quiet=args.quiet, data=data)
        return train(config.to_dict(), out=out, command=args.command, quiet=args.quiet, data=data)
    except Interrupted as stop:
        stop.args = (f"{stop}; a checkpoint was saved\n  go on:   advae train --resume {quote(str(out))}",)
        raise


def _judged(done: Run, data: Dataset, args: argparse.Namespace) -> dict[str, Any]:
    """Evaluate the run and write its report."""
    from advae.config import resolve
    from advae.evaluation.evaluate_run import evaluate_run
    from advae.report import write_report
    from advae.training.distributed import first_process
    from advae.training.environment import find_device

    say(args, "evaluating …")
    config = resolve(done.config)
    model = done.model(str(find_device(config.device, os.environ.get("LOCAL_RANK"))))
    evaluate_run(done, model, data, stage=watched(args))
    say(args, "writing the report …")
    report = str(write_report(done, model, data)) if first_process() else ""
    return {"report": report, "estimates": done.estimates(), "remarks": done.remarks()}


def _finish(result: dict[str, Any], args: argparse.Namespace) -> None:
    if args.json:
        print_json(result)
        return
    if args.quiet:
        print(result["run"])
        return
    if result["estimates"]:
        first = [e for e in result["estimates"] if e["section"] in FIRST_SEEN]
        print_estimates(first or result["estimates"], result["remarks"])
        print()
    print_facts({name: result[name] for name in ("run", "model", "report") if result[name]})
