"""Examples in numpy arrays: layout, value range and storage type.

The layout follows from the number of axes: ``[N, n]`` vectors, ``[N, H, W]`` gray images, ``[N, C, H, W]`` or
``[N, H, W, C]`` images (channels last if the last axis has at most 4 entries and the second more than 4). Other
shapes are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from advae.data.dataset import CHUNK_SIZE, IndexedExamples, Indices, ReadErrors, chunk_ranges
from advae.errors import DataError

Array = npt.NDArray[Any]
MAX_CHANNELS = 4
MAX_OFFSET = (
    0.1  # gray levels. A value in [0, 1] stored as float16 is off by up to 2⁻¹² of itself, or 0.06 levels.
)


class ArrayExamples(IndexedExamples):
    """Examples of an array in memory or memory-mapped, converted as they are read.

    Args:
        array: ``[N, ...]``.
        scale: factor to 0..255 for storage as uint8. With None, uint8 is kept and all other types become float32.
    """

    def __init__(self, array: Array, scale: int | None) -> None:
        self.array, self.scale = array, scale
        self.shape, self.channels_last = example_layout(array.shape[1:])
        self.dtype = torch.float32 if scale is None and array.dtype != np.uint8 else torch.uint8

    def __len__(self) -> int:
        return len(self.array)

    def read(self, indices: Indices, errors: ReadErrors | None = None) -> Array:
        values = self.array[indices]
        if self.channels_last:
            values = np.moveaxis(values, -1, 1)
        return np.ascontiguousarray(self._convert(values).reshape(len(values), *self.shape))

    def _convert(self, values: Array) -> Array:
        if self.dtype == torch.float32:
            return values.astype(np.float32)
        if self.scale is None or (self.scale == 1 and values.dtype == np.uint8):
            return values
        return np.rint(values.astype(np.float32) * self.scale).astype(np.uint8)


def example_layout(shape: tuple[int, ...]) -> tuple[tuple[int, ...], bool]:
    """Return the shape of an example with channels first, and whether they are stored last.

    >>> example_layout((28, 28)), example_layout((32, 32, 3)), example_layout((5,))
    (((1, 28, 28), False), ((3, 32, 32), True), ((5,), False))
    """
    if len(shape) == 0:
        return (1,), False
    if len(shape) == 2:
        return (1, *shape), False
    if len(shape) == 3 and shape[-1] <= MAX_CHANNELS < shape[0]:
        return (shape[-1], *shape[:-1]), True
    return shape, False


def array_examples(
    arrays: Mapping[str, Array], origin: object, eight_bit: bool
) -> dict[str, IndexedExamples]:
    """Return the examples of each part, all scaled by the same factor.

    Args:
        arrays: ``[N, ...]`` for each part.
        origin: for messages: where the arrays come from.
        eight_bit: whether values must be stored as uint8.

    Raises:
        DataError: if the arrays are empty, not numeric, of different shapes, not finite, or, with ``eight_bit``,
            not gray levels.
    """
    for part, array in arrays.items():
        if array.dtype.kind not in "buif":
            raise DataError(
                "The array does not contain real numbers.", given=f"{origin} ({part}): {array.dtype}"
            )
        if array.ndim == 0 or array.size == 0:
            shape = f"{origin} ({part}): shape {array.shape}"
            raise DataError("The array is empty.", given=shape, expected="[N, ...], N > 0")
    shapes = {example_layout(array.shape[1:])[0] for array in arrays.values()}
    if len(shapes) > 1:
        raise DataError("The parts have different shapes.", given=f"{origin}: {sorted(shapes)}")
    low, high = _value_range(arrays, origin)
    scale = _scale_to_255(arrays, low, high, origin) if eight_bit else None
    return {part: ArrayExamples(array, scale) for part, array in arrays.items()}


def _scale_to_255(arrays: Mapping[str, Array], low: float, high: float, origin: object) -> int:
    """Return 255 for values in [0, 1], else 1. Zeros and ones alone are black and white, whatever their type."""
    fix = "set data.preprocessing to standardize, or save the examples as uint8 from 0 to 255"
    if low < 0 or high > 255:
        raise DataError(
            "The values are not 8-bit gray levels.",
            given=f"{origin}: from {low:g} to {high:g}",
            expected="0 to 255, or 0 to 1 in steps of 1/255",
            fix=fix,
        )
    scale = 255 if high <= 1 else 1
    offset = max(_max_offset(chunk, scale) for array in arrays.values() for chunk in _chunks(array))
    if offset > MAX_OFFSET:
        raise DataError(
            "The values are between the 256 gray levels of 8 bits.",
            given=f"{origin}: from {low:g} to {high:g}, up to {offset:.2g} levels off",
            expected="whole numbers from 0 to 255, or 0 to 1 in steps of 1/255",
            fix=fix,
        )
    return scale


def _value_range(arrays: Mapping[str, Array], origin: object) -> tuple[float, float]:
    """Return the smallest and largest value; raise DataError for NaN, infinity and float32 overflow."""
    low, high, limit = np.inf, -np.inf, np.finfo(np.float32).max
    for part, array in arrays.items():
        for number, chunk in enumerate(_chunks(array)):
            chunk_low, chunk_high = float(chunk.min()), float(chunk.max())
            if not (abs(chunk_low) < limit > abs(chunk_high)):  # NaN propagates through min and max
                bad = ~(np.abs(chunk.astype(np.float64)) < limit)
                first = number * CHUNK_SIZE + int(np.argwhere(bad)[0][0])
                raise DataError(
                    "The data contain NaN, infinite or too large values.",
                    given=f"{origin}, {part}: first in example {first}; {int(bad.sum())} among {len(chunk)} examples",
                    fix="remove or fill these values",
                )
            low, high = min(low, chunk_low), max(high, chunk_high)
    return low, high


def _max_offset(chunk: Array, scale: int) -> float:
    """Return the largest distance of a value from a gray level, in gray levels."""
    if chunk.dtype.kind != "f":
        return 0.0
    levels = chunk.astype(np.float32) * scale
    return float(np.abs(levels - np.rint(levels)).max())


def _chunks(array: Array) -> Iterator[Array]:
    return (array[chunk.start : chunk.stop] for chunk in chunk_ranges(len(array)))
