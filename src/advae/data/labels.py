"""Labels as class ids, for plots and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advae.errors import DataError

Array = npt.NDArray[Any]
UNKNOWN = -1  # class id of an example without a label
MIN_LABELS_TO_COMPARE = 20  # from which most labels of one class each are not taken for classes


class ClassLabels(NamedTuple):
    """Class ids of each labeled part, int64 ``[N]`` (-1: unknown); number and names of the classes; remarks."""

    ids: dict[str, Tensor]
    classes: int | None = None
    names: tuple[str, ...] | None = None
    remarks: tuple[str, ...] = ()


def class_labels(
    labels: Mapping[str, npt.ArrayLike],
    lengths: Mapping[str, int],
    names: tuple[str, ...] | None = None,
    *,
    renumber: bool = True,
) -> ClassLabels:
    """Convert labels to class ids, the same for all parts.

    Whole numbers are class ids if at least half of the numbers from 0 to the largest occur. Other numbers, and names,
    become ids in their order. One-hot rows become the index of the one. None, NaN, an empty name and -1 are unknown
    (-1 is a class if it occurs with 1 alone, or with other negative numbers). Labels that are not classes are left
    out with a remark: real numbers, several per example, or more distinct values than half of the examples.

    Args:
        labels: ``[N]``, ``[N, 1]`` or one-hot ``[N, K]`` per part. A part without known labels is omitted.
        lengths: the number of examples per part.
        names: of the classes 0, 1, …, if the source has them.
        renumber: False keeps all whole numbers as ids.

    Raises:
        DataError: if a part has another number of labels than examples.
    """
    columns = {part: _column(part, values, lengths[part]) for part, values in labels.items() if lengths[part]}
    if not columns:
        return ClassLabels({})
    problem = next(filter(None, map(_why_not_classes, columns.values())), None)
    if problem:
        return ClassLabels({}, remarks=(f"The labels are left out: {problem}.",))
    if any(column.dtype.kind == "U" for column in columns.values()):
        columns = {part: column.astype(str) for part, column in columns.items()}
    is_known = {part: _is_known(column) for part, column in columns.items()}
    distinct = _distinct(columns, is_known)
    if len(distinct) and distinct[0] == UNKNOWN and distinct.tolist() != [UNKNOWN, 1]:
        is_known = {part: is_known[part] & (column != UNKNOWN) for part, column in columns.items()}
        distinct = distinct[1:]
    num_labels = sum(int(mask.sum()) for mask in is_known.values())
    if num_labels == 0:
        return ClassLabels({})
    if renumber and not names and 2 * len(distinct) > num_labels >= MIN_LABELS_TO_COMPARE:
        text = f"The labels are left out: {num_labels:,} labels have {len(distinct):,} values, too many for classes."
        return ClassLabels({}, remarks=(text,))
    are_ids = distinct.dtype.kind != "U" and distinct[0] >= 0 and distinct[-1] < 2 * len(distinct)
    remarks: tuple[str, ...] = ()
    if distinct.dtype.kind != "U" and (are_ids or names or not renumber):
        classes = 1 + int(distinct[-1])
    else:
        classes = len(distinct)
        if distinct.dtype.kind == "U":
            names = tuple(distinct.tolist())
        else:
            names = tuple(str(int(value)) for value in distinct.tolist())
            remarks = (
                f"The labels {names[0]} to {names[-1]} are numbered as {classes} classes in their order.",
            )
        columns = {part: np.searchsorted(distinct, column) for part, column in columns.items()}
    ids = {
        part: torch.from_numpy(np.where(is_known[part], column, UNKNOWN).astype(np.int64))
        for part, column in columns.items()
        if is_known[part].any()
    }
    return ClassLabels(ids, classes, names, remarks)


def _column(part: str, labels: npt.ArrayLike, length: int) -> Array:
    """Return labels as ``[N]``; of more than one axis if they are neither single values nor one-hot."""
    column = np.asarray(labels)
    if column.shape[:1] != (length,):
        raise DataError(
            f"The number of {part} labels and examples differs.",
            given=f"{len(column) if column.ndim else 1} labels, {length} examples",
        )
    if column.ndim == 2 and column.shape[1] > 1 and column.dtype.kind in "buif":
        is_one_hot = ((column == 0) | (column == 1)).all() and (column.sum(1) == 1).all()
        column = column.argmax(1) if is_one_hot else column
    column = column.reshape(length) if column.size == length else column
    if column.dtype == object and column.ndim == 1:
        blank = "" if any(isinstance(label, str) for label in column) else np.nan
        column = np.array([blank if label is None else label for label in column])
    return np.char.decode(column, "utf-8", "backslashreplace") if column.dtype.kind == "S" else column


def _why_not_classes(column: Array) -> str | None:
    """Return why labels are not classes; None if they can be."""
    if column.ndim != 1:
        return f"each has {' × '.join(map(str, column.shape[1:]))} values that are not one-hot"
    if column.dtype.kind not in "buifU":
        return f"their type is {column.dtype}"
    if (
        column.dtype.kind == "f"
        and not (np.isnan(column) | (np.isfinite(column) & (column == np.rint(column)))).all()
    ):
        return "they are real numbers, as for a regression"
    return None


def _is_known(column: Array) -> npt.NDArray[np.bool_]:
    if column.dtype.kind == "f":
        return ~np.isnan(column)
    return column != "" if column.dtype.kind == "U" else np.ones(len(column), np.bool_)


def _distinct(columns: Mapping[str, Array], is_known: Mapping[str, Array]) -> Array:
    """Return the distinct known labels of all parts, sorted."""
    return np.unique(np.concatenate([column[is_known[part]] for part, column in columns.items()]))
