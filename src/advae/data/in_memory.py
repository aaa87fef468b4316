"""Data sets from arrays, tensors, data frames and PyTorch data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset, TensorDataset

from advae.data.arrays import Array, array_examples, as_array
from advae.data.data_options import DataOptions
from advae.data.dataset import Dataset
from advae.data.loading import check_options, make_dataset, open_for_preprocessing
from advae.data.readers.array_files import split_and_role
from advae.data.readers.base import IN_MEMORY, DataSource, resolve_tables
from advae.data.sources import check_memory, list_some
from advae.data.table_columns import NO_LABEL, as_table, is_table
from advae.errors import DataError

EXPECTED = (
    "an array, tensor, data frame or PyTorch data set; a pair (x, labels); a dict with train and optionally "
    "validation and test; or (train, validation, test)"
)


@torch.inference_mode(False)
def from_arrays(
    data: Any,
    options: DataOptions | None = None,
    name: str = "arrays",
    columns: Sequence[str] | None = None,
) -> Dataset:
    """Return a data set of examples in memory, by the rules for files: layout, splits, preprocessing, checksum.

    Args:
        data: examples ``[N, …]`` as a numpy array, tensor or list; a data frame of pandas, polars or pyarrow; a
            ``torch.utils.data.Dataset``; a pair (x, labels). Splits are a dict of such data by the names train,
            validation and test (also ``x_train``, ``y_train``, …), or a tuple (train, validation, test). A
            :class:`Dataset` is returned as it is.
        options: how the data are split and preprocessed; the source is ignored. By default preprocessing is ``auto``.
        name: of the data.
        columns: of a trained model, by which those of data frames are matched; the others are left out.

    Raises:
        ConfigError: if an option is invalid.
        DataError: if the data are of another kind, empty, not real numbers, not finite, or of different shapes.
    """
    if isinstance(data, Dataset):
        return data
    options = replace(options or DataOptions(preprocessing="auto"), source=IN_MEMORY)
    check_options(options)
    values, labels = _values_and_labels(data)
    tables = {part: as_table(value) for part, value in values.items() if is_table(value)}
    if tables and len(tables) < len(values):
        raise DataError(
            "Some splits are data frames, others are not.", given=list_some(values), expected=EXPECTED
        )
    if tables and labels:
        options = replace(options, label=NO_LABEL)
    arrays = {} if tables else {part: as_array(value, part) for part, value in values.items()}
    ids = {part: _label_array(value) for part, value in labels.items()}
    ordered = "test" in values

    def open_arrays(eight_bit: bool) -> DataSource:
        if tables:
            source = DataSource(name, {}, ids, ordered, tables=tables)
            return resolve_tables(source, options, eight_bit, columns)
        return DataSource(name, array_examples(arrays, name, eight_bit, options), ids, ordered)

    return make_dataset(open_for_preprocessing(options.preprocessing, open_arrays), options)


def _values_and_labels(data: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the examples and the labels by part."""
    parts: dict[str, Any] = {}
    values: dict[str, Any] = {}
    labels: dict[str, Any] = {}
    if isinstance(data, Mapping):
        for key, value in data.items():
            split, role = split_and_role(str(key)) or ("", "")
            if role == "labels":
                labels[split] = value
            elif role:
                if split in parts:
                    raise DataError(f"Two entries have the {split} examples.", given=list_some(data))
                parts[split] = value
        if "train" not in parts:
            raise DataError(
                "The dict has no training examples.", given=list_some(data, 10), expected=EXPECTED
            )
        labels = {split: value for split, value in labels.items() if split in parts}
    elif isinstance(data, tuple) and len(data) == 3:
        parts = dict(zip(("train", "validation", "test"), data, strict=True))
    else:
        parts = {"train": data}
    for split, part in parts.items():
        if part is None and split != "train":
            continue
        pair = _as_pair(part, split)
        values[split] = pair[0]
        if pair[1] is not None:
            labels[split] = pair[1]
    return values, labels


def _as_pair(part: Any, split: str) -> tuple[Any, Any]:
    """Return examples, and their labels or None."""
    if isinstance(part, TensorDataset):
        part = part.tensors if len(part.tensors) != 1 else part.tensors[0]
    elif isinstance(part, TorchDataset):
        return _read_items(part, split)
    if isinstance(part, tuple):
        if len(part) != 2:
            given = f"{split}: a tuple of {len(part)}"
            raise DataError("The data are not a pair (x, labels).", given=given, expected=EXPECTED)
        return part
    if part is None or isinstance(part, str | bytes | Mapping):
        raise DataError(
            "Data of this kind are not supported.",
            given=f"{split}: {type(part).__name__}",
            expected=EXPECTED,
            fix="for files, set data.source (--data.source PATH)",
        )
    return part, None


def _read_items(items: TorchDataset[Any], split: str) -> tuple[Array, Array | None]:
    """Return all examples of a PyTorch data set, and their labels if its items are pairs."""
    size = getattr(items, "__len__", None)
    if isinstance(items, IterableDataset) or size is None or len(items) == 0:  # type: ignore[arg-type]
        raise DataError(
            "The PyTorch data set has no examples by index.",
            given=f"{split}: {type(items).__name__}",
            expected="items 0 to len - 1, with len > 0",
        )
    count = size()
    values: list[Array] = []
    labels: list[Any] = []
    for index in range(count):
        item = items[index]
        is_pair = isinstance(item, tuple | list)
        values.append(as_array(item[0] if is_pair else item, f"{split}, item {index}"))
        if index == 0:
            check_memory(count * values[0].nbytes * 2, f"PyTorch data set {type(items).__name__}")
        if values[-1].shape != values[0].shape:
            raise DataError(
                "The examples have different shapes.",
                given=f"{split}: item 0 {list(values[0].shape)}, item {index} {list(values[-1].shape)}",
                fix="resize or crop them in the data set",
            )
        if is_pair and len(item) > 1:
            labels.append(item[1])
    return np.stack(values), _label_array(labels) if len(labels) == count else None


def _label_array(labels: Any) -> Array:
    """Return labels as an array, of numbers or texts."""
    if isinstance(labels, torch.Tensor):
        return as_array(labels, "labels")
    if isinstance(labels, Sequence):
        labels = [
            label.item() if isinstance(label, torch.Tensor) and label.numel() == 1 else label
            for label in labels
        ]
    try:
        return np.asarray(labels)
    except (TypeError, ValueError):
        raise DataError(
            "The labels are not one value per example.",
            given=type(labels).__name__,
            expected="numbers or texts [N]",
        ) from None
