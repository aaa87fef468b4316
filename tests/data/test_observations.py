"""Raw examples of any kind become observations of a model by its own preprocessing; others are refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
import torch

from advae.data import as_observations
from advae.errors import DataError

TABLE = {"name": "standardize", "mean": [10.0, 2000.0], "std": [2.0, 100.0], "gray": None}
IMAGES = {"name": "dequantize"}


def model(shape: tuple[int, ...], preprocessing: dict[str, Any] | None, **data: Any) -> Any:
    info = {} if preprocessing is None else {"data": {"preprocessing": preprocessing, **data}}
    return SimpleNamespace(x_shape=shape, info=info)


def test_data_frames_are_matched_by_name_and_standardized() -> None:
    table = model((2,), TABLE, columns=["a", "b"])
    frame = pd.DataFrame({"b": [2100, 1900], "name": ["u", "v"], "a": [10.0, 14.0]})
    expected = torch.tensor([[0.0, 1.0], [2.0, -1.0]])
    assert torch.equal(as_observations(frame, table), expected)
    assert torch.equal(as_observations(frame[["a", "b"]].to_numpy(), table), expected)
    assert torch.equal(as_observations([10.0, 2100.0], table), expected[:1])
    with pytest.raises(DataError, match="b"):
        as_observations(frame.drop(columns="b"), table)
    with pytest.raises(DataError, match="missing values"):
        as_observations(frame.replace({14.0: np.nan}), table)


def test_float_tensors_pass_and_raw_ones_are_refused() -> None:
    table = model((2,), TABLE)
    x = torch.tensor([[0.5, -3.0], [0.0, 1.0]])
    assert torch.equal(as_observations(x, table), x)
    with pytest.raises(DataError, match="raw"):
        as_observations(torch.tensor([[10.0, 2100.0], [12.0, 1900.0]]), table)
    assert torch.equal(as_observations(x, model((2,), None)), x)  # without a record of the preprocessing
    with pytest.raises(DataError, match="preprocessing"):
        as_observations(x.numpy(), model((2,), None))


@pytest.mark.parametrize("shape", [(1, 6, 5), (3, 6, 5)])
def test_images_of_every_layout(shape: tuple[int, ...]) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (4, *shape), dtype=np.uint8)
    images = model(shape, IMAGES)
    x = as_observations(levels, images)
    assert x.shape == levels.shape and np.array_equal(np.floor(256 * x.numpy()), levels)
    same = [np.moveaxis(levels, 1, -1), torch.from_numpy(levels), levels.astype(np.int64), list(levels)]
    same += [levels[:, 0]] if shape[0] == 1 else []
    assert all(torch.equal(as_observations(other, images), x) for other in same)
    assert as_observations(np.moveaxis(levels[0], 0, -1), images).shape == (1, *shape)
    assert torch.equal(as_observations(x, images), x) and torch.equal(as_observations(x.numpy(), images), x)


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((2, 7, 5), np.uint8),
        np.zeros((0, 6, 5), np.uint8),
        np.full((2, 6, 5), 300),
        np.full((2, 6, 5), 200.0),
        torch.full((2, 1, 6, 5), 200.0),
        np.full((2, 6, 5), np.nan),
        torch.full((2, 1, 6, 5), torch.nan),
        np.full((2, 6, 5), 1j),
        np.full((2, 6, 5), None),
        [[1, 2], [3]],
        "images.npy",
        None,
    ],
)
def test_other_values_are_refused(x: Any) -> None:
    with pytest.raises(DataError):
        as_observations(x, model((1, 6, 5), IMAGES))


def test_binary_models_take_gray_levels_or_bits() -> None:
    images = model((1, 2, 2), {"name": "binarize-static", "seed": 3})
    levels = np.array([[[0, 255], [255, 0]]], np.uint8)
    assert as_observations(levels, images).flatten().tolist() == [0, 1, 1, 0]
    assert as_observations(levels > 0, images).flatten().tolist() == [0, 1, 1, 0]
    with pytest.raises(DataError, match="binary"):
        as_observations(np.full((1, 2, 2), 0.3), images)
