"""``advae compare``: several runs in one table and on one page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from advae.cli.console import print_json, print_table
from advae.cli.loaded_model import allow_packages
from advae.cli.parser import POSITIONAL, AllowOptions, FolderPath, Parser
from advae.errors import ConfigError

SUMMARY = "compare several runs"
EXAMPLES = """
advae compare runs/a runs/b
advae compare runs/vae-digits/* --out comparison
advae compare runs/a runs/b --json
"""


@dataclass(frozen=True, kw_only=True)
class CompareOptions(AllowOptions):
    """Compare runs: how they differ, their estimates in one table, in which only estimates of one kind with one
    protocol are ranked, and a page with samples and curves. The runs must have been evaluated."""

    runs: Annotated[tuple[str, ...], "RUN", POSITIONAL]
    """Run directories, two or more."""
    out: FolderPath = "runs/compare"
    """Folder of the page."""


def parser() -> Parser[CompareOptions]:
    return Parser("compare", CompareOptions, EXAMPLES, usage="RUN RUN [RUN …] [--out DIR] [option …]")


def run(options: CompareOptions) -> int:
    """Compare, write, print."""
    if len(options.runs) < 2:
        raise ConfigError("A comparison needs two runs.", given=options.runs[0], expected="two runs or more")
    allow_packages(options.allow)
    from advae.run import Run

    runs = [Run.open(path) for path in options.runs]
    from advae.report import compare, write_comparison

    comparison = compare(runs)
    page = write_comparison(runs, Path(options.out), comparison)
    if options.json:
        print_json({"page": str(page), **comparison.to_dict()})
        return 0
    print_table(comparison.differences_table())
    print()
    print_table(comparison.table())
    if comparison.has_best:
        print("* best, or within two standard errors of the difference from the best")
    if not options.quiet:
        print(f"page: {page}")
    return 0
