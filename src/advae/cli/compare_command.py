"""``advae compare``: one table, one sheet of samples, curves over each other."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from advae.cli.console import print_json, print_table
from advae.cli.loaded_model import allow_packages
from advae.cli.parser import Parser, add_allow, add_output
from advae.errors import ConfigError

if TYPE_CHECKING:
    from advae.report import Comparison

EXAMPLES = """\
  advae compare runs/a runs/b
  advae compare runs/vae-digits/* --out comparison
  advae compare runs/a runs/b --json"""


def parser() -> Parser:
    """Its arguments."""
    made = Parser(
        "compare",
        "Put runs side by side: their estimates in one table, where only figures of one kind under one"
        " protocol are compared, and a page with samples and curves. Runs need to have been evaluated.",
        EXAMPLES,
        usage="RUN RUN [RUN …] [--out DIR] [option …]",
    )
    made.add_argument("runs", metavar="RUN", nargs="+", help="run directories, two or more")
    made.add_argument(
        "--out", metavar="DIR", default="runs/compare", help="folder of the page (default: runs/compare)"
    )
    add_allow(made)
    add_output(made, "the table")
    return made


def run(args: argparse.Namespace) -> int:
    """Compare, write, print."""
    if len(args.runs) < 2:
        raise ConfigError("one run cannot be compared", given=args.runs[0], expected="two runs or more")
    allow_packages(args.allow)
    from advae.run import Run

    runs = [Run.open(path) for path in args.runs]
    from advae.report import compare, write_comparison

    result = compare(runs)
    page = write_comparison(runs, Path(args.out))
    if args.json:
        print_json({"page": str(page), **result.as_dict()})
        return 0
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(result.table())
    else:
        _print_plain(result)
    if not args.quiet:
        print(f"page: {page}")
    return 0


def _print_plain(result: Comparison) -> None:
    """The table for a pipe; the best have a star."""
    rows = []
    for line in result.lines:
        cells = [f"{cell.text}{' *' if cell.best else ''}" if cell else "—" for cell in line.cells]
        rows.append([line.name, line.unit, line.kinds, *cells, line.differs])
    print_table(("estimate", "unit", "kind", *result.runs, "remark"), rows, right=result.runs)
