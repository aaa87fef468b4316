"""Splits are deterministic, disjoint, and have the sizes of the options."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from advae.data import DataOptions, Dataset, load_data
from advae.data.arrays import ArrayExamples
from advae.data.readers import DataSource
from advae.data.splits import FIXED_VALIDATION_SIZE, make_splits
from advae.errors import ConfigError, DataError

Pixels = npt.NDArray[np.uint8]


def noise(count: int, *shape: int, seed: int = 0) -> Pixels:
    """Uniform bytes, [count, *shape]."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    """100 vectors that contain their index."""
    np.save(tmp_path / "a.npy", np.arange(100, dtype=np.uint8)[:, None])
    return tmp_path / "a.npy"


def load(source: Path | str, **options: object) -> Dataset:
    return load_data(DataOptions(source=str(source), **options))  # type: ignore[arg-type]


def numbers(data: Dataset) -> list[list[int]]:
    return [split.raw(range(len(split)))[:, 0].tolist() for split in data.splits]


def source(train: int, *, ordered: bool = True, **others: int) -> DataSource:
    """Vectors that contain their index, in parts of these sizes."""
    parts = {"train": train, **others}
    return DataSource(
        "s", {k: ArrayExamples(np.arange(n)[:, None], None) for k, n in parts.items()}, ordered=ordered
    )


def test_splits_are_disjoint_and_complete(numbered: Path) -> None:
    train, validation, test = numbers(load(numbered))
    assert (len(train), len(validation), len(test)) == (81, 9, 10)
    assert sorted(train + validation + test) == list(range(100))
    assert train != sorted(train)  # shuffled


def test_splits_depend_on_the_split_seed_alone(numbered: Path) -> None:
    first = numbers(load(numbered))
    assert numbers(load(numbered)) == first
    torch.manual_seed(123)
    assert numbers(load(numbered, binarize_seed=5, preprocessing="gray")) == first
    assert numbers(load(numbered, split_seed=1)) != first


def test_loading_does_not_advance_the_random_state(numbered: Path) -> None:
    before = torch.get_rng_state()
    load(numbered, preprocessing="binarize-static")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("size", "count"), [(0.25, 25), (0.001, 1), (7, 7), (1, 1)])
def test_size_is_a_fraction_or_a_count(numbered: Path, size: float, count: int) -> None:
    assert len(load(numbered, test=size).test) == count


@pytest.mark.parametrize("size", [0, -1, 1.5, float("nan"), float("inf")])
def test_invalid_sizes_are_an_error(numbered: Path, size: float) -> None:
    with pytest.raises(ConfigError, match=r"data\.validation"):
        load(numbered, validation=size)


def test_sizes_larger_than_the_data_are_an_error(numbered: Path) -> None:
    for options in ({"test": 100}, {"validation": 91}, {"test": 60, "validation": 40}):
        with pytest.raises(DataError, match=r"data\.validation"):
            load(numbered, **options)


def test_limit_keeps_the_first_training_examples(numbered: Path) -> None:
    full, limited = numbers(load(numbered)), numbers(load(numbered, limit=10))
    assert limited == [full[0][:10], *full[1:]]
    with pytest.raises(ConfigError, match="limit"):
        load(numbered, limit=0)


def test_large_train_with_own_test_gives_its_last_ten_thousand() -> None:
    train, validation, test = make_splits(source(60_000, test=10_000), {})
    assert (len(train), len(validation), len(test)) == (50_000, FIXED_VALIDATION_SIZE, 10_000)
    last = validation.raw(range(len(validation)))[:, 0]
    assert last.tolist() == list(range(50_000, 60_000))
    assert train.raw([0, 49_999])[:, 0].tolist() == [0, 49_999]


def test_large_train_without_test_gives_a_tenth_and_then_ten_thousand() -> None:
    assert [len(split) for split in make_splits(source(60_000), {})] == [44_000, FIXED_VALIDATION_SIZE, 6_000]
    assert [len(split) for split in make_splits(source(50_000, test=10), {})] == [
        40_000,
        FIXED_VALIDATION_SIZE,
        10,
    ]
    assert [len(split) for split in make_splits(source(49_990, test=10), {})] == [44_991, 4_999, 10]


def test_own_splits_are_kept_and_can_be_shortened() -> None:
    train, validation, test = make_splits(source(50, validation=20, test=30), {})
    assert (len(train), len(validation), len(test)) == (50, 20, 30)
    assert train.raw(range(50))[:, 0].tolist() == list(range(50))
    shorter = make_splits(source(50, validation=20, test=30), {}, validation=5, test=0.1)
    assert [split.raw(range(len(split)))[:, 0].tolist() for split in shorter[1:]] == [
        list(range(5)),
        [0, 1, 2],
    ]


def test_train_sorted_by_class_is_shuffled_even_if_ordered() -> None:
    by_class = {"train": torch.arange(100) // 10, "test": torch.zeros(10, dtype=torch.int64)}
    validation = make_splits(source(100, test=10), by_class)[1]
    assert validation.labels is not None and len(validation.labels.unique()) > 1
    assert torch.equal(validation.labels, validation.raw(range(10))[:, 0].long() // 10)


def test_checksum_depends_on_content_and_not_on_preprocessing(tmp_path: Path) -> None:
    pixels = noise(60, 4, 4)
    np.save(tmp_path / "a.npy", pixels)
    first = load(tmp_path / "a.npy").checksum
    assert load(tmp_path / "a.npy", preprocessing="binarize-static").checksum == first
    pixels[59, 3, 3] ^= 1
    np.save(tmp_path / "b.npy", pixels)
    assert load(tmp_path / "b.npy").checksum != first
    np.save(tmp_path / "c.npy", pixels.reshape(60, 16))
    assert load(tmp_path / "c.npy").checksum not in (first, load(tmp_path / "b.npy").checksum)
    assert load(tmp_path / "a.npy", storage="stream").checksum.startswith("sampled-")


def test_describe_is_json(numbered: Path) -> None:
    import json

    described = json.loads(json.dumps(load(numbered, preprocessing="standardize").describe()))
    assert described["sizes"] == {"train": 81, "validation": 9, "test": 10} and described["shape"] == [1]
    assert described["preprocessing"]["name"] == "standardize" and described["storage"] == "resident"


@pytest.mark.parametrize(
    "options",
    [{"channels": 2}, {"image_size": 0}, {"storage": "disk"}, {"workers": -1}, {"preprocessing": "binarize"}],
)
def test_invalid_options_are_an_error(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        load("digits", **options)


def test_image_options_are_an_error_for_arrays() -> None:
    with pytest.raises(DataError, match=r"data\.image_size"):
        load("digits", image_size=16)
