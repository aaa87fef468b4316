"""Tables as numbers and labels: columns, missing values, data frames."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from advae.data.data_options import DataOptions
from advae.data.sources import list_some
from advae.errors import DataError, first_line, nearest

if TYPE_CHECKING:
    import pyarrow as pa

Array = npt.NDArray[Any]
NO_LABEL = "none"  # as data.label
MAX_CLASSES = 100  # distinct values of a column that is taken for the label by its name
LABEL_NAMES: tuple[str, ...] = (
    "label",
    "labels",
    "class",
    "classes",
    "target",
    "targets",
    "species",
    "category",
)
LABEL_NAMES += ("diagnosis", "outcome", "variety", "cultivar", "y")
ID_NAMES = ("", "id", "index", "row", "rownames", "unnamed: 0")


class TableArrays(NamedTuple):
    """Values float64 ``[N, n]`` and labels ``[N]`` of each part, the names of the n columns, the label's, remarks."""

    values: dict[str, Array]
    labels: dict[str, Array]
    columns: tuple[str, ...]
    label: str | None
    remarks: tuple[str, ...]


def is_table(value: Any) -> bool:
    """Return whether a value is a data frame of pandas or polars, or a table of pyarrow."""
    pandas, pyarrow = sys.modules.get("pandas"), sys.modules.get("pyarrow")
    return (
        (pandas is not None and isinstance(value, pandas.DataFrame))
        or (pyarrow is not None and isinstance(value, pyarrow.Table))
        or callable(getattr(value, "to_arrow", None))
    )


def as_table(value: Any) -> pa.Table:
    """Return a data frame as a pyarrow table, without its index.

    Raises:
        DataError: if two columns have one name, or a column mixes types.
    """
    import pyarrow as pa

    try:
        if isinstance(value, pa.Table):
            return value
        return (
            value.to_arrow()
            if hasattr(value, "to_arrow")
            else pa.Table.from_pandas(value, preserve_index=False)
        )
    except (pa.ArrowException, TypeError, ValueError) as error:
        fix = "give every column a name of its own, and values of one type"
        raise DataError("The data frame cannot be read.", given=first_line(error), fix=fix) from None


def table_arrays(
    tables: Mapping[str, pa.Table], origin: object, options: DataOptions, columns: Sequence[str] | None = None
) -> TableArrays:
    """Return the numbers and labels of tables by part.

    Columns are matched by name. Booleans become 0 and 1. The label is ``data.label``, else a column with a usual name
    and few values, else the only column of text. Empty columns and row numbers are left out.

    Args:
        tables: by part, with a train part unless ``columns`` are given.
        origin: for messages: where the tables come from.
        options: of which label and missing are used.
        columns: the columns of a trained model, in its order; all others are left out.

    Raises:
        DataError: if a column is not unique, missing or not numeric; or values are missing.
    """
    tables = {part: _without_dictionaries(table) for part, table in tables.items()}
    first = tables.get("train", next(iter(tables.values())))
    remarks = []
    if columns is None:
        full, first = first, _drop_empty_columns(first)
        tables["train"] = first
        if empty := [name for name in full.column_names if name and name not in first.column_names]:
            remarks.append(f"Left out: {list_some(empty)}, without any value.")
    for part, table in tables.items():
        wanted = first.column_names if columns is None else columns
        _check_names([name for name in table.column_names if name in wanted], f"{origin} ({part})")
    label = _label_column(first, options, columns)
    if columns is None:
        others = [name for name in first.column_names if name != label]
        left_out = [name for name in others if _is_row_id(name, first[name])]
        columns = [name for name in others if name not in left_out]
        _check_numeric(first, columns, origin, label)
        if label:
            how = "" if options.label else " Set data.label to another column, or to none."
            remarks.append(f"Column {label} is read as the label.{how}")
        if left_out:
            remarks.append(f"Left out: {list_some(map(_shown, left_out))}, which numbers the rows.")
    for part, table in tables.items():
        absent = [name for name in columns if name not in table.column_names]
        if absent:
            raise DataError(
                "The table does not have all columns.",
                given=f"{origin} ({part}): {list_some(table.column_names, 10)}",
                expected=f"also {list_some(absent, 10)}",
                fix="name the columns as in the training data, in the first row of the file",
            )
        _check_numeric(table, columns, origin, label)
    if not columns:
        raise DataError(
            "The table has no column of numbers.", given=f"{origin}: {list_some(first.column_names)}"
        )
    tables, dropped = _check_missing(tables, columns, origin, options.missing == "drop")
    values = {part: _numbers(table, columns) for part, table in tables.items()}
    train = values.get("train")
    if train is not None and len(train) and (is_constant := train.min(0) == train.max(0)).any():
        names = [name for name, constant in zip(columns, is_constant, strict=True) if constant]
        remarks.append(f"Constant in the training data: {list_some(names)}.")
    labels = {part: _labels(table[label]) for part, table in tables.items() if label in table.column_names}
    return TableArrays(values, labels, tuple(columns), label, (*remarks, *dropped))


def _check_names(names: Sequence[str], origin: str) -> None:
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise DataError(
            "Columns have the same name.",
            given=f"{origin}: {list_some(map(_shown, doubled))}",
            fix="give every column a name of its own",
        )


def _without_dictionaries(table: pa.Table) -> pa.Table:
    """Return a table with values in place of categories."""
    import pyarrow.types as types

    for index, column in enumerate(table.columns):
        if types.is_dictionary(column.type):
            name = table.column_names[index]
            table = table.set_column(index, name, column.cast(column.type.value_type))
    return table


def _drop_empty_columns(table: pa.Table) -> pa.Table:
    """Return a table without columns that have no value at all, as after a comma at the end of every line."""
    kept = [i for i, column in enumerate(table.columns) if column.null_count < len(column) or not len(column)]
    return table.select(kept)


def _label_column(table: pa.Table, options: DataOptions, columns: Sequence[str] | None) -> str | None:
    """Return the name of the label column; None if there is none."""
    if options.label == NO_LABEL:
        return None
    if options.label:
        if options.label not in table.column_names and columns is None:
            raise DataError(
                "The table has no such column (data.label).",
                given=options.label,
                expected=f"{list_some(table.column_names, 10)}, or none",
                fix=nearest(options.label, table.column_names),
            )
        return options.label
    names = [name for name in table.column_names if name not in (columns or ())]
    for name in sorted(names, key=lambda name: _rank(name, LABEL_NAMES)):
        if name.strip().lower() in LABEL_NAMES and _has_classes(table[name]):
            return name
    texts = [name for name in names if _kind(table[name]) == "text" and not _is_row_id(name, table[name])]
    return texts[0] if len(texts) == 1 else None


def _rank(name: str, names: Sequence[str]) -> int:
    return names.index(name.strip().lower()) if name.strip().lower() in names else len(names)


def _has_classes(column: pa.ChunkedArray) -> bool:
    """Return whether a column is text, boolean or whole numbers, with few distinct values."""
    distinct = column.drop_null().unique()
    if not 1 < len(distinct) <= min(MAX_CLASSES, max(2, len(column) // 2)):
        return False
    if _kind(column) != "number":
        return _kind(column) == "text"
    numbers = _as_float64(distinct)
    return bool((numbers == np.rint(numbers)).all())


def _is_row_id(name: str, column: pa.ChunkedArray) -> bool:
    """Return whether a column with the name of an identifier has a different whole number or text in each row."""
    if name.strip().lower() not in ID_NAMES or len(column) < 2 or len(column.unique()) < len(column):
        return False
    return _kind(column) == "text" or (_kind(column) == "number" and "int" in str(column.type))


def _kind(column: pa.ChunkedArray) -> str:
    """Return ``number`` (booleans too), ``text`` or the type's name."""
    import pyarrow.types as types

    kind = column.type
    if any(test(kind) for test in (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)):
        return "number"
    is_text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    return "text" if is_text else str(kind)


def _check_numeric(table: pa.Table, columns: Sequence[str], origin: object, label: str | None) -> None:
    """Raise DataError if columns are not numbers, with some of their values."""
    others = [name for name in columns if _kind(table[name]) != "number"]
    if not others:
        return

    def describe(name: str) -> str:
        values = table[name].slice(0, 100).unique().to_pylist()
        return f"{_shown(name)} ({_kind(table[name])}: {list_some(values)})"

    name = f"or name one of them as the label (data.label), e.g. --data.label {others[0]}"
    raise DataError(
        "Columns of the table are not numbers.",
        given=f"{origin}: {'; '.join(map(describe, others[:5]))}" + (" …" if len(others) > 5 else ""),
        expected="columns of numbers or booleans"
        + (f"; the label is {label}" if label else ", and one label"),
        fix="drop these columns, or replace them by numbers" + ("" if label else f"; {name}"),
    )


def _check_missing(
    tables: Mapping[str, pa.Table], columns: Sequence[str], origin: object, drop: bool
) -> tuple[dict[str, pa.Table], list[str]]:
    """Return the tables without rows that miss values, if these may be dropped, and a remark; else raise DataError.

    Infinite values count as missing.
    """
    import pyarrow.compute as pc
    import pyarrow.types as types

    def is_missing(column: pa.ChunkedArray) -> Any:
        missing = pc.is_null(column, nan_is_null=True)
        return (
            pc.or_(missing, pc.fill_null(pc.is_inf(column), True))
            if types.is_floating(column.type)
            else missing
        )

    kept, remarks = {}, []
    for part, table in tables.items():
        masks = {name: is_missing(table[name]) for name in columns}
        counts = {name: pc.sum(mask).as_py() or 0 for name, mask in masks.items()}
        counts = {name: count for name, count in counts.items() if count}
        kept[part] = table
        if not counts:
            continue
        any_missing = np.any([masks[name].to_numpy() for name in counts], axis=0)
        listed = ", ".join(f"{name} {count:,}" for name, count in list(counts.items())[:8])
        listed += " …" if len(counts) > 8 else ""
        text = f"{any_missing.sum():,} of {len(table):,} rows ({part}) have missing or infinite values"
        if not drop or any_missing.all():
            fix = "fill them, or drop columns that miss many"
            raise DataError(
                "The table has missing values.",
                given=f"{origin}: {text}; by column: {listed}",
                fix=fix
                if drop
                else f"{fix}; or leave out these rows: for training, set data.missing to drop",
            )
        kept[part] = table.filter(~any_missing)
        remarks.append(f"Left out: {text} ({listed}).")
    return kept, remarks


def _numbers(table: pa.Table, columns: Sequence[str]) -> Array:
    """Return columns as float64 ``[N, n]``."""
    values = np.empty((len(table), len(columns)))
    for index, name in enumerate(columns):
        values[:, index] = _as_float64(table[name])
    return values


def _as_float64(column: pa.ChunkedArray | pa.Array) -> Array:
    import pyarrow.types as types

    if types.is_boolean(column.type):
        column = column.cast("int8")
    return np.asarray(column.cast("float64", safe=False).to_numpy(zero_copy_only=False))


def _labels(column: pa.ChunkedArray) -> Array:
    """Return labels; missing ones are NaN, or empty names."""
    import pyarrow.types as types

    if _kind(column) == "number":
        if column.null_count == 0 and types.is_integer(column.type):
            return np.asarray(column.to_numpy())
        return _as_float64(column)
    return np.array([str("" if value is None else value).strip() for value in column.to_pylist()])


def _shown(name: str) -> str:
    return name or "a column without a name"
