"""Examples in numpy arrays: layout, value range and storage type.

``data.layout`` names the axes. ``auto``: ``[N, n]`` are vectors, ``[N, H, W]`` gray images. ``[N, a, b, c]`` are images
with the channels last (``NHWC``) if c is at most 4, and a is more than 4 and b ≠ c, or a = b ≠ c; otherwise with the
channels first (``NCHW``). Other shapes are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from advae.data.data_options import DataOptions
from advae.data.dataset import CHUNK_SIZE, IndexedExamples, Indices, ReadErrors, chunk_ranges
from advae.errors import DataError, first_line

Array = npt.NDArray[Any]
MAX_CHANNELS = 4
NUM_AXES = {"NHW": 3, "NCHW": 4, "NHWC": 4}  # of the array, by layout
# Gray levels. A value in [0, 1] stored as float16 is off by up to 2⁻¹² of itself, or 0.06 levels.
MAX_OFFSET = 0.1
FLOAT32_ROUNDING = 2.0**-24  # relative
MIN_STEPS_IN_RANGE = 2**16  # of float32 between the smallest and the largest value of a feature
FLOAT64_NOISE = 1e-14  # relative range of a feature that is constant up to rounding


class ArrayExamples(IndexedExamples):
    """Examples of an array in memory or memory-mapped, converted as they are read.

    Args:
        array: ``[N, ...]``.
        scale: factor to 0..255 for storage as uint8. With None, uint8 is kept and all other types become ``real``.
        layout: as ``data.layout``.
        real: float32 or float64.
    """

    def __init__(
        self, array: Array, scale: float | None, layout: str = "auto", real: torch.dtype = torch.float32
    ) -> None:
        self.array, self.scale = array, scale
        self.shape, self.layout = example_layout(array.shape[1:], layout)
        self.dtype = real if scale is None and array.dtype != np.uint8 else torch.uint8
        self.reading = {"layout": self.layout} if self.layout in NUM_AXES else {}
        self.reading |= {} if scale is None else {"white_level": 255 / scale}
        if layout == "auto" and is_ambiguous(array.shape[1:]):
            axes = ", ".join(map(str, array.shape[1:]))
            self.remarks = (f"Arrays of shape [N, {axes}] are read as {self.layout} (data.layout).",)

    def __len__(self) -> int:
        return len(self.array)

    def read(self, indices: Indices, errors: ReadErrors | None = None) -> Array:
        values = self.array[indices]
        if self.layout == "NHWC":
            values = np.moveaxis(values, -1, 1)
        return np.ascontiguousarray(self._convert(values).reshape(len(values), *self.shape))

    def _convert(self, values: Array) -> Array:
        if self.dtype.is_floating_point:
            return values.astype(np.float32 if self.dtype == torch.float32 else np.float64)
        if self.scale is None or (self.scale == 1 and values.dtype == np.uint8):
            return values
        return np.rint(values.astype(np.float32) * self.scale).astype(np.uint8)


def as_array(value: Any, name: str = "data") -> Array:
    """Return an array, tensor, list of numbers or list of images as a numpy array of real numbers.

    Raises:
        DataError: if it is not one, with ``name`` in the message; if it is ragged, sparse or complex.
    """
    if isinstance(value, torch.Tensor):
        if value.is_sparse or value.is_complex() or value.is_quantized:
            kind = value.dtype if value.layout == torch.strided else value.layout
            raise DataError("The tensor does not contain dense real numbers.", given=f"{name}: {kind}")
        value = value.detach().cpu()
        return np.asarray((value.float() if value.dtype == torch.bfloat16 else value).numpy())
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        array, reason = np.empty(0, object), first_line(error)
    else:
        reason = f"dtype {array.dtype}"
    if array.dtype.kind not in "buif":
        raise DataError(
            "The array does not contain real numbers.",
            given=f"{name}: {type(value).__name__}, {reason}",
            expected="numbers of one type, and one shape for all examples",
            fix="convert it: numpy.stack(list), or array.astype(numpy.float32)",
        )
    return array


def example_layout(shape: tuple[int, ...], layout: str = "auto") -> tuple[tuple[int, ...], str]:
    """Return the shape of an example, with channels first, and the layout in which it is stored.

    Raises:
        DataError: if the layout has another number of axes.

    >>> example_layout((28, 28)), example_layout((32, 32, 3)), example_layout((10, 2, 2)), example_layout((5,))
    (((1, 28, 28), 'NHW'), ((3, 32, 32), 'NHWC'), ((10, 2, 2), 'NCHW'), ((5,), 'as-stored'))
    """
    if layout == "auto":
        layout = {2: "NHW", 3: "NCHW"}.get(len(shape), "as-stored")
        if len(shape) == 3 and shape[-1] <= MAX_CHANNELS:
            a, b, c = shape
            is_last = a == b != c if a <= MAX_CHANNELS else b != c
            layout = "NHWC" if is_last else "NCHW"
    elif len(shape) + 1 != NUM_AXES.get(layout, len(shape) + 1):
        raise DataError(
            "data.layout does not fit the array.",
            given=f"data.layout {layout}, shape [N, {', '.join(map(str, shape))}]",
            expected=f"{NUM_AXES[layout]} axes",
        )
    if layout == "NHW":
        return (1, *shape), layout
    if layout == "NHWC":
        return (shape[-1], *shape[:-1]), layout
    return shape or (1,), layout


def is_ambiguous(shape: tuple[int, ...]) -> bool:
    """Return whether the layout of examples with three axes is a guess: the channels may be first or last."""
    is_short = [size <= MAX_CHANNELS for size in shape]
    return len(shape) == 3 and is_short[2] and (is_short[0] or shape[1] == shape[2])


def array_examples(
    arrays: Mapping[str, Array], origin: object, eight_bit: bool, options: DataOptions | None = None
) -> dict[str, IndexedExamples]:
    """Return the examples of each part, all scaled by the same factor.

    Real values are stored as float32, or as float64 where float32 would resolve the range of a feature badly.

    Args:
        arrays: ``[N, ...]`` for each part.
        origin: for messages: where the arrays come from.
        eight_bit: whether values must be stored as uint8.
        options: of which layout and white_level are used.

    Raises:
        DataError: if the arrays are empty, not numeric, of different shapes, not finite, or, with ``eight_bit``,
            not gray levels.
    """
    layout, white = ("auto", None) if options is None else (options.layout, options.white_level)
    for part, array in arrays.items():
        if array.dtype.kind not in "buif":
            raise DataError(
                "The array does not contain real numbers.", given=f"{origin} ({part}): {array.dtype}"
            )
        if array.ndim == 0 or array.size == 0:
            shape = f"{origin} ({part}): shape {array.shape}"
            raise DataError("The array is empty.", given=shape, expected="[N, ...], N > 0")
    shapes = {example_layout(array.shape[1:], layout)[0] for array in arrays.values()}
    if len(shapes) > 1:
        raise DataError("The parts have different shapes.", given=f"{origin}: {sorted(shapes)}")
    low, high = _value_range(arrays, origin)
    scale = _scale_to_255(arrays, float(low.min()), float(high.max()), white, origin) if eight_bit else None
    real = torch.float64 if _exceeds_float32(low, high) else torch.float32
    return {part: ArrayExamples(array, scale, layout, real) for part, array in arrays.items()}


def _scale_to_255(
    arrays: Mapping[str, Array], low: float, high: float, white: float | None, origin: object
) -> float:
    """Return 255 / white: 255 for values in [0, 1], else 1, unless the white level is given.

    Zeros and ones alone are black and white, whatever their type.
    """
    scale = 255 / (white or (1 if high <= 1 else 255))
    chunks = (
        [] if low < 0 or white not in (None, 1, 255) else (c for a in arrays.values() for c in _chunks(a))
    )
    offset = max((_max_offset(chunk, scale) for chunk in chunks), default=0.0)
    if low < 0 or high * scale > 255 or offset > MAX_OFFSET:
        between = f", up to {offset:.2g} levels between two gray levels" if offset > MAX_OFFSET else ""
        raise DataError(
            "The values are not 8-bit gray levels.",
            given=f"{origin}: from {low:g} to {high:g}{between}",
            expected=f"0 to {white:g} (data.white_level)"
            if white
            else "0 to 255, or 0 to 1 in steps of 1/255",
            fix="set data.preprocessing to standardize, or save the examples as uint8 from 0 to 255",
        )
    return scale


def _value_range(arrays: Mapping[str, Array], origin: object) -> tuple[Array, Array]:
    """Return the smallest and largest value, per feature of vectors; raise DataError if not finite in float32."""
    lowest, highest, limit = np.array(np.inf), np.array(-np.inf), np.finfo(np.float32).max
    for part, array in arrays.items():
        axis = 0 if array.ndim == 2 else None
        for number, chunk in enumerate(_chunks(array)):
            low, high = (np.asarray(value, np.float64) for value in (chunk.min(axis), chunk.max(axis)))
            if not (
                (np.abs(low) < limit) & (np.abs(high) < limit)
            ).all():  # NaN propagates through min and max
                bad = ~(np.abs(chunk.astype(np.float64)) < limit)
                first = number * CHUNK_SIZE + int(np.argwhere(bad)[0][0])
                raise DataError(
                    "The data contain NaN, infinite or too large values.",
                    given=f"{origin}, {part}: first in example {first}; {int(bad.sum())} among {len(chunk)} examples",
                    fix="remove or fill these values",
                )
            lowest, highest = np.minimum(lowest, low), np.maximum(highest, high)
    return lowest, highest


def _exceeds_float32(low: Array, high: Array) -> bool:
    """Return whether float32 has too few values between the smallest and the largest of some feature."""
    largest, extent = np.maximum(np.abs(low), np.abs(high)), high - low
    is_constant = extent <= FLOAT64_NOISE * largest
    return bool((~is_constant & (2 * FLOAT32_ROUNDING * largest * MIN_STEPS_IN_RANGE > extent)).any())


def _max_offset(chunk: Array, scale: float) -> float:
    """Return the largest distance of a value from a gray level, in gray levels."""
    if chunk.dtype.kind != "f":
        return 0.0
    levels = chunk.astype(np.float32) * scale
    return float(np.abs(levels - np.rint(levels)).max())


def _chunks(array: Array) -> Iterator[Array]:
    return (array[chunk.start : chunk.stop] for chunk in chunk_ranges(len(array)))
