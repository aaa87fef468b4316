"""Console output: tables and facts, JSON, files; plain text in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

from advae.errors import ConfigError
from advae.formatting import Table, TableRow
from advae.io import to_json, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from advae.cli.parser import OutputOptions

CELL_STYLES = {"best": "bold", "warning": "yellow", "muted": "dim", "": ""}


def print_json(value: Any) -> None:
    """Print a value as JSON; non-finite numbers become null."""
    print(to_json(value), end="")


def print_estimates(
    estimates: Sequence[Mapping[str, Any]], remarks: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Print the table of one run's estimates, as in ``eval/estimates.json``, with the remarks on them."""
    from advae.report.estimate_table import estimate_table

    print_table(estimate_table(estimates, remarks))


def print_table(table: Table) -> None:
    """Print sections below each other, with their footnotes and notes; the best of a comparison have a star."""
    widths = [max(map(len, column)) for column in zip(*_texts(table, table.rows), strict=True)]
    is_narrow = sys.stdout.isatty() and sum(widths) + 2 * len(widths) > get_terminal_size().columns
    for i, section in enumerate(table.sections):
        if section.title:
            _print_line(f"\n{section.title}" if i else section.title, "bold")
        if section.protocol:
            _print_line(f"({section.protocol})", "dim")
        if section.rows and sys.stdout.isatty():
            _print_grid(table, section.rows, [0] * len(widths) if is_narrow else widths)
        elif section.rows:
            _print_plain(table, section.rows, widths)
        for footnote in section.footnotes:
            _print_line(str(footnote), "yellow" if footnote.warning else "dim")
        for note in section.notes:
            _print_line(f"warning: {note}" if note.warning else str(note), "bold yellow" * note.warning)
    if table.protocol:
        is_shared = len(table.sections) > 1
        _print_line(f"\n(common to all: {table.protocol})" if is_shared else f"({table.protocol})", "dim")


def _texts(table: Table, rows: Sequence[TableRow], short: bool = False) -> list[list[str]]:
    """Return the titles and then the texts of rows, in columns; footnote marks are in the last, if there are any."""
    lines = [[*(column.title for column in table.columns), "note"]]
    for row in rows:
        texts = [
            ((short and c.short) or c.text) + (f" ({c.note})" if c.note else "") + " *" * (c.style == "best")
            for c in row.cells
        ]
        lines.append([row.label, *texts, row.marks])
    return [line[: len(table.columns) + table.has_footnotes] for line in lines]


def _print_plain(table: Table, rows: Sequence[TableRow], widths: Sequence[int]) -> None:
    numeric = [column.numeric for column in table.columns] + [False]
    for line in _texts(table, rows):
        cells = zip(line, numeric, widths, strict=False)
        print("  ".join(text.rjust(w) if right else text.ljust(w) for text, right, w in cells).rstrip())


def _print_grid(table: Table, rows: Sequence[TableRow], widths: Sequence[int]) -> None:
    """Print rows on a terminal; columns have these widths or, if it is narrow (0), what fits."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    titles, *texts = _texts(table, rows, short=not any(widths))
    grid = Grid(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for i, (title, width) in enumerate(zip(titles, widths, strict=True)):
        column = table.columns[i] if i < len(table.columns) else None
        grid.add_column(
            Text(title),
            justify="right" if column and column.numeric else "left",
            overflow="fold",
            no_wrap=not (column and column.breakable),
            min_width=width or None,
        )
    for row, line in zip(rows, texts, strict=True):
        styles = ["dim" * row.baseline, *(CELL_STYLES[cell.style] for cell in row.cells), "dim"]
        grid.add_row(*(Text(text, style=style) for text, style in zip(line, styles, strict=False)))
    Console().print(grid)


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


def output_path(out: str | None, folder: Path, stem: str, suffixes: Sequence[str]) -> Path:
    """Return the path of ``--out``; by default ``folder/stem`` with the first of the suffixes.

    Args:
        out: a file, or a folder for the file's default name.
        folder: the default folder.
        stem: the default name.
        suffixes: those that are supported, with their dots.

    Raises:
        ConfigError: the file's suffix is not supported.
        CheckpointError: its folder cannot be written.
    """
    from advae.run import check_writable

    path = Path(out) if out else folder
    if path.is_dir() or not out:
        path = path / f"{stem}{suffixes[0]}"
    if path.suffix not in suffixes:
        raise ConfigError(
            f"Unsupported file type for {stem}.", given=path, expected=f"a {' or '.join(suffixes)} file"
        )
    check_writable(path.parent)
    return path


def write_csv(path: Path, columns: Mapping[str, Any]) -> None:
    """Write columns of equal length by name as CSV, atomically; None and NaN are empty."""
    import numpy as np
    import pandas as pd  # type: ignore[import-untyped]

    frame = pd.DataFrame({name: np.asarray(values) for name, values in columns.items()})
    write_atomically(path, frame.to_csv(index=False, lineterminator="\n"))


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG, atomically."""
    from advae.report.figures.style import to_png

    write_atomically(path, to_png(figure))
