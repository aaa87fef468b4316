"""``advae report``: a run's page and figures, written anew."""

from __future__ import annotations

import argparse

from advae.cli.console import written
from advae.cli.loaded_model import allow_packages, run_data
from advae.cli.parser import Parser, add_model, add_output, add_run

EXAMPLES = """\
  advae report runs/mine
  advae report runs/mine --data.source where/they/lie/now"""


def parser() -> Parser:
    """Its arguments."""
    made = Parser(
        "report",
        "Write report.html and figures/*.png of a run from what it holds: metrics, model and estimates.",
        EXAMPLES,
        usage="RUN [option …]",
    )
    add_run(made)
    add_model(made)
    add_output(made)
    return made


def run(args: argparse.Namespace) -> int:
    """Write the report."""
    allow_packages(args.allow)
    from advae.run import Run
    from advae.training.environment import find_device

    opened = Run.open(args.run)
    if "inference" in opened.config:
        from advae.report.posterior_report import write_inference_report

        return written(args, write_inference_report(opened))
    model = opened.model(str(find_device(args.device)))
    data = run_data(opened, args)
    from advae.report import write_report

    return written(args, write_report(opened, model, data))
