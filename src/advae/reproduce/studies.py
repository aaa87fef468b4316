"""The ways in which tables are judged and shown, by the name that a table gives under ``study``."""

from __future__ import annotations

from advae.errors import ConfigError, nearest
from advae.reproduce import evaluate_job as judge
from advae.reproduce import markdown_report as page
from advae.reproduce import toy
from advae.reproduce.jobs import Study
from advae.reproduce.table_spec import Table

USUAL = Study(judge.question, judge.judged, page.publish)
STUDIES = {"": USUAL, "toy": Study(toy.question, toy.judged, toy.publish, toy.sources)}


def study_of(table: Table) -> Study:
    """How a table is judged and shown.

    Raises:
        ConfigError: there is no such way.
    """
    if table.study not in STUDIES:
        known = [name for name in STUDIES if name]
        raise ConfigError(f"there is no study {table.study!r}", remedy=nearest(table.study, known))
    return STUDIES[table.study]
