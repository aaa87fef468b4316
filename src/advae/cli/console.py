"""Output of verbs: tables and facts for people, JSON for programs; plain and colourless in a pipe."""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from advae.errors import ConfigError
from advae.io import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from advae.report.estimate_table import Row


def print_json(value: Any) -> None:
    """One JSON value on stdout; a number that is not finite, for which JSON has no word, becomes null."""
    print(json.dumps(_finite(value), indent=2, default=str, ensure_ascii=False, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> None:
    """A table: drawn on a terminal, plain columns in a pipe. Columns named in ``right`` are flushed right."""
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
    _print_columns(columns, rows, right, [max(map(len, c)) for c in zip(columns, *rows, strict=True)])


def _print_columns(
    columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str], widths: Sequence[int]
) -> None:
    for row in (columns, *rows):
        cells = zip(columns, row, widths, strict=True)
        print("  ".join(c.rjust(w) if n in right else c.ljust(w) for n, c, w in cells).rstrip())


COLUMNS = ("estimate", "value", "95 % interval", "unit", "kind", "n", "note")
OPTIONAL = ("95 % interval", "unit", "note")  # left out where no estimate has one
NUMBERS = ("value", "95 % interval", "n")
WHOLE = (*NUMBERS, "unit", "note")  # columns whose cells are not broken


def print_estimates(
    estimates: Sequence[Mapping[str, Any]], remarks: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Tables of estimates, one a section, each with its kind, its protocol, and what is to be said of it.

    Args:
        estimates: as in estimates.json.
        remarks: likewise; warnings stand first and begin with "warning:".
    """
    from advae.report.estimate_table import sections

    tables, common = sections(estimates, remarks)
    every = [row for table in tables for row in table.rows]
    for i, table in enumerate(tables):
        if table.title:
            _line(f"\n{table.title}" if i else table.title, "bold")
        if table.protocol:
            _line(f"({table.protocol})", "dim")
        if table.rows:
            _print_rows(table.rows, every)
        for letter, own in table.notes:
            _line(f"{letter}: {own}", "dim")
        for said in table.warnings:
            _line(f"warning: {said}", "bold yellow")
        for said in table.remarks:
            _line(str(said))
    if common:
        _line(f"\n(common to all: {common})" if len(tables) > 1 else f"({common})", "dim")


def _print_rows(rows: Sequence[Row], every: Sequence[Row]) -> None:
    """A section's table, in line with those of ``every`` row; on a narrow terminal by itself."""
    from shutil import get_terminal_size

    used = _used(every)
    cells = [[_cell(row, name) for name in used] for row in rows]
    widths = [max([len(name), *(len(_cell(row, name)) for row in every)]) for name in used]
    if not sys.stdout.isatty():
        _print_columns(used, cells, NUMBERS, widths)
        return
    room = get_terminal_size().columns
    if sum(widths) + 2 * len(used) > room:
        used, widths = _used(rows), [0] * len(COLUMNS)
        wide = sum(max(len(_cell(row, name)) for row in rows) + 2 for name in used) > room
        cells = [[_cell(row, name, short=wide) for name in used] for row in rows]
    _draw_rows(used, cells, widths)


def _draw_rows(columns: Sequence[str], rows: Sequence[Sequence[str]], least: Sequence[int]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name, width in zip(columns, least, strict=False):
        justify: Literal["left", "right"] = "right" if name in NUMBERS else "left"
        table.add_column(
            name, justify=justify, overflow="fold", no_wrap=name in WHOLE, min_width=width or None
        )
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def _used(rows: Sequence[Row]) -> list[str]:
    return [name for name in COLUMNS if name not in OPTIONAL or any(_cell(row, name) for row in rows)]


def _cell(row: Row, column: str, *, short: bool = False) -> str:
    """What a row has in a column; ``short``: without the standard error where the interval says as much."""
    if column == "value":
        return row.value if not row.stderr or (short and row.interval) else f"{row.value} ± {row.stderr}"
    field = {"estimate": "name", "95 % interval": "interval"}.get(column, column)
    return str(getattr(row, field))


def _line(text: str, style: str = "") -> None:
    """A line of text; on a terminal in a style, and broken between words."""
    if not sys.stdout.isatty():
        print(text)
        return
    from rich.console import Console
    from rich.text import Text

    Console().print(Text(text, style=style))


def print_facts(facts: Mapping[str, object]) -> None:
    """Names and values, one a line."""
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")


def say(args: argparse.Namespace, text: str) -> None:
    """A remark for people, on stderr."""
    if not args.quiet:
        print(text, file=sys.stderr, flush=True)


def written(args: argparse.Namespace, path: Path, **more: Any) -> int:
    """Say which file was written; the end of a verb."""
    if args.json:
        print_json({"path": str(path), **more})
    else:
        print(path)
    return 0


def target(args: argparse.Namespace, folder: Path, stem: str, *, images: bool) -> Path:
    """Where ``--out`` says, or ``folder/stem`` with ``.png`` for images and ``.npz`` for all else.

    Args:
        args: with ``out``; a folder there is given the name.
        folder: the default.
        stem: of the default name.
        images: whether a sheet of images can be drawn.

    Raises:
        ConfigError: the ending is not one of those.
    """
    path = Path(args.out) if args.out else folder
    if path.is_dir() or not args.out:
        path = path / f"{stem}.{'png' if images else 'npz'}"
    kinds = (".png", ".npz") if images else (".npz",)
    if path.suffix not in kinds:
        raise ConfigError(
            f"{stem} cannot be written to a file of this kind",
            given=path,
            expected=f"a file ending in {' or '.join(kinds)}",
        )
    return path


def write_npz(path: Path, **arrays: Any) -> None:
    """Write tensors and arrays by name, whole or not at all."""
    import numpy as np

    buffer, ready = io.BytesIO(), dict[str, Any]()
    ready |= {name: np.asarray(array) for name, array in arrays.items()}
    np.savez_compressed(buffer, **ready)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())


def write_sheet(path: Path, figure: Figure) -> None:
    """Write a figure as PNG, whole or not at all."""
    from advae.report.figures.style import png

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, png(figure))
