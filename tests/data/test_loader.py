"""A batch is a function of (seed, step, rank), and streamed batches equal resident ones."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from advae.data import BatchLoader, DataOptions, Dataset, Split, load_data
from advae.errors import ConfigError, DataError

Pixels = npt.NDArray[np.uint8]


def noise(count: int, *shape: int, seed: int = 0) -> Pixels:
    """Uniform bytes, [count, *shape]."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


@pytest.fixture
def split() -> Split:
    """103 vectors that contain their index."""
    return Split("train", torch.arange(103, dtype=torch.uint8)[:, None])


def load(source: Path, **options: object) -> Dataset:
    return load_data(DataOptions(source=str(source), **options))  # type: ignore[arg-type]


def test_batch_is_a_pure_function_of_seed_and_step(split: Split) -> None:
    first, second = BatchLoader(split, 10, seed=3), BatchLoader(split, 10, seed=3)
    expected = [first(step) for step in range(25)]
    for step in (24, 0, 7, 13, 7):  # in any order, on a new object
        assert torch.equal(second(step), expected[step])
    torch.manual_seed(99)
    assert torch.equal(second(3), expected[3])
    assert not torch.equal(BatchLoader(split, 10, seed=4)(0), expected[0])


def test_epoch_has_each_example_at_most_once_and_drops_the_incomplete_batch(split: Split) -> None:
    batches = BatchLoader(split, 10, seed=0)
    assert batches.steps_per_epoch == 10
    epochs = [torch.cat([batches(10 * e + i) for i in range(10)])[:, 0].tolist() for e in range(3)]
    assert all(len(set(epoch)) == 100 for epoch in epochs)
    assert epochs[0] != epochs[1] and set(epochs[0]) != set(epochs[1])  # another order, another remainder


def test_ranks_divide_the_batch_of_a_single_process(split: Split) -> None:
    whole = BatchLoader(split, 20, seed=1)
    ranks = [BatchLoader(split, 5, seed=1, rank=rank, world=4) for rank in range(4)]
    assert ranks[0].steps_per_epoch == whole.steps_per_epoch == 5
    for step in range(12):
        assert torch.equal(torch.cat([batches(step) for batches in ranks]), whole(step))


def test_stream_starts_at_the_given_step(split: Split) -> None:
    batches = BatchLoader(split, 10, seed=0)
    for step, batch in enumerate(islice(batches.stream(8), 15), start=8):
        assert torch.equal(batch, batches(step))


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_batches_equal_resident_ones(parquet: Callable[..., Path], workers: int) -> None:
    path = parquet("all.parquet", noise(60, 5, 7), [i % 4 for i in range(60)])
    resident, stream = load(path), load(path, storage="stream", workers=workers)
    assert stream.train.values is None and len(stream.train) == len(resident.train)
    assert torch.equal(stream.train.labels, resident.train.labels)  # type: ignore[arg-type]
    expected = BatchLoader(resident.train, 8, seed=5)
    batches = BatchLoader(stream.train, 8, seed=5, workers=workers)
    before = torch.get_rng_state()
    streamed = batches.stream(4)
    for step in range(4, 16):  # over two ends of epochs
        batch = next(streamed)
        assert batch.dtype == torch.uint8 and torch.equal(batch, expected(step))
        assert torch.equal(batch, batches(step))
    streamed.close()  # type: ignore[attr-defined]
    assert torch.equal(torch.get_rng_state(), before)  # the loader does not advance the global generator


def test_large_npy_is_streamed_from_the_disk(tmp_path: Path) -> None:
    pixels = noise(50, 6, 6, 3)
    np.save(tmp_path / "a.npy", pixels)
    resident, stream = load(tmp_path / "a.npy"), load(tmp_path / "a.npy", storage="stream")
    assert torch.equal(resident.train.raw([3, 1]), stream.train.raw([3, 1]))
    assert torch.equal(torch.cat(list(stream.test.chunks(2))), resident.test.raw(range(5)))


def test_auto_storage_depends_on_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", noise(50, 6))
    assert load(tmp_path / "a.npy").train.resident
    monkeypatch.setattr("advae.data.splits.MAX_RESIDENT_BYTES", 50 * 6)
    assert load(tmp_path / "a.npy").train.resident
    monkeypatch.setattr("advae.data.splits.MAX_RESIDENT_BYTES", 50 * 6 - 1)
    assert not load(tmp_path / "a.npy").train.resident


def test_image_that_becomes_unreadable_while_streaming_is_named(folder: Callable[..., Path]) -> None:
    root = folder({f"{i}.png": noise(1, 8, 8)[0] for i in range(12)})
    data = load(root, storage="stream")
    for path in root.iterdir():
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match="4 of 4 images cannot be read") as caught:
        next(BatchLoader(data.train, 4, seed=0, workers=1).stream(0))
    assert "Traceback" not in str(caught.value) and "png" in str(caught.value)


def test_batch_larger_than_the_data_is_an_error(split: Split) -> None:
    assert BatchLoader(split, 103, seed=0).steps_per_epoch == 1
    with pytest.raises(DataError, match=r"train.batch_size 104, 103 train examples"):
        BatchLoader(split, 104, seed=0)
    with pytest.raises(DataError, match="at most 51"):
        BatchLoader(split, 52, seed=0, world=2)
    with pytest.raises(ConfigError, match="1 or more"):
        BatchLoader(split, 0, seed=0)


def test_split_moves_to_a_device(split: Split) -> None:
    labeled = Split("train", split.values, torch.arange(103))
    moved = labeled.to("meta")
    assert moved.values is not None and moved.values.device.type == "meta"
    assert moved.labels is not None and moved.labels.device.type == "meta"
    assert labeled.values is not None and labeled.values.device.type == "cpu"  # the original is unchanged


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_on_a_gpu_are_those_of_the_cpu(split: Split, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", noise(50, 6))
    stream = load(tmp_path / "a.npy", storage="stream").train
    for source in (split, stream):
        cpu, gpu = (BatchLoader(source, 10, seed=2, device=device) for device in ("cpu", "cuda"))
        for step, batch in enumerate(islice(gpu.stream(0), 12)):
            assert batch.device.type == "cuda" and torch.equal(batch.cpu(), cpu(step))
