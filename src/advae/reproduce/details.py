"""Every figure of a table's rows, section by section, as Markdown: the part of the page for those who want it all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from advae.report.comparison_page import Group, compare
from advae.reproduce.jobs import FOLDER, Record
from advae.run import Run


@dataclass(frozen=True)
class Judged(Run):
    """A run with the figures that it was judged by for the table, whatever it was evaluated for since."""

    kept: ClassVar[str] = FOLDER
    found: list[dict[str, Any]] = field(default_factory=list)

    def estimates(self) -> list[dict[str, Any]]:
        """The table's."""
        return self.found


def details(rows: Sequence[Record]) -> list[str]:
    """All figures of every row's first run, then what is said of them."""
    first = {row["label"]: run for row in rows if (run := next((r for r in row["runs"] if "can" in r), None))}
    runs = [Judged(Path(run["run"]), run["estimates"]) for run in first.values()]
    if not runs:
        return []
    found = compare(runs, list(first))
    parts = [
        "## Every figure",
        "Of each row's first seed; **best**, or within two standard errors of the"
        " difference from it (image by image, where both are means over the same images).",
    ]
    for group in found.groups():
        parts += section(group, list(first))
    parts.append(f"Common to all: {escaped(found.protocol)}." if found.protocol else "")
    parts += ["## What the figures mean"] if any(run["remarks"] for run in first.values()) else []
    for label, run in first.items():
        if run["remarks"]:
            parts += [f"**{label}**", "\n".join(remark(r) for r in run["remarks"])]
    return parts


def section(group: Group, labels: Sequence[str]) -> list[str]:
    """The table of a section with its notes."""
    lines = []
    for line, mark in zip(group.lines, group.marks, strict=True):
        cells = [(f"**{c.text}**" if c.best else c.text) if c else "–" for c in line.cells]
        kind = ", ".join(filter(None, (line.unit, line.kinds)))
        lines.append([escaped(line.name), *cells, kind, escaped(mark)])
    notes = "\n".join(f"- {note.letter}: {escaped(note.text)}" for note in group.notes)
    table = markdown(["", *labels, "unit, kind", "note"], lines)
    summary = f"<details><summary>{group.title}: {len(lines)} figures</summary>"
    return [summary, escaped(group.protocol), table, notes, "</details>"]


def remark(said: dict[str, Any]) -> str:
    """A sentence on a figure; warnings first say so."""
    text = f"{said['about']}: {said['text']}"
    return f"- {'**warning** ' if said.get('warning') else ''}{escaped(text)}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]], right: int = 0) -> str:
    """A Markdown table; its last ``right`` columns are flushed right."""
    rule = ["---"] * (len(head) - right) + ["---:"] * right
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def escaped(text: str) -> str:
    """A text that may hold bars, for a cell.

    >>> escaped("KL(q(z|x) ‖ p)")
    'KL(q(z\\\\|x) ‖ p)'
    """
    return text.replace("|", "\\|")
