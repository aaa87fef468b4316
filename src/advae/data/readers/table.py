"""Tables of numbers as text: CSV and TSV."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from advae.data.data_options import DataOptions
from advae.data.readers.base import READERS, TABLE_OPTIONS, DataSource, SourceReader
from advae.data.sources import Location, check_memory, files_by_split, list_some
from advae.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

ENCODING_BY_BOM = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
DELIMITERS = (",", ";", "\t")
NUM_SAMPLE_CHARACTERS, NUM_SAMPLE_ROWS = 2**18, 20  # that show the delimiter and the header
BYTES_PER_CHARACTER = 12  # of memory for the text, its columns, and their values as float64
MISSING = ("?", ".")  # in addition to pyarrow's: empty, NA, NaN, null, …
DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")


@READERS.register("table")
class TableReader(SourceReader):
    """Reader of one file, or of files named after splits."""

    description = "a CSV or TSV table (a file, a folder or a pattern)"
    suffixes = (".csv", ".tsv")
    reads_many_files = True
    priority = -1  # a folder with images or Parquet files may have a table of facts about them
    options = TABLE_OPTIONS

    @classmethod
    def open(cls, location: Location, options: DataOptions, eight_bit: bool) -> DataSource:
        parts = files_by_split(location.with_suffix(cls.suffixes))
        tables = {
            part: _concatenate([read_csv(file) for file in files], files) for part, files in parts.items()
        }
        return DataSource(location.name, {}, ordered="test" in parts, tables=tables)


def read_csv(path: Path) -> pa.Table:
    """Read a table with or without a row of names; without one, columns are x1, x2, …

    Raises:
        DataError: if the file is not text, is empty, or its rows have different numbers of fields.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    check_memory(path.stat().st_size * BYTES_PER_CHARACTER, path)
    content = _as_utf8(path.read_bytes(), path)
    sample = content[:NUM_SAMPLE_CHARACTERS].decode("utf-8", "ignore")
    if len(content) > NUM_SAMPLE_CHARACTERS:
        sample = sample[: sample.rfind("\n") + 1] or sample
    delimiter = max(
        DELIMITERS, key=lambda delimiter: _plausibility(_sample_rows(sample, delimiter), delimiter)
    )
    rows = _sample_rows(sample, delimiter)
    if not rows:
        raise DataError(
            "The table is empty.", given=path, expected="a row of column names, and rows of numbers"
        )
    has_decimal_comma = delimiter != "," and any(
        DECIMAL_COMMA.fullmatch(cell) for row in rows for cell in row
    )
    if has_decimal_comma:
        rows = [[cell.replace(",", ".") for cell in row] for row in rows]
    names = None if _has_header(rows) else [f"x{i + 1}" for i in range(len(rows[0]))]
    try:
        table = arrow_csv.read_csv(
            io.BytesIO(content),
            # One block, as a row must not be longer; one thread, so that errors name the row.
            arrow_csv.ReadOptions(
                use_threads=False, block_size=min(len(content) + 1, 2**31 - 1), column_names=names
            ),
            arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            arrow_csv.ConvertOptions(
                strings_can_be_null=True,
                null_values=[*arrow_csv.ConvertOptions().null_values, *MISSING],
                decimal_point="," if has_decimal_comma else ".",
            ),
        )
    except pa.ArrowException as error:
        raise DataError(
            "The table cannot be read.",
            given=f"{path}: {str(error).splitlines()[0]}",
            expected=f"the same number of fields in all rows, separated by {delimiter!r}",
            fix="remove lines that are not part of the table, or quote texts that contain the separator",
        ) from None
    if len(table) == 0:
        raise DataError("The table has no rows.", given=f"{path}: {list_some(table.column_names)}")
    return table.rename_columns([name.strip().removeprefix("# ") for name in table.column_names])


def _as_utf8(content: bytes, path: Path) -> bytes:
    """Return the text of a file as UTF-8 without a byte order mark."""
    encoding = next((name for bom, name in ENCODING_BY_BOM.items() if content.startswith(bom)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        text, problem = "\0", f"byte {error.start:,} is not {error.encoding}"
    else:
        problem = "it contains zero bytes"
    if "\0" in text:
        raise DataError(
            "The table is not a text file in UTF-8.",
            given=f"{path}: {problem}",
            expected="CSV or TSV, in UTF-8 or UTF-16 with a byte order mark",
            fix="save it again as CSV in UTF-8",
        )
    return content if encoding == "utf-8" else text.encode()


def _sample_rows(sample: str, delimiter: str) -> list[list[str]]:
    """Return the first rows, without empty ones."""
    rows: list[list[str]] = []
    try:
        for row in csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter):
            if any(cell.strip() for cell in row):
                rows.append(row)
            if len(rows) == NUM_SAMPLE_ROWS:
                break
    except csv.Error:  # a field of more than 131,072 characters
        pass
    return rows


def _plausibility(rows: Sequence[Sequence[str]], delimiter: str) -> tuple[float, int]:
    """Return the part of fields that are numbers, and the number of columns if it is the same in all rows."""
    cells = [cell.replace(",", ".") if delimiter != "," else cell for row in rows[1:] for cell in row]
    widths = {len(row) for row in rows}
    is_number = [_is_number(cell) or not cell.strip() for cell in cells]
    return sum(is_number) / max(1, len(cells)), max(widths, default=0) if len(widths) == 1 else 0


def _has_header(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the first row has names: no numbers, texts above numbers, or 0, 1, 2, … as from a data frame."""
    first, second = rows[0], rows[1] if len(rows) > 1 else []
    numbers = [float(cell) for cell in first if _is_number(cell)]
    if not numbers or any(
        not _is_number(a) and _is_number(b) for a, b in zip(first, second, strict=False) if a.strip()
    ):
        return True
    return len(numbers) > 1 and numbers in ([*range(len(numbers))], [*range(1, len(numbers) + 1)])


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _concatenate(tables: Sequence[pa.Table], files: Sequence[Path]) -> pa.Table:
    """Return the rows of tables that have the same columns."""
    import pyarrow as pa

    for table, file in zip(tables, files, strict=True):
        if sorted(table.column_names) != sorted(tables[0].column_names):
            raise DataError(
                "The tables have different columns.",
                given=f"{file}: {list_some(table.column_names, 10)}",
                expected=f"as in {files[0]}: {list_some(tables[0].column_names, 10)}",
                fix="give one file, or name files after the splits: train, validation and test",
            )
    if len(tables) == 1:
        return tables[0]
    names = tables[0].column_names
    try:
        return pa.concat_tables([table.select(names) for table in tables], promote_options="permissive")
    except (pa.ArrowException, KeyError) as error:
        given = f"{list_some(file.name for file in files)}: {str(error).splitlines()[0]}"
        raise DataError("Columns of one name have different types.", given=given) from None
