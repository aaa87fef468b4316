"""Rows held against one of them, image by image: how hard an image is falls out of the difference and of its error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from advae.formatting import format_count, format_with_error
from advae.report.comparison_page import cell_of
from advae.report.ranking import Cell, difference, gap
from advae.reproduce.details import Judged, markdown
from advae.reproduce.jobs import Record
from advae.reproduce.table_spec import Column

TITLE = "Image by image"
Runs = Mapping[str, Sequence[Record]]


def reference_of(recipe: str, references: Sequence[str], runs: Runs) -> str | None:
    """What a row is held against: the first of the references that was trained on the same data; none is by itself."""
    data = {name: {run["data"]["checksum"] for run in found if "data" in run} for name, found in runs.items()}
    same = (name for name in references if data.get(recipe) and data.get(name) == data[recipe])
    return None if recipe in references else next(same, None)


def less(column: Column, runs: Sequence[Record], others: Sequence[Record]) -> Record | None:
    """A row's figure less another's, the mean over the seeds that both have; None without figures to compare.

    The standard error is that of one seed's differences over images.
    """
    by_seed = {run["seed"]: run for run in others}
    pairs = [(_cell(column, run), _cell(column, by_seed.get(run["seed"], {}))) for run in runs]
    found = [(a, gap(a, b)) for a, b in pairs if a and b and _paired(column.name, a, b)]
    if not found:
        return None
    sign = -1 if column.negated else 1
    return {
        "value": sign * float(np.mean([value for _, (value, _) in found])),
        "stderr": float(np.mean([error for _, (_, error) in found])),
        "seeds": len(found),
        "n": found[0][0].n,
    }


def _cell(column: Column, run: Mapping[str, Any]) -> Cell | None:
    estimate = column.estimate(run)
    return cell_of(Judged(Path(run["run"]), run["estimates"]), estimate) if estimate else None


def _paired(name: str, a: Cell, b: Cell) -> bool:
    """Whether two figures are means over the same images, and of the same kind and protocol."""
    return a.each is not None and b.each is not None and not difference(name, (a, b), ("a", "b"))


def section(made: Record) -> list[str]:
    """The differences as a part of the page; nothing where there are none."""
    head, lines = cells_of(made)
    if not lines:
        return []
    counts = {found["n"] for row in made["rows"] for found in _differences(row).values()}
    of = " or ".join(format_count(n) for n in sorted(counts))
    return [
        f"## {TITLE}",
        f"Differences on the same test images, {of} of them, where both figures are of one kind. Some images are harder"
        " than others for every model: that is most of the ± above, and no part of the ± here.",
        markdown(head, lines, right=len(head) - 1),
    ]


def cells_of(made: Record) -> tuple[list[str], list[list[str]]]:
    """Heads, and rows of cells: of the rows and columns that have differences."""
    labels = {row["recipe"]: row["label"] for row in made["rows"]}
    rows = [(row, found) for row in made["rows"] if (found := _differences(row))]
    columns = [name for name in made["columns"] if any(name in found for _, found in rows)]
    lines = [
        [
            f"{row['label']} less {labels[row['against']['recipe']]}",
            *(_text(found.get(name)) for name in columns),
        ]
        for row, found in rows
    ]
    return ["", *(made["columns"][name] for name in columns)], lines


def _differences(row: Record) -> dict[str, Record]:
    """A row's differences by column, of the columns that have one."""
    columns = row["against"]["columns"] if row["against"] else {}
    return {name: found for name, found in columns.items() if found}


def _text(found: Record | None) -> str:
    if found is None:
        return "–"
    text = format_with_error(found["value"], found["stderr"])
    return text if text.startswith("−") else f"+{text}"
