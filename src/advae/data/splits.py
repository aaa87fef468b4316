"""Train, validation and test splits: cutting, reading, and checksums."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from advae.data.dataset import IndexedExamples, ReadErrors, Split, Subset, chunk_ranges, reading_progress
from advae.data.readers.base import DataSource
from advae.data.sources import check_memory
from advae.errors import ConfigError, DataError
from advae.random import mix_seeds

MIN_TRAIN_FOR_FIXED_VALIDATION = 50_000  # training examples: the size of CIFAR-10; MNIST has 60,000
FIXED_VALIDATION_SIZE = 10_000  # examples: the usual validation set of MNIST
DEFAULT_FRACTION = 0.1  # of the training examples, for a split that the source does not have
MAX_RESIDENT_BYTES = 2 * 2**30  # leaves room for the networks on an 8 GB device
NUM_CHECKSUM_EXAMPLES = 4096  # per streamed split


def make_splits(
    source: DataSource,
    labels: Mapping[str, Tensor],
    *,
    validation: float | None = None,
    test: float | None = None,
    seed: int = 0,
    limit: int | None = None,
) -> list[Split]:
    """Return the train, validation and test splits, not read yet.

    The source's own splits are kept. Others are cut from the end of train, after a shuffle unless the source is
    ordered and has a test split.

    Args:
        labels: class ids of each labeled part, int64 ``[N]``.

    Raises:
        ConfigError: if ``validation``, ``test`` or ``limit`` is not a valid size.
        DataError: if there are too few examples for three splits.
    """
    if limit is not None and limit < 1:
        raise ConfigError("data.limit must be 1 or more.", given=limit)
    total = len(source.parts["train"])
    keep_order = source.ordered and "test" in source.parts and not is_sorted_by_class(labels.get("train"))
    order = torch.arange(total) if keep_order else permutation(total, mix_seeds(seed, 0))
    splits: dict[str, Split] = {}
    for ordinal, (name, size) in enumerate((("test", test), ("validation", validation)), start=1):
        if name in source.parts:
            examples = source.parts[name]
            own = _own_split_order(len(examples), name, size, source.ordered, mix_seeds(seed, ordinal))
            splits[name] = _split(name, examples, labels.get(name), own)
            continue
        if size is None:
            is_large = name == "validation" and len(order) >= MIN_TRAIN_FOR_FIXED_VALIDATION
            size = FIXED_VALIDATION_SIZE if is_large else DEFAULT_FRACTION
        count = num_examples(size, len(order), name)
        if count == len(order):
            raise _too_few(total, f"{count} for {name}")
        order, last = order[:-count], order[-count:]
        splits[name] = _split(name, source.parts["train"], labels.get("train"), last)
    train = _split("train", source.parts["train"], labels.get("train"), order[:limit])
    return [train, splits["validation"], splits["test"]]


def num_examples(size: float, total: int, name: str) -> int:
    """Return the number of examples for a size given as a fraction in (0, 1) or a count; at least 1.

    >>> num_examples(0.1, 1797, "test"), num_examples(500, 1797, "test")
    (180, 500)
    """
    if not (0 < size < 1 or (size >= 1 and math.isfinite(size) and size == int(size))):
        expected = "a fraction in (0, 1), or a count"
        raise ConfigError(f"data.{name} is not a valid size.", given=size, expected=expected)
    count = max(1, round(size * total)) if size < 1 else int(size)
    if count > total:
        raise _too_few(total, f"{count} for {name}")
    return count


def _too_few(total: int, demand: str) -> DataError:
    return DataError(
        "There are too few examples for train, validation and test.",
        given=f"{total} examples, {demand}",
        fix="use more data, or set data.validation and data.test to smaller counts",
    )


def _own_split_order(total: int, name: str, size: float | None, ordered: bool, seed: int) -> Tensor:
    """Return the indices used of the source's own split: the first ones, or of an unordered source random ones."""
    if total == 0:
        raise DataError("The data are empty.", given=f"no {name} example")
    count = total if size is None else num_examples(size, total, name)
    order = torch.arange(total) if ordered or count == total else permutation(total, seed)
    return order[:count]


def _split(name: str, examples: IndexedExamples, labels: Tensor | None, order: Tensor) -> Split:
    return Split(name, None, None if labels is None else labels[order], Subset(examples, order.numpy()))


def permutation(total: int, seed: int) -> Tensor:
    """Return a permutation of 0..total-1 that depends only on the seed, int64 ``[total]``."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))


def is_sorted_by_class(labels: Tensor | None) -> bool:
    """Return whether examples are sorted by class, so that the last tenth would be the last classes."""
    return labels is not None and bool((labels.diff() >= 0).all()) and bool(labels[0] != labels[-1])


def fits_in_memory(splits: Iterable[Split]) -> bool:
    """Return whether the splits are small enough to be resident by default."""
    return num_resident_bytes(splits) <= MAX_RESIDENT_BYTES


def num_resident_bytes(splits: Iterable[Split]) -> int:
    """Return the memory that the splits take when resident."""
    return sum(len(split) * math.prod(split.shape) * split.dtype.itemsize for split in splits)


def read_splits(splits: list[Split]) -> list[Split]:
    """Read all examples and return resident splits on the CPU.

    Raises:
        DataError: if images cannot be read, or have different sizes, over all splits; or memory is too small.
    """
    check_memory(num_resident_bytes(splits), "examples of all splits")
    errors, total, resident = ReadErrors(), sum(len(split) for split in splits), []
    with reading_progress("reading data", total) as progress:
        for split in splits:
            examples = _examples(split)
            values = torch.empty((len(examples), *examples.shape), dtype=examples.dtype)
            for chunk in chunk_ranges(len(examples)):
                read = examples.read(np.arange(chunk.start, chunk.stop), errors)
                values[chunk.start : chunk.stop] = torch.from_numpy(read)
                progress.update(progress.step + len(chunk), {})
            resident.append(Split(split.name, values, split.labels))
    errors.raise_if_any(total)
    return resident


def scan_splits(splits: list[Split]) -> list[Split]:
    """Check the headers of all images and return the same splits. Decoding errors are raised while streaming.

    Raises:
        DataError: if files are not images, or have different sizes.
    """
    errors, total = ReadErrors(), sum(len(split) for split in splits)
    with reading_progress("checking data", total) as progress:
        for split in splits:
            for chunk in chunk_ranges(len(split)):
                _examples(split).scan(np.arange(chunk.start, chunk.stop), errors)
                progress.update(progress.step + len(chunk), {})
    errors.raise_if_any(total)
    return splits


def _examples(split: Split) -> IndexedExamples:
    assert split.examples is not None, "the split is resident already"
    return split.examples


def checksum(splits: list[Split]) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of shapes, values and labels; of streams, of some examples."""
    digest = hashlib.sha256()
    for split in splits:
        digest.update(f"{split.name} {len(split)} {split.shape} {split.dtype}".encode())
        for chunk in split.chunks() if split.resident else _spaced_chunks(split):
            digest.update(chunk.contiguous().numpy().data)
        if split.labels is not None:
            digest.update(split.labels.contiguous().numpy().data)
    short = digest.hexdigest()[:16]
    return short if all(split.resident for split in splits) else f"sampled-{short}"


def _spaced_chunks(split: Split) -> Iterable[Tensor]:
    """Yield evenly spaced examples, a chunk at a time."""
    indices = range(0, len(split), max(1, len(split) // NUM_CHECKSUM_EXAMPLES))
    return (split.raw(indices[chunk.start : chunk.stop]) for chunk in chunk_ranges(len(indices)))
