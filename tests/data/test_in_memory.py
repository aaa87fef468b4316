"""Data in memory give the data set that the same values in a file give; others are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pyarrow as pa  # type: ignore[import-untyped]
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_wine
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset, Subset, TensorDataset

from advae.data import DataOptions, from_arrays, load_data
from advae.errors import DataError

VALUES = np.random.default_rng(0).normal(100, 30, (40, 3)).astype(np.float32)
LABELS = np.arange(40) % 3
LEVELS = np.random.default_rng(1).integers(0, 256, (40, 8, 7, 3), dtype=np.uint8)
FRAME = pd.DataFrame(VALUES, columns=["a", "b", "c"])


class Pairs(TorchDataset[Any]):
    """Images of PIL with labels."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return Image.fromarray(LEVELS[index]), int(LABELS[index])


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(torch.from_numpy(VALUES))


def checksum(tmp_path: Path, **arrays: Any) -> str:
    np.savez(tmp_path / "a.npz", **arrays)
    return load_data(DataOptions(source=str(tmp_path / "a.npz"), preprocessing="auto")).checksum


def test_vectors_of_every_kind(tmp_path: Path) -> None:
    x = torch.from_numpy(VALUES)
    same = [VALUES, x, x.double(), VALUES.tolist(), FRAME, pa.table(FRAME), TensorDataset(x), {"train": x}]
    data = [from_arrays(value) for value in same]
    assert {d.checksum for d in data} == {checksum(tmp_path, x=VALUES)}
    assert {d.preprocessing.name for d in data} == {"standardize"}
    assert data[4].column_names == data[5].column_names == ("a", "b", "c") and data[0].column_names is None


def test_labels(tmp_path: Path) -> None:
    x, y = torch.from_numpy(VALUES), torch.from_numpy(LABELS)
    frame = FRAME.assign(species=pd.Categorical.from_codes(LABELS, ["u", "v", "w"]))
    same = [(VALUES, LABELS), (x, y), (x, LABELS.tolist()), (FRAME, y), TensorDataset(x, y), frame]
    same += [{"x": VALUES, "y": LABELS}, {"train": (x, y)}]
    assert {from_arrays(value).checksum for value in same} == {checksum(tmp_path, x=VALUES, y=LABELS)}
    assert from_arrays(frame).class_names == ("u", "v", "w")
    assert from_arrays(load_wine()).classes == 3  # a dict of data, target and others


def test_images(tmp_path: Path) -> None:
    channels_first = torch.from_numpy(LEVELS).permute(0, 3, 1, 2)
    same = [LEVELS, channels_first, channels_first / 255, [Image.fromarray(image) for image in LEVELS]]
    data = [from_arrays(value) for value in same]
    assert {d.checksum for d in data} == {checksum(tmp_path, x=LEVELS)}
    assert {(d.x_shape, d.preprocessing.name) for d in data} == {((3, 8, 7), "dequantize")}
    assert from_arrays(Pairs()).classes == 3 and len(from_arrays(Subset(Pairs(), range(30))).train) == 24
    assert from_arrays(LEVELS[..., 0]).x_shape == (1, 8, 7)
    assert from_arrays(VALUES.reshape(40, 3, 1)).preprocessing.name == "standardize"


def test_splits(tmp_path: Path) -> None:
    test = VALUES[:6] + 1
    expected = checksum(tmp_path, x_train=VALUES, x_test=test)
    for data in ({"train": VALUES, "test": test}, {"x_train": VALUES, "x_test": test}, (VALUES, None, test)):
        assert from_arrays(data).checksum == expected
    data = from_arrays((VALUES, VALUES[:4], test))
    assert [len(split) for split in data.splits] == [40, 4, 6]
    assert len(from_arrays(VALUES, DataOptions(preprocessing="standardize", test=10)).test) == 10


def test_a_data_set_is_returned_and_shown_in_one_line() -> None:
    data = from_arrays(VALUES, name="faces")
    assert from_arrays(data) is data
    text = repr(data)
    assert (
        "\n" not in text and len(text) < 100 and all(part in text for part in ("faces", "32", "standardize"))
    )


@pytest.mark.parametrize(
    "data",
    [
        np.array([[1, 2], [3]], dtype=object),
        [[1, 2], [3]],
        VALUES * 1j,
        VALUES[:0],
        np.where(VALUES > 120, np.nan, VALUES),
        torch.eye(40).to_sparse(),
        3.0,
        None,
        "faces",
        iter(VALUES),
        (VALUES, LABELS, VALUES, LABELS),
        (VALUES, LABELS[:5]),
        (VALUES, [[1], [2, 3]] * 20),
        {"a": VALUES},
        {"test": VALUES},
        {"train": VALUES, "test": FRAME},
        {"train": VALUES, "test": VALUES[:, :2]},
        {"x": VALUES, "train": VALUES},
        pd.DataFrame(VALUES, columns=["a", "a", "b"]),
        pd.DataFrame({"a": [1, "u"] * 20}),
        FRAME.assign(a=np.nan, b=[None, *VALUES[1:, 1]]),
        Stream(),
        Subset(Pairs(), []),
        VALUES[:2],
    ],
    ids=lambda data: type(data).__name__,
)
def test_other_data_are_refused(data: Any) -> None:
    with pytest.raises(DataError):
        from_arrays(data)
