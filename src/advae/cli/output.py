"""Output of verbs: tables and facts for people, JSON for programs; plain and colourless in a pipe."""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advae.errors import ConfigError
from advae.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        cells = zip(columns, row, widths, strict=True)
        print("  ".join(c.rjust(w) if n in right else c.ljust(w) for n, c, w in cells).rstrip())


def print_estimates(estimates: Sequence[Mapping[str, Any]]) -> None:
    """A table of estimates, each with its kind, and the protocol that they share."""
    from advae.report.tables import estimate_rows

    rows, common = estimate_rows(estimates)
    cells = [(r.name, f"{r.value} ± {r.stderr}" if r.stderr else r.value, r.unit, r.kind, r.n) for r in rows]
    print_table(("estimate", "value", "unit", "kind", "n"), cells, right=("value", "n"))
    print(f"({common})")


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
    from advae.report.base import png

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, png(figure))
