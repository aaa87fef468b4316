"""Array files of numpy: ``.npy`` and ``.npz``, without pickles."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from advae.data.arrays import Array, array_examples
from advae.data.data_options import DataOptions
from advae.data.readers.base import READERS, DataSource, SourceReader
from advae.data.sources import Location
from advae.errors import DataError

KEYS = {
    "train": ("train", "x_train", "train_x", "x"),
    "validation": ("validation", "x_validation", "x_val", "val", "valid"),
    "test": ("test", "x_test", "test_x"),
}
LABEL_KEYS = {
    "train": ("y", "y_train", "train_y", "train_labels", "labels_train", "labels"),
    "validation": ("y_validation", "y_val", "validation_labels", "labels_validation"),
    "test": ("y_test", "test_y", "test_labels", "labels_test"),
}
KNOWN_KEYS = {key for keys in (*KEYS.values(), *LABEL_KEYS.values()) for key in keys}


@READERS.register("arrays")
class ArrayFileReader(SourceReader):
    """Reader of ``.npy`` (examples, memory-mapped) and ``.npz`` (examples and labels by split)."""

    description = "a .npy or .npz file"
    suffixes = (".npy", ".npz")

    @classmethod
    def open(cls, location: Location, options: DataOptions, eight_bit: bool) -> DataSource:
        path = location.path
        arrays = _read_arrays(path)
        parts = _select_arrays(arrays, KEYS)
        if not parts and len(arrays) == 1:
            parts = {"train": next(iter(arrays.values()))}
        if "train" not in parts:
            raise DataError(
                "The arrays have unknown names.",
                given=f"{path}: {sorted(arrays)}",
                expected="x, or train (x_train) and optionally validation and test; labels y, or y_train and so on",
            )
        examples = array_examples(parts, path, eight_bit)
        labels = {part: array for part, array in _select_arrays(arrays, LABEL_KEYS).items() if part in parts}
        return DataSource(location.name, examples, labels, ordered="test" in parts)


def _read_arrays(path: Path) -> dict[str, Array]:
    """Return the array of a ``.npy`` file as ``x``, or the arrays of a ``.npz`` file with known names, if any."""
    try:
        loaded = np.load(path, mmap_mode="r" if path.suffix.lower() == ".npy" else None, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"x": loaded}
        with loaded:
            known = [key for key in loaded.files if key in KNOWN_KEYS]
            return {key: loaded[key] for key in known or loaded.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        if "pickle" in str(error).lower() or "Python objects" in str(error):
            raise DataError(
                "The file contains pickled objects, or no array; pickles are never loaded.",
                given=path,
                fix="save plain arrays of numbers, of one shape for all examples, with numpy.save",
            ) from None
        raise DataError("The array file cannot be read.", given=f"{path}: {error}") from None


def _select_arrays(arrays: Mapping[str, Array], names: Mapping[str, tuple[str, ...]]) -> dict[str, Array]:
    """Return the array of each part that has one, by the first of its names."""
    return {
        part: next(arrays[key] for key in keys if key in arrays)
        for part, keys in names.items()
        if any(key in arrays for key in keys)
    }
