"""Runs side by side: one table of estimates with a run a column, in sections.

A row whose figures cannot be compared says why, and has no best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rich import box
from rich.console import Group as Together
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from advae.formatting import as_interval, common_items, join_items
from advae.report.estimate_table import arranged, in_order, letter, notes, section_of, settings, title_of
from advae.report.kinds import kind_text
from advae.report.per_image import values_of
from advae.report.ranking import Cell, difference, direction, mark_best

if TYPE_CHECKING:
    from advae.run import Run


@dataclass(frozen=True)
class Line:
    """One row: an estimate, its cell in each run (None: the run has none), what forbids comparing them.

    ``own`` is what all its figures have in their protocol beside what those of its section share.
    """

    name: str
    unit: str
    kinds: str
    cells: list[Cell | None]
    protocol: str
    differs: str
    section: str
    own: dict[str, str]


class Note(NamedTuple):
    """What is said of the rows that bear its letter; ``forbids`` if it is why they have no best."""

    letter: str
    text: str
    forbids: bool


@dataclass(frozen=True)
class Group:
    """The rows of one section.

    Attributes:
        title: its heading.
        protocol: what its figures, or nearly all, share beyond what all figures do.
        lines: the rows.
        marks: of each row the letters of its notes, after ≠ where it has no best.
        notes: the notes.
    """

    title: str
    protocol: str
    lines: list[Line]
    marks: list[str]
    notes: list[Note]


@dataclass(frozen=True)
class Comparison:
    """Runs, the rows of their table, and the part of the protocol that all figures in it have in common.

    ``protocols`` has by section what its figures share beyond that.
    """

    runs: list[str]
    paths: list[str]
    lines: list[Line]
    protocol: str
    protocols: dict[str, dict[str, str]]

    def as_dict(self) -> dict[str, Any]:
        """JSON: as the fields, without what was found for each image."""
        plain = asdict(self)
        for line in plain["lines"]:
            for cell in filter(None, line["cells"]):
                del cell["each"]
        return plain

    def groups(self) -> list[Group]:
        """The rows by section."""
        sections = dict.fromkeys(line.section for line in self.lines)
        return [
            _group(section, self.protocols[section], [line for line in self.lines if line.section == section])
            for section in sections
        ]

    def table(self) -> RenderableType:
        """The table for a terminal; best in bold and starred, so that it shows without colour too."""
        groups, titles = self.groups(), ("estimate", *self.runs, "unit", "kind", "note")
        rows = [_texts(line, mark) for g in groups for line, mark in zip(g.lines, g.marks, strict=True)]
        widths = [max(map(len, column)) for column in zip(map(Text, titles), *rows, strict=True)]
        last = [f"common to all: {self.protocol}"] if self.protocol else []
        if any(cell and cell.best for line in self.lines for cell in line.cells):
            last.append("* best, or within two standard errors of the difference from it")
        if sum(widths) + 2 * len(widths) > get_terminal_size().columns:
            widths = [1] * len(widths)
        drawn = [part for group in groups for part in _drawn(group, titles, widths)]
        return Together(*drawn, *[Text("\n" + "\n".join(last))] * bool(last))


def _group(section: str, protocol: Mapping[str, str], lines: list[Line]) -> Group:
    """A section, the own settings of its rows and what forbids comparing them made into notes."""
    above, own = notes(protocol, [line.own for line in lines], [line.name for line in lines])
    letters = map(letter, count())
    said = {rows: Note(next(letters), text, False) for rows, text in own.items()}
    reasons = dict.fromkeys(line.differs for line in lines if line.differs)
    why = {text: Note(next(letters), text, True) for text in reasons}
    marks = []
    for i, line in enumerate(lines):
        found = [note.letter for rows, note in said.items() if i in rows]
        found += [why[line.differs].letter] if line.differs else []
        marks.append(("≠ " if line.differs else "") + ",".join(found))
    return Group(section, above, lines, marks, [*said.values(), *why.values()])


def _drawn(group: Group, titles: Sequence[str], least: Sequence[int]) -> list[RenderableType]:
    """A section for a terminal: heading, table, notes; columns at least so wide, in line with the other sections."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for i, (title, width) in enumerate(zip(titles, least, strict=True)):
        of_run, note = 0 < i < len(titles) - 3, i == len(titles) - 1
        justify: Literal["left", "right"] = "right" if of_run else "left"
        table.add_column(
            Text(title), justify=justify, overflow="fold", min_width=width, no_wrap=of_run or note
        )
    for line, mark in zip(group.lines, group.marks, strict=True):
        table.add_row(*_texts(line, mark))
    heading = Text.assemble("\n", (group.title, "bold"), (f"  {group.protocol}", "dim"))
    said = [Text(f"{n.letter}: {n.text}", style="yellow" if n.forbids else "dim") for n in group.notes]
    return [*[heading] * bool(group.title), table, *said]


def _texts(line: Line, mark: str) -> list[Text]:
    """A row of the terminal's table."""
    cells = [
        Text(f"{c.text}{' *' if c.best else ''}" if c else "—", style="bold" if c and c.best else "")
        for c in line.cells
    ]
    note = Text(mark, style="yellow" if line.differs else "dim")
    return [Text(line.name), *cells, Text(line.unit), Text(line.kinds), note]


def compare(runs: Sequence[Run], names: Sequence[str] = ()) -> Comparison:
    """The table of estimates of several runs, by these names or by those of their folders."""
    names = list(names) or run_names(runs)
    found = [{_key(estimate): estimate for estimate in run.estimates()} for run in runs]
    keys = list(dict.fromkeys(key for estimates in found for key in estimates))
    # A row is of the section that any run says: files of older evaluations say none.
    known = [[estimates[key] for estimates in found if key in estimates] for key in keys]
    first = [next((e for e in having if e.get("section")), having[0]) for having in known]
    untitled = not any(estimate.get("section") for estimate in first)
    cells = [
        [
            cell_of(run, estimates[key]) if key in estimates else None
            for run, estimates in zip(runs, found, strict=True)
        ]
        for key in keys
    ]
    common = common_items([cell.protocol for row in cells for cell in row if cell])
    protocols, lines = dict[str, dict[str, str]](), list[Line]()
    order = arranged(first)
    for section in in_order(map(section_of, first)):
        rows = [i for i in order if section_of(first[i]) == section]
        all_alike = common_items([cell.protocol for i in rows for cell in cells[i] if cell])
        title = "" if untitled else title_of(section)
        protocols[title] = {k: v for k, v in all_alike.items() if k not in common}
        lines += [compare_line(*keys[i], cells[i], names, all_alike, title) for i in rows]
    return Comparison(names, [str(run.path) for run in runs], lines, join_items(common), protocols)


def compare_line(
    name: str,
    unit: str,
    cells: list[Cell | None],
    runs: Sequence[str],
    known: Mapping[str, str],
    section: str,
) -> Line:
    """One row, its best marked where figures can be compared at all; ``known`` is said of all rows together."""
    present = [cell for cell in cells if cell]
    kinds = list(dict.fromkeys(cell.kind for cell in present))
    own = {k: v for k, v in common_items([cell.protocol for cell in present]).items() if k not in known}
    differs = difference(name, cells, runs)
    if not differs and len(present) > 1:
        cells = mark_best(cells, direction(name, unit, kinds[0]))
    return Line(name, unit, ", ".join(map(kind_text, kinds)), cells, join_items(own), differs, section, own)


def run_names(runs: Sequence[Run]) -> list[str]:
    """Names that tell the runs apart: the folder's, where needed with its parents', at last numbered."""
    for depth in (1, 2, 3):
        names = ["/".join(run.path.resolve().parts[-depth:]) for run in runs]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({i})" for i, name in enumerate(names, 1)]


def _key(estimate: Mapping[str, Any]) -> tuple[str, str]:
    return str(estimate.get("name", "")), str(estimate.get("unit") or "")


def cell_of(run: Run, estimate: Mapping[str, Any]) -> Cell:
    """A run's figure, as estimates.json has it."""
    protocol = settings(estimate)
    checksum = (run.env.get("data") or {}).get("checksum")
    if checksum and not {"checksum", "data.checksum"} & set(protocol):
        protocol["data checksum"] = str(checksum)
    value, stderr, n = (estimate.get(key) for key in ("value", "stderr", "n"))
    kind = str(estimate.get("kind") or "unknown kind")
    each = values_of(run, estimate)
    return Cell(value, stderr, kind, n, protocol, as_interval(estimate.get("interval")), each=each)
