"""From an opened source to three splits: cut by a seed, held or streamed, and a checksum of them."""

from __future__ import annotations

import hashlib
import math
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from advae.data.dataset import CHUNK, Indices, Problems, Rows, Source, Split, Subset
from advae.errors import ConfigError, DataError
from advae.random import mix_seeds

LARGE = (
    50_000  # training examples from which on validation is a count: the size of CIFAR-10, MNIST has 60,000
)
LARGE_VALIDATION = 10_000  # the usual validation set of MNIST
SHARE = 0.1
RESIDENT_BYTES = 2 * 2**30  # leaves room beside the networks on an 8 GB device
SAMPLED = 4096  # streamed examples that go into a checksum


def cut(
    source: Source,
    labels: Mapping[str, Tensor],
    *,
    validation: float | None = None,
    test: float | None = None,
    seed: int = 0,
    limit: int | None = None,
) -> list[Split]:
    """Train, validation and test, none of them read yet.

    The source's own splits are kept. What is missing is cut from the end of train: after a shuffle, unless
    the source has an order of its own and a test split.

    Args:
        labels: class ids of each part that has them, int64 [N].

    Raises:
        ConfigError: a share or count that is none.
        DataError: too few examples for three splits.
    """
    if limit is not None and limit < 1:
        raise ConfigError("data.limit must be 1 or more", given=limit)
    total = len(source.parts["train"])
    as_given = source.ordered and "test" in source.parts and not by_class(labels.get("train"))
    order = torch.arange(total) if as_given else shuffled(total, mix_seeds(seed, 0))
    cuts: dict[str, Split] = {}
    for ordinal, (name, wanted) in enumerate((("test", test), ("validation", validation)), start=1):
        if name in source.parts:
            kept = _own_order(len(source.parts[name]), name, wanted, source.ordered, mix_seeds(seed, ordinal))
            cuts[name] = _split(name, source.parts[name], labels.get(name), kept)
            continue
        if wanted is None:
            wanted = LARGE_VALIDATION if name == "validation" and len(order) >= LARGE else SHARE
        count = counted(wanted, len(order), name)
        if count == len(order):
            _too_few(total, f"{count} for {name}")
        order, last = order[:-count], order[-count:]
        cuts[name] = _split(name, source.parts["train"], labels.get("train"), last)
    train = _split("train", source.parts["train"], labels.get("train"), order[:limit])
    return [train, cuts["validation"], cuts["test"]]


def counted(wanted: float, total: int, name: str) -> int:
    """A share in (0, 1) or a count of ``total``, at least 1.

    >>> counted(0.1, 1797, "test"), counted(500, 1797, "test")
    (180, 500)
    """
    if not (0 < wanted < 1 or (wanted >= 1 and math.isfinite(wanted) and wanted == int(wanted))):
        raise ConfigError(
            f"data.{name} is neither a share nor a count",
            given=wanted,
            expected="a share in (0, 1), or a count",
        )
    count = max(1, round(wanted * total)) if wanted < 1 else int(wanted)
    if count > total:
        _too_few(total, f"{count} for {name}")
    return count


def _too_few(total: int, wanted: str) -> None:
    raise DataError(
        "there are too few examples for train, validation and test",
        given=f"{total} examples, {wanted}",
        fix="give more data, or set data.validation and data.test to smaller counts",
    )


def _own_order(total: int, name: str, wanted: float | None, ordered: bool, seed: int) -> Tensor:
    """All of the source's own split, or the first of it; of an unordered one, which may go by class, any."""
    if total == 0:
        raise DataError("the data are empty", given=f"no {name} example")
    count = total if wanted is None else counted(wanted, total, name)
    order = torch.arange(total) if ordered or count == total else shuffled(total, seed)
    return order[:count]


def _split(name: str, rows: Rows, labels: Tensor | None, order: Tensor) -> Split:
    return Split(name, None, None if labels is None else labels[order], Subset(rows, order.numpy()))


def shuffled(total: int, seed: int) -> Tensor:
    """A permutation of 0..total-1 that depends on the seed alone, int64 [total]."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))


def by_class(labels: Tensor | None) -> bool:
    """Whether the examples come class by class, so that their last tenth would be its last classes."""
    return labels is not None and bool((labels.diff() >= 0).all()) and bool(labels[0] != labels[-1])


def bytes_of(splits: list[Split]) -> int:
    """What the splits take when resident, in bytes."""
    return sum(len(split) * math.prod(split.shape) * split.dtype.itemsize for split in splits)


def loaded(splits: list[Split]) -> list[Split]:
    """The splits resident on the CPU, read once.

    Raises:
        DataError: images that cannot be read, or of different sizes, over all splits.
    """
    problems, total = Problems(), sum(len(split) for split in splits)
    with Progress("reading data", total) as progress:
        held = [_load(split, problems, progress) for split in splits]
    problems.report(total)
    return held


def _load(split: Split, problems: Problems, progress: Progress) -> Split:
    rows = split.source
    assert isinstance(rows, Rows), "only streamed splits are loaded"
    values = torch.empty((len(rows), *rows.shape), dtype=rows.dtype)
    for indices in _blocks(len(rows)):
        values[indices[0] : indices[-1] + 1] = torch.from_numpy(rows.read(indices, problems))
        progress.advance(len(indices))
    return Split(split.name, values, split.labels)


def scanned(splits: list[Split]) -> list[Split]:
    """The same splits, after a look at every header; what only decoding shows stops the run when it is met.

    Raises:
        DataError: files that are no images, or of different sizes.
    """
    problems, total = Problems(), sum(len(split) for split in splits)
    with Progress("checking data", total) as progress:
        for split in splits:
            assert isinstance(split.source, Rows), "only streamed splits are scanned"
            for indices in _blocks(len(split)):
                split.source.scan(indices, problems)
                progress.advance(len(indices))
    problems.report(total)
    return splits


def _blocks(total: int) -> list[Indices]:
    return [np.arange(start, min(start + CHUNK, total)) for start in range(0, total, CHUNK)]


def checksum(splits: list[Split]) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of shapes, values and labels; of streams, of a sample."""
    digest = hashlib.sha256()
    for split in splits:
        digest.update(f"{split.name} {len(split)} {split.shape} {split.dtype}".encode())
        for chunk in split.chunks() if split.resident else _sampled(split):
            digest.update(chunk.contiguous().numpy().data)
        if split.labels is not None:
            digest.update(split.labels.contiguous().numpy().data)
    short = digest.hexdigest()[:16]
    return short if all(split.resident for split in splits) else f"sampled-{short}"


def _sampled(split: Split) -> Iterator[Tensor]:
    """Examples here and there, CHUNK at a time."""
    places = _spaced(len(split))
    return (split.raw(places[start : start + CHUNK]) for start in range(0, len(places), CHUNK))


def _spaced(total: int) -> list[int]:
    return list(range(0, total, max(1, total // SAMPLED)))


class Progress:
    """A line that shows how far a long reading is: only on a terminal, and only after two seconds."""

    PATIENCE = 2.0  # seconds without a line

    def __init__(self, label: str, total: int) -> None:
        self.label, self.total, self.done, self.started = label, total, 0, time.monotonic()
        self.bar: Any = None

    def advance(self, count: int) -> None:
        """Note that ``count`` more examples were read."""
        self.done += count
        if self.bar is None and sys.stderr.isatty() and time.monotonic() - self.started > self.PATIENCE:
            from rich.console import Console
            from rich.progress import Progress as Bar

            self.bar = Bar(console=Console(stderr=True), transient=True)
            self.bar.start()
            self.bar.add_task(self.label, total=self.total)
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=self.done)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()
