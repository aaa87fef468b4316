"""Sources that are arrays: the embedded digits, ``.npy`` and ``.npz``. Nothing pickled is ever loaded.

An array is laid out by its number of axes: [N, n] vectors, [N, H, W] gray images, [N, C, H, W] or
[N, H, W, C] images (channels last if the last axis is at most 4 and the second is larger); any other shape
stays as it is.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from advae.data.dataset import CHUNK, Indices, Problems, Rows, Source
from advae.errors import DataError

Array = npt.NDArray[Any]
MOST_CHANNELS = 4
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


class ArrayRows(Rows):
    """Rows of an array in memory or memory-mapped, laid out and converted as they are read.

    Args:
        array: [N, ...].
        scale: factor to 0..255 for storage as uint8; None keeps uint8 as it is, and all else as float32.
    """

    def __init__(self, array: Array, scale: int | None) -> None:
        self.array, self.scale = array, scale
        self.shape, self.last = laid_out(array.shape[1:])
        self.dtype = torch.float32 if scale is None and array.dtype != np.uint8 else torch.uint8

    def __len__(self) -> int:
        return len(self.array)

    def read(self, indices: Indices, problems: Problems | None = None) -> Array:
        rows = self.array[indices]
        if self.last:
            rows = np.moveaxis(rows, -1, 1)
        return np.ascontiguousarray(self._stored(rows).reshape(len(rows), *self.shape))

    def _stored(self, rows: Array) -> Array:
        if self.dtype == torch.float32:
            return rows.astype(np.float32)
        if self.scale is None or (self.scale == 1 and rows.dtype == np.uint8):
            return rows
        return np.rint(rows.astype(np.float32) * self.scale).astype(np.uint8)


def laid_out(shape: tuple[int, ...]) -> tuple[tuple[int, ...], bool]:
    """The shape of an example, and whether its channels come last.

    >>> laid_out((28, 28)), laid_out((32, 32, 3)), laid_out((5,))
    (((1, 28, 28), False), ((3, 32, 32), True), ((5,), False))
    """
    if len(shape) == 0:
        return (1,), False
    if len(shape) == 2:
        return (1, *shape), False
    if len(shape) == 3 and shape[-1] <= MOST_CHANNELS < shape[0]:
        return (shape[-1], *shape[:-1]), True
    return shape, False


def open_digits() -> Source:
    """The 1,797 handwritten digits of scikit-learn, 8 × 8 gray, values 0..16 brought to 0..255."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = np.rint(found.images * (255 / 16)).astype(np.uint8)
    return Source("digits", {"train": ArrayRows(images, 1)}, {"train": found.target})


def open_arrays(path: Path, name: str, eight_bit: bool) -> Source:
    """Open a ``.npy`` or ``.npz`` file.

    Args:
        eight_bit: whether the preprocessing needs values that can be stored as uint8.

    Raises:
        DataError: not readable, pickled, empty, of unknown keys, not finite, or not storable as uint8.
    """
    arrays = _load(path)
    parts = _chosen(arrays, KEYS)
    if not parts and len(arrays) == 1:
        parts = {"train": next(iter(arrays.values()))}
    if "train" not in parts:
        expected = "x, or train (x_train) and optionally validation and test; labels y, or y_train and so on"
        raise DataError(
            "these arrays have unknown names", given=f"{path}: {sorted(arrays)}", expected=expected
        )
    for key, array in parts.items():
        _check_array(array, f"{path} ({key})")
    scale = _common_scale(parts, path, eight_bit)
    rows = {key: ArrayRows(array, scale) for key, array in parts.items()}
    labels = {key: array for key, array in _chosen(arrays, LABEL_KEYS).items() if key in parts}
    return Source(name, rows, labels, ordered="test" in parts)


def _load(path: Path) -> dict[str, Array]:
    try:
        loaded = np.load(path, mmap_mode="r" if path.suffix.lower() == ".npy" else None, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"x": loaded}
        with loaded:
            wanted = {key for keys in (*KEYS.values(), *LABEL_KEYS.values()) for key in keys}
            known = [key for key in loaded.files if key in wanted]
            return {key: loaded[key] for key in known or loaded.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        if "pickle" in str(error).lower() or "Python objects" in str(error):
            raise DataError(
                "this file holds pickled objects, or no array at all; pickled code is never loaded",
                given=path,
                fix="save plain arrays of numbers, of one shape for all examples, with numpy.save",
            ) from None
        raise DataError("this array file cannot be read", given=f"{path}: {error}") from None


def _chosen(arrays: Mapping[str, Array], names: Mapping[str, tuple[str, ...]]) -> dict[str, Array]:
    """The arrays that have one of the names of each part."""
    return {
        part: next(arrays[key] for key in keys if key in arrays)
        for part, keys in names.items()
        if any(key in arrays for key in keys)
    }


def _check_array(array: Array, where: str) -> None:
    if array.dtype.kind not in "buif":
        raise DataError("this array does not hold real numbers", given=f"{where}: {array.dtype}")
    if array.ndim == 0 or array.size == 0:
        raise DataError(
            "this array is empty", given=f"{where}: shape {array.shape}", expected="[N, ...], N > 0"
        )


def _chunks(array: Array) -> Iterator[Array]:
    return (array[start : start + CHUNK] for start in range(0, len(array), CHUNK))


def _common_scale(parts: Mapping[str, Array], path: Path, eight_bit: bool) -> int | None:
    """The factor from stored values to 0..255, one for all parts; None if they are not needed as uint8."""
    shapes = {laid_out(array.shape[1:])[0] for array in parts.values()}
    if len(shapes) > 1:
        raise DataError("the parts have different shapes", given=f"{path}: {sorted(shapes)}")
    low, high = _range(parts, path)
    if not eight_bit:
        return None
    fix = "set data.preprocessing to standardize, or save the examples as uint8 from 0 to 255"
    if low < 0 or high > 255:
        raise DataError(
            "these values cannot be read as 8-bit gray levels",
            given=f"{path}: from {low:g} to {high:g}",
            expected="0 to 255, or 0 to 1 in steps of 1/255",
            fix=fix,
        )
    scale = 255 if high <= 1 else 1  # 0 and 1 alone are black and white, in whatever type they come
    worst = max(_off_lattice(chunk, scale) for array in parts.values() for chunk in _chunks(array))
    # A value from 0 to 1 stored in float16 is off by up to 2⁻¹² of itself, which is 0.06 of a gray level.
    if worst > 0.1:
        raise DataError(
            "these values lie between the 256 gray levels of 8 bits",
            given=f"{path}: from {low:g} to {high:g}, up to {worst:.2g} of a level off",
            expected="whole numbers from 0 to 255, or 0 to 1 in steps of 1/255",
            fix=fix,
        )
    return scale


def _range(parts: Mapping[str, Array], path: Path) -> tuple[float, float]:
    """Least and greatest value over all parts; complains about NaN, infinity and what float32 cannot hold."""
    low, high = np.inf, -np.inf
    for key, array in parts.items():
        for number, chunk in enumerate(_chunks(array)):
            least, greatest = float(chunk.min()), float(chunk.max())
            if not (abs(least) < np.finfo(np.float32).max > abs(greatest)):  # NaN goes through min and max
                bad = ~(np.abs(chunk.astype(np.float64)) < np.finfo(np.float32).max)
                first = number * CHUNK + int(np.argwhere(bad)[0][0])
                raise DataError(
                    "the data hold NaN, infinite or too large values",
                    given=f"{path}, {key}: first in example {first}, {int(bad.sum())} in its block",
                    fix="remove or fill these values",
                )
            low, high = min(low, least), max(high, greatest)
    return low, high


def _off_lattice(chunk: Array, scale: int) -> float:
    """The greatest distance of a value from a gray level, in gray levels."""
    if chunk.dtype.kind != "f":
        return 0.0
    levels = chunk.astype(np.float32) * scale
    return float(np.abs(levels - np.rint(levels)).max())
