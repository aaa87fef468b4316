"""``advae reproduce``: a paper's table, trained, evaluated and compared with the published one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from advae.cli.console import log, print_json, print_table
from advae.cli.parser import POSITIONAL, REPEATED, Count, FolderPath, Name, OutputOptions, Parser, Seed
from advae.formatting import Table, format_count, format_duration
from advae.io import read_json
from advae.progress import stage_progress

if TYPE_CHECKING:
    from advae.reproduce.plan import Plan, PlanOptions, Record
    from advae.reproduce.table_spec import PaperTable

SUMMARY = "train and evaluate a paper's table and compare it with the published one"
EXAMPLES = """
advae reproduce --list
advae reproduce avb-3a --data.source path/to/mnist --dry-run          # what it would train, and how long
advae reproduce avb-3a --data.source path/to/mnist --steps 1000 --images 256 --out results/short
advae reproduce avb-3a --data.source path/to/mnist                    # in full; interrupted, it continues
advae reproduce bavae --data.source mnist=path/to/mnist --data.source cifar10=path/to/cifar10
advae reproduce asvae-1 --rows asvae-mnist-conv,vae-mnist-conv --seeds 0,1,2
"""


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions(OutputOptions):
    """Reproduce a paper's table: train what is not trained yet, resume what was interrupted, evaluate every row with
    the same protocol, and write a JSON record and a page with the published values next to ours. Interrupted, the same
    command continues. A row that fails is reported and does not stop the others."""

    table: Annotated[str | None, "TABLE", POSITIONAL] = None
    """A name from --list, or your own YAML file."""
    list: bool = False
    """List the tables."""
    data_source: Annotated[tuple[str, ...], "PATH", REPEATED] = ()
    """Where the data are; for a table of several data sets NAME=PATH, once for each."""
    rows: tuple[str, ...] = ()
    """Only these rows, by the names of their recipes."""
    seeds: tuple[Seed, ...] = ()
    """Seeds of every row (default: 0)."""
    steps: Count | None = None
    """Train every row for at most N steps, for a quick look."""
    dry_run: bool = False
    """Print what would be done and estimate the training time."""
    runs: FolderPath = "runs/reproduce"
    """Where the runs are."""
    out: FolderPath = "results"
    """Where the results are written."""
    device: Name | None = None
    """auto, cpu, cuda or cuda:N."""
    images: Count | None = None
    """Evaluate the first N test images only."""
    chains: Count | None = None
    """Chains per image in annealing."""
    temperatures: Count | None = None
    """Temperatures of annealing."""
    feature_extractor: Name | None = None
    """Network of sample metrics, as in advae evaluate."""


def parser() -> Parser[ReproduceOptions]:
    return Parser("reproduce", ReproduceOptions, EXAMPLES, usage="TABLE [--data.source PATH] [option …]")


def run(options: ReproduceOptions) -> int:
    """Reproduce, write, print."""
    if options.list or options.table is None:
        return _list_tables(options)
    from advae.reproduce.table_spec import read_table

    return reproduce(read_table(options.table), options)


def reproduce(table: PaperTable, options: ReproduceOptions) -> int:
    """Reproduce a table; return exit code 1 if a row failed."""
    from advae.io import lock_folder
    from advae.reproduce.plan import make_plan
    from advae.reproduce.runner import run_plan
    from advae.run import check_writable

    options = replace(options, quiet=options.quiet or options.json)

    def say(text: str) -> None:
        log(options, text)

    out = Path(options.out)
    check_writable(out)
    plan = make_plan(table, _plan_options(options), say)
    if options.dry_run:
        return _dry_run(plan, options)
    try:
        stage = stage_progress(options.quiet)
        with lock_folder(out, create=True, name=f".{table.name}.lock"):
            records = run_plan(
                plan, out, stage, say, command=options.command, quiet=options.quiet, debug=options.debug
            )
    except KeyboardInterrupt as stop:
        stop.args = (f"{str(stop) or 'Interrupted'}; the same command continues.",)
        raise
    return _print_result(plan, records, options)


def _plan_options(options: ReproduceOptions) -> PlanOptions:
    from advae.reproduce.plan import PlanOptions

    evaluation = {
        "limit": options.images,
        "chains": options.chains,
        "temperatures": options.temperatures,
        "feature_extractor": options.feature_extractor,
    }
    return PlanOptions(
        rows=options.rows,
        seeds=tuple(dict.fromkeys(options.seeds)),
        max_steps=options.steps,
        sources=_sources(options.data_source),
        evaluation={name: value for name, value in evaluation.items() if value is not None},
        runs=Path(options.runs),
        device=options.device,
    )


def _sources(values: Iterable[str]) -> dict[str, str]:
    """Return paths by data set; a path without ``NAME=`` has the empty name.

    >>> _sources(["mnist=a/b", "cifar10=c"]), _sources(["a/b"])
    ({'mnist': 'a/b', 'cifar10': 'c'}, {'': 'a/b'})
    """
    sources: dict[str, str] = {}
    for value in values:
        name, equals, path = value.partition("=")
        has_name = bool(equals) and re.fullmatch(r"[\w.-]+", name) is not None
        sources[name if has_name else ""] = path if has_name else value
    return sources


def _list_tables(options: ReproduceOptions) -> int:
    from advae.reproduce.table_spec import read_table, table_names

    specs = [read_table(name) for name in table_names()]
    if options.json:
        print_json([{"name": t.name, "title": t.title, "rows": [row.name for row in t.rows]} for t in specs])
    else:
        cells = [(t.name, str(len(t.rows)), t.title) for t in specs]
        print_table(Table.from_texts(("table", "rows", "title"), cells, ["rows"]))
    return 0


def _dry_run(plan: Plan, options: ReproduceOptions) -> int:
    """Print what would be done, with estimated training times."""
    from advae.reproduce.estimate_cost import estimate_cost

    jobs = estimate_cost(plan, lambda text: log(options, text))
    seconds = sum(job["training"] or 0.0 for job in jobs)
    if options.json:
        print_json({"table": plan.table.name, "estimated": True, "jobs": jobs, "seconds": seconds})
        return 0
    cells = [
        (
            job["recipe"],
            str(job["seed"]),
            job["state"],
            f"{format_count(job['steps'])} of {format_count(job['recipe_steps'])}",
            "?" if job["training"] is None else format_duration(job["training"]) if job["training"] else "–",
        )
        for job in jobs
    ]
    titles, right = ("recipe", "seed", "state", "steps", "training"), ("seed", "steps", "training")
    print_table(Table.from_texts(titles, cells, right))
    print(
        f"\nestimated from a few steps timed now: training {format_duration(seconds)}; evaluation not included"
    )
    log(options, "nothing was trained")
    return 0


def _print_result(plan: Plan, records: Sequence[Record], options: ReproduceOptions) -> int:
    failed = [record for record in records if "error" in record]
    page = Path(options.out) / f"{plan.table.name}.md"
    if options.json:
        print_json(read_json(page.with_suffix(".json")))
    elif options.quiet:
        print(page)
    else:
        _print_tables(page)
        for record in failed:
            print(f"failed: {record['recipe']}, seed {record['seed']}: {record['error'].splitlines()[0]}")
        print(f"\n{page}")
    return int(bool(failed))


def _print_tables(page: Path) -> None:
    """Print published values next to ours, and paired differences between rows."""
    from advae.reproduce.markdown_report import DIFFERENCES_TITLE, difference_table, results_table

    record = read_json(page.with_suffix(".json"))
    print_table(results_table(record))
    if differences := difference_table(record):
        print(f"\n{DIFFERENCES_TITLE}")
        print_table(differences)
