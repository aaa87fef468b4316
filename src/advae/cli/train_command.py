"""``advae train``: from a recipe to a run with its evaluation and report."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

from advae.cli.console import log, print_estimates, print_facts, print_json
from advae.cli.loaded_model import allow_packages, log_data_remarks
from advae.cli.parser import HIDDEN, POSITIONAL, AllowOptions, FilePath, FolderPath, Name, Parser, Seed
from advae.errors import ConfigError
from advae.formatting import flatten, format_settings
from advae.io import to_json

if TYPE_CHECKING:
    from advae.config import Config

SUMMARY = "train a recipe, evaluate the model and write a report"
EXAMPLES = """
advae train --data.source path/to/images            a folder of images: the recipe vae-images
advae train --data.source table.csv --time 10m      a table: the recipe vae-table; trains for ten minutes
advae train avb-images --data.source photos.npy --dry-run
advae train asvae-digits
advae train avb-ac-mnist-fc32 --data.source path/to/mnist --train.steps 200000 --train.precision bf16
advae train vae-digits --model.encoder my_package.nets.MyEncoder --model.encoder.width 64
advae train --config my.yaml --seed 3 --out runs/mine
advae train --resume runs/mine --train.steps 20000
advae train vae-digits --train.lr 3e-4 --print-config > my.yaml
"""
OVERRIDES_WITHOUT_SECTION = ("method", "description", "published")
COMPONENT = re.compile(r"method(\.name)?|model\.\w+(\.name)?")
IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
SHOWN_SECTIONS = ("likelihood", "reconstruction")  # printed at the end; the report has all sections


@dataclass(frozen=True, kw_only=True)
class TrainCommandOptions(AllowOptions):
    """Train a recipe; without one, --data.source chooses it by the data. Any option of a recipe can be given as
    --section.option VALUE; with a recipe, --help lists all of them. A component is chosen by its name or import
    path (--model.encoder conv). --json prints the paths of run, model and report, and the estimates."""

    recipe: Annotated[str | None, "RECIPE", POSITIONAL] = None
    """A name from advae recipes, or a YAML file."""
    config: FilePath | None = None
    """Your own recipe in YAML; the config.yaml of any run is one."""
    resume: Annotated[str | None, "RUN"] = None
    """Resume a run from its last checkpoint."""
    out: FolderPath | None = None
    """Run directory (default: runs/RECIPE/DATE-TIME-sSEED)."""
    seed: Seed | None = None
    """Seed of all random numbers."""
    device: Name | None = None
    """auto, cpu, cuda or cuda:N."""
    time: Annotated[str | None, "TIME"] = None
    """Train for this long, such as 90s, 10m or 2h: sets train.steps by the measured time of a step, once."""
    no_report: bool = False
    """Do not evaluate the model and write no report."""
    print_config: bool = False
    """Print the resolved configuration as YAML and exit."""
    dry_run: bool = False
    """Check data and networks, print what would be done, and exit."""
    help: bool = False
    """Show this help; with RECIPE also all its options."""
    overrides: Annotated[dict[str, Any], HIDDEN] = field(default_factory=dict)
    """Options of the recipe, by dotted name."""


def parser() -> Parser[TrainCommandOptions]:
    from advae.data.data_options import DataOptions
    from advae.training.train_options import TrainOptions

    parser = Parser(
        "train",
        TrainCommandOptions,
        EXAMPLES,
        usage="(RECIPE | --data.source PATH | --config FILE | --resume RUN) [--section.option VALUE …]",
        flags={"help": "-h --help"},
        overrides=OVERRIDES_WITHOUT_SECTION,
        help_option=False,
    )
    sections = {"data": DataOptions, "train": TrainOptions}
    parser.recipe_options = [f"--{name}.{f.name}" for name, cls in sections.items() for f in fields(cls)]
    parser.recipe_options += [
        "--model.latent_dim",
        *(f"--model.{part}" for part in ("encoder", "decoder", "likelihood", "encoder.hidden")),
        *("--method", "--method.beta"),
    ]
    return parser


def run(options: TrainCommandOptions) -> int:
    """Train, evaluate, report."""
    if options.help:
        return _print_help(options)
    config = _resolve(options)
    if options.print_config:
        import yaml

        tree = config.to_dict()
        text = to_json(tree) if options.json else yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
        print(text, end="")
        return 0
    if options.dry_run:
        return _dry_run(config, options)
    from advae.training.distributed import destroy_process_group, is_first_process

    options = replace(options, quiet=options.quiet or not is_first_process())
    try:
        result = _train_and_evaluate(config, options)
    finally:
        destroy_process_group()
    if is_first_process():
        _print_result(result, options)
    return 0


# --- configuration ------------------------------------------------------------------------------------------


def _resolve(options: TrainCommandOptions) -> Config:
    """Return the configuration to train; nothing resolves it again."""
    overrides = _overrides(options)
    source = _source(options, overrides)
    allow_packages([*options.allow, *_named_packages(overrides)])
    if options.resume is not None:
        from advae.run import Run
        from advae.training.train import resume_config

        return resume_config(Run.open(options.resume), overrides)
    from advae.config import resolve

    return resolve(source, overrides)


def _source(options: TrainCommandOptions, overrides: Mapping[str, Any]) -> str:
    """Return the recipe, file or run to train; if only data are named, the recipe that suits them."""
    sources = {"RECIPE": options.recipe, "--config": options.config, "--resume": options.resume}
    named = {name: value for name, value in sources.items() if value is not None}
    if not named and "data.source" in overrides:
        from advae.config import choose_recipe_for_source

        choice = choose_recipe_for_source(overrides)
        log(options, str(choice))
        return choice.name
    if len(named) != 1:
        raise ConfigError(
            f"Only one of them is possible: {' and '.join(named)}." if named else "Nothing to train.",
            expected="advae train RECIPE, or --data.source PATH, or --config FILE, or --resume RUN",
            fix="a recipe, such as vae-digits, trains on embedded data; advae recipes lists all",
        )
    if options.config is not None:
        from advae.config import is_recipe_file

        if not is_recipe_file(options.config):
            raise ConfigError("--config must be a .yaml or .yml file.", given=options.config)
    if options.time is not None:
        from advae.training.train_options import duration_in_seconds

        duration_in_seconds(options.time, overrides)
    if options.resume is not None and options.time is not None:
        fix = "train longer with --train.steps N"
        raise ConfigError(
            "A run that is resumed has a number of steps.", given=f"--time {options.time}", fix=fix
        )
    if options.resume is not None and options.out is not None:
        raise ConfigError("--out cannot change when a run is resumed.", given=f"--out {options.out}")
    return next(iter(named.values()))


def _overrides(options: TrainCommandOptions) -> dict[str, Any]:
    """Return overrides by dotted name; a component given as ``{name: …}`` is read as YAML."""
    overrides: dict[str, Any] = dict(options.overrides)
    for key, value in options.overrides.items():
        if value.startswith("{"):
            from advae.safe_yaml import parse_yaml

            overrides[key] = parse_yaml(value, f"--{key}")
    top_level = {"seed": options.seed, "device": options.device}
    return overrides | {key: value for key, value in top_level.items() if value is not None}


def _named_packages(overrides: dict[str, Any]) -> list[str]:
    """Packages of components that the command line names by import path, and thereby allows."""
    names = {key: value.get("name") if isinstance(value, dict) else value for key, value in overrides.items()}
    return [
        name
        for key, name in names.items()
        if COMPONENT.fullmatch(key) and isinstance(name, str) and IMPORT_PATH.fullmatch(name)
    ]


def _print_help(options: TrainCommandOptions) -> int:
    parser().print_help()
    if options.recipe or options.config:
        config = _resolve(options)
        from advae.config import option_parser

        print(f"\nevery option of {config.recipe}, with the value it would be trained with:\n")
        recipe_parser, values = option_parser(config.to_dict(), docs=True), flatten(config.to_dict())
        recipe_parser.set_defaults(values)
        for action in recipe_parser._actions:
            if (
                action.dest not in values or action.dest == "recipe"
            ):  # a section as a file: --config does that
                action.help = argparse.SUPPRESS
            action.option_strings = [name for name in action.option_strings if not name.endswith("+")]
        print(recipe_parser.format_help().partition("\n\n")[2].rstrip())
    return 0


# --- training -----------------------------------------------------------------------------------------------


def _run_dir(config: Config, options: TrainCommandOptions) -> Path:
    """Return the run directory; a new one must be empty."""
    from advae.run import check_unused
    from advae.training.distributed import is_first_process
    from advae.training.train import default_run_dir

    if options.resume:
        return Path(options.resume)
    out = Path(options.out or default_run_dir(config))
    if is_first_process():
        check_unused(out)
    return out


def _dry_run(config: Config, options: TrainCommandOptions) -> int:
    """Do everything up to the first step, without writing."""
    from advae.progress import format_estimate
    from advae.training.benchmark import steps_in, time_step
    from advae.training.setup import Setup
    from advae.training.train_options import parse_duration

    out, setup = _run_dir(config, options), Setup(config)
    per_step, steps = time_step(setup), config.train.steps
    if options.time is not None:
        steps = steps_in(parse_duration(options.time), per_step)
    data, parameters, players = setup.data.describe(), setup.num_parameters(), setup.method.players
    facts = {
        "recipe": config.recipe,
        "method": config.method["name"],
        "players": {player: list(networks) for player, networks in players.items()},
        "parameters": parameters,
        "data": data,
        "steps": steps,
        "seconds": round(steps * per_step, 1),
        "batch_size": config.train.batch_size,
        "seed": config.seed,
        "device": str(setup.fabric.device),
        "out": str(out),
    }
    if options.json:
        print_json(facts)
        return 0
    sizes = ", ".join(f"{n:,} {part}" for part, n in data["sizes"].items())
    shape = " × ".join(map(str, data["shape"]))
    texts = {
        "players": "; ".join(f"{player} updates {', '.join(nets)}" for player, nets in players.items()),
        "parameters": ", ".join(f"{name} {n:,}" for name, n in parameters.items()),
        "data": f"{data['name']}: {sizes}; {shape}, {data['preprocessing']['name']}",
        "labels": f"{data['classes']} classes" if data["classes"] else "none",
        "read as": "; ".join(f"{key} {value}" for key, value in format_settings(data["reading"]).items()),
        "steps": f"{steps:,}",
        "seconds": f"about {format_estimate(steps, 1 / per_step)}, then evaluation and report",
    }
    labels = {"seconds": "time"}
    print_facts({labels.get(key, key): value for key, value in (facts | texts).items()})
    log_data_remarks(options, setup.data.remarks)
    log(options, "nothing was written")
    return 0


def _train_and_evaluate(config: Config, options: TrainCommandOptions) -> dict[str, Any]:
    """Train, evaluate and report, on all processes.

    Raises:
        Interrupted: by a signal; its message says how to resume.
    """
    from advae.experiment import resume, train
    from advae.training.signals import Interrupted

    out, report = _run_dir(config, options), not options.no_report
    try:
        if options.resume:
            run = resume(out, config=config, report=report, quiet=options.quiet)
        else:
            more: dict[str, Any] = {"time": options.time, "command": options.command}
            run = train(config, out=out, report=report, quiet=options.quiet, **more)
    except Interrupted as stop:
        stop.args = (f"{stop}; a checkpoint was saved\n  resume:   advae train --resume {quote(str(out))}",)
        raise
    return {
        "run": str(run.path),
        "model": str(run.path / "model"),
        "report": str(run.path / "report.html") if report else None,
        "estimates": run.estimates() if report else [],
        "remarks": run.remarks() if report else [],
    }


def _print_result(result: dict[str, Any], options: TrainCommandOptions) -> None:
    if options.json:
        print_json(result)
        return
    if options.quiet:
        print(result["run"])
        return
    if result["estimates"]:
        estimates = [e for e in result["estimates"] if e["section"] in SHOWN_SECTIONS]
        print_estimates(estimates or result["estimates"], result["remarks"])
        print()
    print_facts({name: result[name] for name in ("run", "model", "report") if result[name]})
    run = quote(result["run"])
    judge = f"open the report, advae compare {run} OTHER_RUN" if result["report"] else f"advae evaluate {run}"
    log(
        options,
        f"next: {judge}, advae sample {run}, advae encode {run}, advae train --resume {run} --train.steps N",
    )
