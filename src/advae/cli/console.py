"""Console output: tables and facts, JSON, files; plain text in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any, Literal

from advae.errors import ConfigError
from advae.io import to_json, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from advae.cli.parser import OutputOptions
    from advae.report.estimate_table import Table as EstimateTable
    from advae.report.estimate_table import TableRow


def print_json(value: Any) -> None:
    """Print a value as JSON; non-finite numbers become null."""
    print(to_json(value), end="")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> None:
    """Print a table; the columns named in ``right`` are aligned to the right."""
    if sys.stdout.isatty():
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD)
        for name in columns:
            table.add_column(name, justify="right" if name in right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    _print_columns(columns, rows, [name in right for name in columns], widths)


def _print_columns(
    columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool], widths: Sequence[int]
) -> None:
    for row in (columns, *rows):
        cells = zip(row, right, widths, strict=True)
        print("  ".join(text.rjust(w) if r else text.ljust(w) for text, r, w in cells).rstrip())


def print_estimates(
    estimates: Sequence[Mapping[str, Any]], remarks: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Print the table of one run's estimates, as in ``eval/estimates.json``, with the remarks on them."""
    from advae.report.estimate_table import estimate_table

    print_estimate_table(estimate_table(estimates, remarks))


def print_estimate_table(table: EstimateTable) -> None:
    """Print sections below each other, with their footnotes and notes; the best of a comparison have a star."""
    widths = [max(map(len, column)) for column in zip(*_texts(table, table.rows), strict=True)]
    is_narrow = sys.stdout.isatty() and sum(widths) + 2 * len(widths) > get_terminal_size().columns
    for i, section in enumerate(table.sections):
        _print_line(f"\n{section.title}" if i else section.title, "bold")
        if section.protocol:
            _print_line(f"({section.protocol})", "dim")
        if section.rows:
            _print_rows(table, section.rows, [0] * len(widths) if is_narrow else widths)
        for footnote in section.footnotes:
            _print_line(f"{footnote.mark}: {footnote.text}", "yellow" if footnote.warning else "dim")
        for note in section.notes:
            _print_line(
                f"warning: {note}" if note.warning else str(note), "bold yellow" if note.warning else ""
            )
    if table.protocol:
        _print_line(
            f"\n(common to all: {table.protocol})" if len(table.sections) > 1 else f"({table.protocol})",
            "dim",
        )


def _print_rows(table: EstimateTable, rows: Sequence[TableRow], widths: Sequence[int]) -> None:
    """Print the rows of a section; columns have these widths, or on a narrow terminal (0) what fits."""
    (titles, *texts), numeric = _texts(table, rows), [column.numeric for column in table.columns]
    numeric += [False] * (len(titles) - len(numeric))
    if not sys.stdout.isatty():
        _print_columns(titles, texts, numeric, widths)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    is_narrow = not any(widths)
    breakable = [column.breakable for column in table.columns] + [False]
    grid = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for title, is_numeric, can_break, width in zip(titles, numeric, breakable, widths, strict=False):
        justify: Literal["left", "right"] = "right" if is_numeric else "left"
        grid.add_column(
            Text(title), justify=justify, overflow="fold", no_wrap=not can_break, min_width=width or None
        )
    styles = {"best": "bold", "warning": "yellow", "muted": "dim"}
    for row, line in zip(rows, texts, strict=True):
        if is_narrow:
            line[1 : 1 + len(row.cells)] = [
                cell.short or text for cell, text in zip(row.cells, line[1:], strict=False)
            ]
        cell_styles = [
            "dim" if row.baseline else "",
            *(styles.get(cell.style, "") for cell in row.cells),
            "dim",
        ]
        grid.add_row(*(Text(text, style=style) for text, style in zip(line, cell_styles, strict=False)))
    Console().print(grid)


def _texts(table: EstimateTable, rows: Sequence[TableRow]) -> list[list[str]]:
    """Return the titles and then the texts of rows, in columns; footnote marks are in the last, if there are any."""
    marks = [["note"], *([row.marks] for row in rows)] if table.has_footnotes else [[]] * (1 + len(rows))
    lines = [[column.title for column in table.columns]]
    lines += [
        [row.label, *(f"{c.text} *" if c.style == "best" else c.text for c in row.cells)] for row in rows
    ]
    return [line + mark for line, mark in zip(lines, marks, strict=True)]


def _print_line(text: str, style: str = "") -> None:
    """Print a line of text; on a terminal in a style, and broken between words."""
    if not sys.stdout.isatty():
        print(text)
        return
    from rich.console import Console
    from rich.text import Text

    Console().print(Text(text, style=style))


def print_facts(facts: Mapping[str, object]) -> None:
    """Print names and values, one pair per line."""
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")


def log(options: OutputOptions, text: str) -> None:
    """Print a remark on stderr, unless quiet."""
    if not options.quiet:
        print(text, file=sys.stderr, flush=True)


def print_written(options: OutputOptions, path: Path, **details: Any) -> int:
    """Print the path of the file that a verb wrote, in JSON with details, and return exit code 0."""
    if options.json:
        print_json({"path": str(path), **details})
    else:
        print(path)
    return 0


def output_path(out: str | None, folder: Path, stem: str, *, images: bool) -> Path:
    """Return the path of ``--out``; by default ``folder/stem`` with ``.png`` for images, else ``.npz``.

    Args:
        out: a file, or a folder for the file's default name.
        folder: the default folder.
        stem: the default name.
        images: whether the result can be written as an image.

    Raises:
        ConfigError: the file's suffix is not supported.
    """
    path = Path(out) if out else folder
    if path.is_dir() or not out:
        path = path / f"{stem}.{'png' if images else 'npz'}"
    suffixes = (".png", ".npz") if images else (".npz",)
    if path.suffix not in suffixes:
        raise ConfigError(
            f"Unsupported file type for {stem}.", given=path, expected=f"a {' or '.join(suffixes)} file"
        )
    return path


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG, atomically."""
    from advae.report.figures.style import to_png

    write_atomically(path, to_png(figure))
