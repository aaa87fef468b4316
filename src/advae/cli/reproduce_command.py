"""``advae reproduce``: a paper's table, every row trained, judged alike, and set beside what was published."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advae.cli.console import print_json, print_table, say
from advae.cli.loaded_model import watched
from advae.cli.parser import Parser, add_output, count, seed

if TYPE_CHECKING:
    from advae.reproduce.jobs import Plan, Record, Study, Wanted
    from advae.reproduce.table_spec import Table

EXAMPLES = """\
  advae reproduce --list
  advae reproduce avb-3a --data.source path/to/mnist --dry-run          # what it would train, and how long
  advae reproduce avb-3a --data.source path/to/mnist --budget 30m --images 256 --out results/short
  advae reproduce avb-3a --data.source path/to/mnist                    # as the recipes say; stopped, it goes on
  advae reproduce bavae --data.source mnist=path/to/mnist --data.source cifar10=path/to/cifar10
  advae reproduce asvae-1 --rows asvae-mnist-conv,vae-mnist-conv --seeds 0,1,2
  advae reproduce toy"""

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+")


def parser() -> Parser:
    """Its arguments."""
    made = Parser(
        "reproduce",
        "A paper's table by one command: trains what is not trained yet, goes on with what was interrupted, judges"
        " every row by the same protocol, and writes a JSON record and a page with the published figures beside"
        " ours. Interrupted, the same command goes on. A row that fails is reported and does not stop the others.",
        EXAMPLES,
        usage="TABLE [--data.source PATH] [option …]",
    )
    add = made.add_argument
    add("table", metavar="TABLE", nargs="?", help="a name from --list, or a YAML file of your own")
    add("--list", action="store_true", help="the tables that there are")
    text = "where the data are; for a table of several data sets NAME=PATH, once for each"
    add("--data.source", metavar="PATH", dest="sources", action="append", default=[], help=text)
    add("--rows", metavar="LIST", type=words, default=(), help="only these rows, by their recipes' names")
    add("--seeds", metavar="LIST", type=seeds, default=(), help="seeds of every row (0)")
    text = "train for about so long in all (90s, 30m, 2h): every row for the same time, in fewer steps"
    add("--budget", metavar="TIME", type=seconds, help=text)
    add("--dry-run", action="store_true", help="say what would be done and about how long it takes, and end")
    add("--runs", metavar="DIR", default="runs/reproduce", help="where the runs are (runs/reproduce)")
    add("--out", metavar="DIR", default="results", help="where the results go (results)")
    add("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N")

    add = made.add_argument_group("instead of the table's own evaluation").add_argument
    add("--images", metavar="N", dest="limit", type=count, help="every figure from the first N test images")
    add("--chains", metavar="N", type=count, help="chains an image of annealing")
    add("--temperatures", metavar="N", type=count, help="temperatures of annealing")
    add("--features", metavar="NAME", help="whose features samples are judged by: as for advae evaluate")
    add_output(made, "the record")
    return made


def words(text: str) -> tuple[str, ...]:
    """Names in a list with commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def seeds(text: str) -> tuple[int, ...]:
    """Seeds in a list with commas, each once."""
    return tuple(dict.fromkeys(seed(word) for word in words(text)))


def seconds(text: str) -> float:
    """A time span in seconds.

    >>> seconds("90s"), seconds("1h30m"), seconds("1.5h")
    (90.0, 5400.0, 5400.0)
    """
    total = sum(float(part[:-1]) * UNITS[part[-1]] for part in re.findall(r"[\d.]+[smhd]", text))
    if not DURATION.fullmatch(text) or not total:
        raise argparse.ArgumentTypeError(f"{text!r} is no time span such as 90s, 30m, 2h or 1h30m")
    return total


def run(args: argparse.Namespace) -> int:
    """Reproduce, write, print."""
    if args.list or args.table is None:
        return _list(args)
    from advae.reproduce.table_spec import read_table

    table = read_table(args.table)
    from advae.reproduce.studies import study_of

    return reproduce(table, study_of(table), args)


def reproduce(table: Table, study: Study, args: argparse.Namespace) -> int:
    """Carry a table out as the arguments say; the exit code is 1 if a row failed."""
    from advae.reproduce.plan import planned
    from advae.reproduce.runner import carried_out

    args.quiet = args.quiet or args.json

    def tell(text: str) -> None:
        say(args, text)

    from advae.run import refuse_unwritable

    refuse_unwritable(Path(args.out))
    plan = planned(table, _wanted(args), study, tell, keep=not args.dry_run)
    if args.dry_run:
        return _dry_run(plan, args)
    out, stage = Path(args.out), watched(args)
    try:
        records = carried_out(plan, out, stage, tell, command=args.command, quiet=args.quiet)
    except KeyboardInterrupt as stop:
        stop.args = (f"{str(stop) or 'interrupted'}; the same command goes on where it was",)
        raise
    return _finish(plan, records, args)


def _wanted(args: argparse.Namespace) -> Wanted:
    from advae.reproduce.jobs import Wanted

    judge = {name: getattr(args, name) for name in ("limit", "chains", "temperatures", "features")}
    return Wanted(
        rows=args.rows,
        seeds=args.seeds,
        budget=args.budget,
        sources=_sources(args.sources),
        judge={name: value for name, value in judge.items() if value is not None},
        runs=Path(args.runs),
        device=args.device,
    )


def _list(args: argparse.Namespace) -> int:
    """What tables there are."""
    from advae.reproduce.table_spec import read_table, tables

    found = [read_table(name) for name in tables()]
    if args.json:
        print_json([{"name": t.name, "title": t.title, "rows": [row.name for row in t.rows]} for t in found])
    else:
        print_table(("table", "rows", "what"), [(t.name, str(len(t.rows)), t.title) for t in found], ["rows"])
    return 0


def _sources(given: Iterable[str]) -> dict[str, str]:
    """``NAME=PATH`` or ``PATH``, the latter under no name.

    >>> _sources(["mnist=a/b", "cifar10=c"]), _sources(["a/b"])
    ({'mnist': 'a/b', 'cifar10': 'c'}, {'': 'a/b'})
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        named = bool(equals) and re.fullmatch(r"[\w.-]+", name) is not None
        found[name if named else ""] = path if named else text
    return found


def _dry_run(plan: Plan, args: argparse.Namespace) -> int:
    """What would be done, and about how long it takes."""
    from advae.report.number_format import duration, grouped
    from advae.reproduce.forecast import forecast

    rows = forecast(plan, lambda text: say(args, text))
    total = {key: sum(row[key] or 0.0 for row in rows) for key in ("training", "evaluation")}
    if args.json:
        print_json({"table": plan.table.name, "estimated": True, "jobs": rows, "seconds": total})
        return 0

    def about(row: dict[str, Any], key: str) -> str:
        return "?" if row[key] is None else duration(row[key]) if row[key] else "–"

    cells = [
        (
            row["recipe"],
            str(row["seed"]),
            row["state"],
            f"{grouped(row['steps'])} of {grouped(row['recipe_steps'])}",
            about(row, "training"),
            about(row, "evaluation"),
        )
        for row in rows
    ]
    right = ("seed", "steps", "training", "evaluation")
    print_table(("recipe", "seed", "state", "steps", "training", "evaluation"), cells, right)
    print(
        f"\nestimated: training {duration(total['training'])}, evaluation {duration(total['evaluation'])}. By a few"
        " steps timed just now; evaluation without checks and feature networks, or drawing pixel by pixel"
    )
    say(args, "nothing was trained")
    return 0


def _finish(plan: Plan, records: list[Record], args: argparse.Namespace) -> int:
    """Print what was found; 1 if a row failed."""
    failed = [record for record in records if "error" in record]
    page = Path(args.out) / f"{plan.table.name}.md"
    if args.json:
        from advae.io import read_json

        print_json(read_json(page.with_suffix(".json")))
    elif args.quiet:
        print(page)
    else:
        _print(plan.table, page)
        for record in failed:
            print(f"failed: {record['recipe']}, seed {record['seed']}: {record['error'].splitlines()[0]}")
        print(f"\n{page}")
    return int(bool(failed))


def _print(table: Table, page: Path) -> None:
    """The table, published beside ours, where it has columns."""
    from advae.io import read_json
    from advae.reproduce.against import TITLE, cells_of
    from advae.reproduce.beside import plain_table

    if table.columns:
        made = read_json(page.with_suffix(".json"))
        columns, rows = plain_table(made)
        print_table(columns, rows)
        columns, rows = cells_of(made)
        if rows:
            print(f"\n{TITLE}")
            print_table(columns, rows)
