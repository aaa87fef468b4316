"""``advae report``: the report and figures of a run."""

from __future__ import annotations

from dataclasses import dataclass

from advae.cli.console import print_written
from advae.cli.loaded_model import allow_packages, load_run_data
from advae.cli.parser import Parser, RunOptions, RunPath

SUMMARY = "write the report of a run again"
EXAMPLES = """
advae report runs/mine
advae report runs/mine --data.source where/they/are/now
"""


@dataclass(frozen=True, kw_only=True)
class ReportOptions(RunOptions):
    """Write report.html and figures/*.png of a run from its metrics, model and estimates."""

    run: RunPath
    """Run directory."""


def parser() -> Parser[ReportOptions]:
    return Parser("report", ReportOptions, EXAMPLES)


def run(options: ReportOptions) -> int:
    """Write the report."""
    allow_packages(options.allow)
    from advae.devices import find_device
    from advae.run import Run

    run_dir = Run.open(options.run)
    if "inference" in run_dir.config:
        from advae.report.posterior_report import write_posterior_report

        return print_written(options, write_posterior_report(run_dir))
    model = run_dir.model(str(find_device(options.device)))
    data = load_run_data(run_dir, options.data_source)
    from advae.report import write_report

    return print_written(options, write_report(run_dir, model, data))
