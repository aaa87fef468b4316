"""Numbers, durations, nested settings and tables as text.

A :class:`Table` is independent of its output: ``report/templates/macros.html`` writes it as HTML,
:mod:`advae.cli.console` in the terminal, and :func:`markdown_table` as Markdown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any, Literal

MISSING = "—"
MAX_DECIMALS = 6
MAX_SETTING_LENGTH = 80  # characters; longer values of a setting are cut in a table

CellStyle = Literal["", "best", "warning", "muted"]


@dataclass(frozen=True)
class Column:
    """A column; numbers are aligned right and never broken."""

    title: str
    numeric: bool = False
    breakable: bool = False


@dataclass(frozen=True)
class TableCell:
    """A text, with a shorter one for narrow output, and a note in small letters below it."""

    text: str
    style: CellStyle = ""
    short: str = ""
    note: str = ""


@dataclass(frozen=True)
class TableRow:
    """A label, a cell for each of the other columns, and the labels of its footnotes."""

    label: str
    cells: tuple[TableCell, ...]
    baseline: bool = False
    marks: str = ""

    @property
    def texts(self) -> tuple[str, tuple[str, ...]]:
        """The label, and the texts of the cells."""
        return self.label, tuple(cell.text for cell in self.cells)


@dataclass(frozen=True)
class TableNote:
    """A footnote or a remark; ``label`` is its mark or what it is about.

    ``criteria`` are rows (criterion, value, threshold, passed) that explain a verdict.
    """

    label: str
    text: str
    warning: bool = False
    criteria: tuple[tuple[str, str, str, bool], ...] = ()

    def __str__(self) -> str:
        return f"{self.label}: {self.text}" if self.label else self.text


@dataclass(frozen=True)
class TableSection:
    """The rows of one section, the settings that they share, their footnotes and the remarks on them."""

    title: str
    protocol: str
    rows: list[TableRow]
    footnotes: list[TableNote] = field(default_factory=list)
    notes: list[TableNote] = field(default_factory=list)


@dataclass(frozen=True)
class Table:
    """Sections with the same columns; ``protocol`` has the settings that all rows share."""

    columns: list[Column]
    sections: list[TableSection]
    protocol: str = ""

    @classmethod
    def from_texts(
        cls, titles: Iterable[str], rows: Iterable[Sequence[str]], right: Iterable[str] = ()
    ) -> Table:
        """Return a table of one section without a title; columns named in ``right`` are numeric."""
        right = set(right)
        columns = [Column(title, numeric=title in right, breakable=title not in right) for title in titles]
        section = TableSection("", "", [TableRow(row[0], tuple(map(TableCell, row[1:]))) for row in rows])
        return cls(columns, [section])

    @property
    def rows(self) -> list[TableRow]:
        return [row for section in self.sections for row in section.rows]

    @property
    def has_footnotes(self) -> bool:
        return any(section.footnotes for section in self.sections)

    def without_empty_columns(self) -> Table:
        """Return the table without columns in which no row has a text."""
        nonempty = [i for i in range(len(self.columns) - 1) if any(row.cells[i].text for row in self.rows)]
        sections = [
            replace(s, rows=[replace(row, cells=tuple(row.cells[i] for i in nonempty)) for row in s.rows])
            for s in self.sections
        ]
        columns = [self.columns[0], *(self.columns[i + 1] for i in nonempty)]
        return Table(columns, sections, self.protocol)


def markdown_table(table: Table, rows: Iterable[TableRow] | None = None, *, bold_labels: bool = False) -> str:
    """Return rows of a table, all by default, as a Markdown table."""
    columns = [Column(""), *table.columns[1:], *[Column("note")] * table.has_footnotes]
    lines = [[c.title for c in columns], ["---:" if c.numeric else "---" for c in columns]]
    for row in table.rows if rows is None else rows:
        label = escape_markdown(row.label)
        emphasis = "*" if row.baseline else "**" * bold_labels
        label = f"{emphasis}{label}{emphasis}"
        lines.append([label, *map(_markdown_cell, row.cells), row.marks][: len(columns)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _markdown_cell(cell: TableCell) -> str:
    text = escape_markdown(cell.text)
    text = f"**{text}**" if cell.style == "best" else text
    return f"{text}<br><sub>{escape_markdown(cell.note)}</sub>" if cell.note else text


def html_properties(title: str, properties: Mapping[str, object]) -> str:
    """Return names and values as a table, for notebooks.

    >>> html_properties("Dataset", {"name": "<a>"})
    '<table><caption>Dataset</caption><tr><th>name</th><td>&lt;a&gt;</td></tr></table>'
    """
    cells = (
        f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in properties.items()
    )
    return f"<table><caption>{escape(title)}</caption>{''.join(cells)}</table>"


def escape_markdown(text: str) -> str:
    """Return a text without the characters that would end a table's cell or begin a tag.

    >>> escape_markdown("KL(q(z|x) ‖ p) < 1")
    'KL(q(z\\\\|x) ‖ p) &lt; 1'
    """
    return text.replace("|", "\\|").replace("<", "&lt;")


def format_with_error(value: Any, stderr: Any = None, interval: Any = None) -> str:
    """Return a value to the second significant digit of its standard error, with that error.

    Without an error, the decimals follow the confidence interval if there is one, else 4 significant digits are shown.

    >>> format_with_error(-84.1234, 0.213), format_with_error(3.14159), format_with_error(None)
    ('−84.12 ± 0.21', '3.142', '—')
    >>> format_with_error(float("nan"), 0.1), format_with_error(12345.6)
    ('not finite', '12,346')
    """
    number = _as_float(value)
    if number is None:
        return MISSING
    if not math.isfinite(number):
        return "not finite"
    decimals = _decimals(stderr)
    if decimals is not None:
        return f"{_fixed(number, decimals)} ± {_fixed(float(stderr), decimals)}"
    decimals = _interval_decimals(interval)
    return _significant(number) if decimals is None else _fixed(number, decimals)


def format_interval(interval: Any, stderr: Any = None) -> str:
    """Return a confidence interval with the decimals of the standard error, or of a quarter of its width.

    >>> format_interval([-84.5612, -83.7089], 0.213), format_interval((0.00121, 0.00163)), format_interval(None)
    ('[−84.56, −83.71]', '[0.00121, 0.00163]', '')
    """
    bounds = as_interval(interval)
    if bounds is None:
        return ""
    decimals = _decimals(stderr)
    decimals = _interval_decimals(bounds) if decimals is None else decimals
    low, high = (_significant(b) if decimals is None else _fixed(b, decimals) for b in bounds)
    return f"[{low}, {high}]"


def as_interval(interval: Any) -> tuple[float, float] | None:
    """Return both ends of an interval, or None unless there are two finite ones."""
    ends = [_as_float(end) for end in interval] if isinstance(interval, (list, tuple)) else []
    finite = [end for end in ends if end is not None and math.isfinite(end)]
    return (finite[0], finite[1]) if len(finite) == len(ends) == 2 else None


def format_count(count: Any) -> str:
    """
    >>> format_count(10000), format_count(None)
    ('10,000', '—')
    """
    number = _as_float(count)
    return MISSING if number is None or not math.isfinite(number) else _fixed(number, 0)


def format_duration(seconds: float) -> str:
    """
    >>> format_duration(42.3), format_duration(125), format_duration(7300)
    ('42 s', '2 min 5 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def format_nats(value: float) -> str:
    """
    >>> format_nats(24.31), format_nats(-0.018)
    ('24.3 nats', '−0.02 nats')
    """
    return _fixed(value, 1 if abs(value) >= 1 else 2) + " nats"


def format_percent(share: float) -> str:
    """
    >>> format_percent(0.9972), format_percent(0.5), format_percent(0)
    ('99.7 %', '50 %', '0 %')
    """
    return _fixed(100 * share, 1).removesuffix(".0") + " %"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings by dotted name.

    >>> flatten({"data": {"name": "digits", "shape": [1, 8, 8]}, "chains": None})
    {'data.name': 'digits', 'data.shape': [1, 8, 8], 'chains': None}
    """
    items: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        items |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return items


def format_settings(tree: Mapping[str, Any]) -> dict[str, str]:
    """Return the leaves of nested mappings as texts by dotted name, without those that are None or empty.

    >>> format_settings({"data": {"name": "digits", "shape": [1, 8, 8]}, "chains": None})
    {'data.name': 'digits', 'data.shape': '1 × 8 × 8'}
    """
    items: dict[str, str] = {}
    for name, value in flatten(tree).items():
        if isinstance(value, (list, tuple)):
            separator = " × " if name.endswith("shape") else ", "
            items |= {name: separator.join(map(_setting, value))} if value else {}
        elif isinstance(value, bool):
            items[name] = "yes" if value else "no"
        elif value is not None and value != "":
            items[name] = _setting(value)
    return items


def common_items(mappings: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return the entries that all mappings share."""
    first, *others = mappings or [{}]
    return {key: text for key, text in first.items() if all(m.get(key) == text for m in others)}


def join_items(items: Mapping[str, str]) -> str:
    """
    >>> join_items({"split": "test", "k": "64"})
    'split test · k 64'
    """
    short = {
        key: text if len(text) <= MAX_SETTING_LENGTH else text[: MAX_SETTING_LENGTH - 1] + "…"
        for key, text in items.items()
    }
    return " · ".join(f"{key} {text}" for key, text in short.items())


def describe_component(spec: object) -> str:
    """Return the name of a registered component with its options in parentheses.

    >>> describe_component({"name": "mlp", "hidden": [256, 256], "dropout": 0.0})
    'mlp (hidden 256, 256 · dropout 0)'
    """
    if not isinstance(spec, Mapping):
        return str(spec)
    options = join_items(format_settings({key: value for key, value in spec.items() if key != "name"}))
    return f"{spec.get('name', 'unnamed')} ({options})" if options else str(spec.get("name", "unnamed"))


def _as_float(value: Any) -> float | None:
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def _decimals(stderr: Any) -> int | None:
    """Decimals up to the second significant digit of an error; None without an error."""
    number = _as_float(stderr)
    if number is None or not math.isfinite(number) or number <= 0:
        return None
    return min(MAX_DECIMALS, max(0, 1 - math.floor(math.log10(number))))


def _interval_decimals(interval: Any) -> int | None:
    bounds = as_interval(interval)
    return None if bounds is None else _decimals((bounds[1] - bounds[0]) / 4)


def _fixed(number: float, decimals: int) -> str:
    return f"{number:,.{decimals}f}".replace("-", "−")


def _significant(number: float) -> str:
    return f"{number:,.4g}".replace("-", "−") if abs(number) < 1e4 else _fixed(number, 0)


def _setting(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
