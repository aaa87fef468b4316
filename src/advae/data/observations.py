"""Observations of a trained model from arrays, tensors and data frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from advae.data.arrays import MAX_CHANNELS, Array, as_array
from advae.data.data_options import DataOptions
from advae.data.dataset import Preprocessing
from advae.data.preprocessing import Standardize, preprocessing_from_dict
from advae.data.table_columns import NO_LABEL, as_table, is_table, table_arrays
from advae.errors import DataError

MAX_MEAN_SQUARE = 16.0  # of standardized values, whose mean square is 1 in the training data


class TrainedModel(Protocol):
    """What is used of a model: the shape of its observations, and its ``info``."""

    x_shape: tuple[int, ...]
    info: dict[str, Any]


@torch.inference_mode(False)
def as_observations(x: Any, model: TrainedModel, seed: int = 0) -> Tensor:
    """Return observations of a model, float32 ``[B, *x_shape]`` on the CPU (tensors: on their device).

    - A tensor of floats is an observation already, as ``data.preprocessing.apply`` and ``model.sample`` return it: it
      passes unchanged.
    - Everything else is raw, as it would stand in a file, and gets the model's own preprocessing: data frames, whose
      columns are matched by name; numpy arrays and lists; tensors of integers. Standardized data may have any values.
      Images are 8-bit (integers from 0 to 255). Floats are also accepted where they are in the range of observations,
      [0, 1], and then pass unchanged.

    A single example has no batch axis, and gives B = 1. Images may be ``[N, H, W]`` (gray), ``[N, C, H, W]`` or
    ``[N, H, W, C]``.

    Args:
        x: examples.
        model: of which ``x_shape`` and the preprocessing in ``info["data"]`` are used.
        seed: of the preprocessing's noise.

    Raises:
        DataError: if ``x`` has another shape or columns, is empty, or contains values that are not finite or out of
            range; if the model does not record its preprocessing and ``x`` is raw.
    """
    description: Mapping[str, Any] = model.info.get("data") or {}
    shape = tuple(model.x_shape)
    preprocessing = (
        preprocessing_from_dict(dict(description["preprocessing"]))
        if description.get("preprocessing")
        else None
    )
    if isinstance(x, Tensor) and x.is_floating_point():
        x = _with_batch_axis(x, shape)
        _check_values(x, preprocessing)
        return x.to(torch.float32)
    if is_table(x):
        array = _table_values(x, description.get("columns"))
    else:
        array = as_array(x, "x")
    array = np.asarray(_with_batch_axis(array, shape))
    if not np.isfinite(array).all():
        index = int(np.argwhere(~np.isfinite(array))[0][0])
        fix = "remove or fill these values"
        raise DataError(
            "The examples contain NaN or infinite values.", given=f"first in example {index}", fix=fix
        )
    if preprocessing is None:
        raise DataError(
            "The model does not record the preprocessing of its data.",
            given=f"{type(x).__name__} of {array.dtype}",
            fix="pass preprocessed observations, as a float tensor; or set model.info['data']",
        )
    observations = _preprocess(array, preprocessing, seed)
    return observations.to(x.device) if isinstance(x, Tensor) else observations


def _preprocess(array: Array, preprocessing: Preprocessing, seed: int) -> Tensor:
    """Return observations of raw values, ``[B, *x_shape]``."""
    generator = torch.Generator().manual_seed(seed)
    is_image = array.ndim == 4
    if isinstance(preprocessing, Standardize):
        raw = torch.from_numpy(np.array(array, np.float64))
        if is_image and array.dtype == np.uint8:  # gray levels, in the units of the stored examples
            raw = raw * preprocessing.step + preprocessing.low
        return preprocessing.apply(raw, generator)
    if array.dtype.kind == "f":
        observations = torch.from_numpy(np.array(array, np.float32))
        _check_values(observations, preprocessing)
        return observations
    levels = array.astype(np.uint8) * np.uint8(255 if array.dtype == np.bool_ else 1)
    if array.dtype.kind in "iu" and (levels != array).any():
        raise DataError(
            "The values are not 8-bit gray levels.",
            given=f"from {array.min()} to {array.max()}",
            expected="integers from 0 to 255, or floats in [0, 1]",
        )
    if preprocessing.name == "binarize-static":  # the training examples were binarized once, to 0 and 255
        preprocessing = preprocessing_from_dict({"name": "binarize-dynamic"})
    return preprocessing.apply(torch.from_numpy(levels), generator)


def _check_values(x: Tensor, preprocessing: Preprocessing | None) -> None:
    """Raise DataError if observations are not finite, or out of the range of the preprocessing."""
    if not torch.isfinite(x).all():
        raise DataError("The observations contain NaN or infinite values.", fix="remove or fill these values")
    if preprocessing is None:
        return
    if isinstance(preprocessing, Standardize):
        mean_square, of_raw = (float(v.double().square().mean()) for v in (x, preprocessing.apply(x.cpu())))
        if mean_square > MAX_MEAN_SQUARE and of_raw < mean_square / 4:
            raise DataError(
                "The tensor has raw values, but float tensors must be standardized as the training data were.",
                given=f"mean square {mean_square:.3g}; {of_raw:.3g} when standardized",
                fix="pass a numpy array or a data frame, which are standardized: x.numpy()",
            )
        return
    low, high = float(x.min()), float(x.max())
    if low < 0 or high > 1:
        raise DataError(
            "Floating-point observations are out of range.",
            given=f"from {low:g} to {high:g}",
            expected="numbers in [0, 1], as data.preprocessing returns them",
            fix="pass 8-bit gray levels as integers: x.astype(numpy.uint8), or x.to(torch.uint8)",
        )
    if preprocessing.support == "binary" and not ((x == 0) | (x == 1)).all():
        raise DataError(
            "Floating-point observations are not binary, as the model's data are.",
            expected="zeros and ones",
            fix="pass gray levels 0 to 255 as integers, which are binarized",
        )


def _table_values(x: Any, columns: Any) -> Array:
    """Return the columns of a data frame in the model's order, float64 ``[B, n]``."""
    options = DataOptions(label=NO_LABEL)
    names = tuple(columns) if columns else tuple(as_table(x).column_names)
    return table_arrays({"data": as_table(x)}, type(x).__name__, options, names).values["data"]


def _with_batch_axis(x: Any, shape: tuple[int, ...]) -> Any:
    """Return an array or tensor as ``[B, *shape]``, with the channels first.

    Raises:
        DataError: if it has another shape, or no example.
    """
    given = tuple(x.shape)
    # The shape of one example in x, and where its channels are.
    layouts: list[tuple[tuple[int, ...], int | None]] = [(shape, None)]
    if len(shape) == 3:
        layouts += [((*shape[1:], shape[0]), -1)] if shape[0] <= MAX_CHANNELS else []
        layouts += [(shape[1:], 0)] if shape[0] == 1 else []
    if shape == (1,):
        layouts += [((), 0)]
    for is_single in (False, True):
        for layout, channel_axis in layouts:
            if given == layout if is_single else given[1:] == layout and len(given) == len(layout) + 1:
                x = x[None] if is_single else x
                if channel_axis == -1:
                    x = x.permute(0, 3, 1, 2) if isinstance(x, Tensor) else np.moveaxis(x, -1, 1)
                if len(x) == 0:
                    raise DataError(
                        "There is no example.", given=f"shape {list(given)}", expected="at least one"
                    )
                return x.reshape(len(x), *shape)
    expected = " or ".join(f"[{', '.join(map(str, ('N', *layout)))}]" for layout, _ in layouts)
    raise DataError(
        "The examples do not have the shape of the model's observations.",
        given=f"shape {list(given)}",
        expected=expected,
    )
