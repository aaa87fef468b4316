"""Data sets: indexed examples, splits, and the base class of preprocessing."""

from __future__ import annotations

import re
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advae.errors import ConfigError, DataError
from advae.formatting import html_properties
from advae.progress import Progress

Indices = npt.NDArray[np.int64]
CHUNK_SIZE = 1024  # examples per read: few calls, and 200 MB for RGB images of 256 × 256
MAX_REPORTED_ERRORS = 5
PROGRESS_DELAY_SECONDS = 2.0

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}


def split_from_name(name: str) -> str | None:
    """Return the split that a file, folder or key is named after: ``train-00000-of-00001`` is train.

    >>> split_from_name("test"), split_from_name("val_2"), split_from_name("trainer")
    ('test', 'validation', None)
    """
    for split, words in SPLIT_NAMES.items():
        if re.match(rf"({'|'.join(words)})(?![a-z])", name.lower()):
            return split
    return None


def chunk_ranges(total: int, size: int = CHUNK_SIZE) -> list[range]:
    """Return consecutive ranges of at most ``size`` indices that cover ``range(total)``.

    >>> chunk_ranges(5, 2)
    [range(0, 2), range(2, 4), range(4, 5)]
    """
    return [range(start, min(start + size, total)) for start in range(0, total, size)]


def reading_progress(label: str, total: int) -> Progress:
    """Return a progress bar that appears on a terminal only, and only if reading takes long."""
    quiet = not sys.stderr.isatty()
    return Progress(total, quiet=quiet, label=label, transient=True, delay=PROGRESS_DELAY_SECONDS)


@dataclass
class ReadErrors:
    """Errors collected while images are read, so that one message can list and count them."""

    unreadable: list[str] = field(default_factory=list)
    sizes: Counter[str] = field(default_factory=Counter)

    def raise_if_any(self, total: int) -> None:
        """Raise a summary of the errors among ``total`` images, if there are any.

        Raises:
            DataError: if images cannot be read (up to five are listed), or have different sizes.
        """
        if self.unreadable:
            rest = len(self.unreadable) - MAX_REPORTED_ERRORS
            listed = "; ".join(self.unreadable[:MAX_REPORTED_ERRORS])
            raise DataError(
                f"{len(self.unreadable)} of {total} images cannot be read.",
                given=listed + (f"; and {rest} more" if rest > 0 else ""),
                fix="remove or replace these images",
            )
        if len(self.sizes) > 1:
            common = ", ".join(f"{size} ({count})" for size, count in self.sizes.most_common(4))
            raise DataError(
                f"The images have {len(self.sizes)} different sizes.",
                given=f"height × width (images): {common}",
                expected="one size",
                fix="set data.image_size, e.g. --data.image_size 64, to resize and crop them",
            )


class IndexedExamples(ABC):
    """Examples that are read by index. Picklable, so that workers can read them.

    ``reading`` is how they are read, as JSON: the option (``layout``, ``white_level``) and its value. ``remarks`` are
    sentences about what the user may not expect: conversions that lose information, examples left out, guesses.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    reading: Mapping[str, Any] = {}
    remarks: Sequence[str] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, indices: Indices, errors: ReadErrors | None = None) -> npt.NDArray[Any]:
        """Return the examples ``[B, *shape]``. Failures are added to ``errors``, or raised if it is None."""

    def scan(self, indices: Indices, errors: ReadErrors) -> None:
        """Check cheaply, without decoding, that examples can be read. Arrays are checked when opened."""
        return


class Subset(IndexedExamples):
    """Some of other examples, in a given order."""

    def __init__(self, examples: IndexedExamples, order: Indices) -> None:
        self.examples, self.order = examples, order
        self.shape, self.dtype = examples.shape, examples.dtype

    def __len__(self) -> int:
        return len(self.order)

    def read(self, indices: Indices, errors: ReadErrors | None = None) -> npt.NDArray[Any]:
        return self.examples.read(self.order[indices], errors)

    def scan(self, indices: Indices, errors: ReadErrors) -> None:
        self.examples.scan(self.order[indices], errors)


@dataclass(frozen=True, eq=False)
class Split:
    """Training, validation or test examples, resident in memory or streamed.

    Args:
        name: train, validation or test.
        values: resident examples, uint8, float32 or float64 ``[N, *shape]``; None if they are streamed.
        labels: class ids, int64 ``[N]``, -1 where unknown; None without labels.
        examples: where a streamed split is read from.
    """

    name: str
    values: Tensor | None
    labels: Tensor | None = None
    examples: IndexedExamples | None = None

    def __len__(self) -> int:
        return len(self.storage)

    @property
    def storage(self) -> Tensor | IndexedExamples:
        """The tensor of a resident split, the examples of a streamed one."""
        storage = self.values if self.values is not None else self.examples
        assert storage is not None, "a split has values or examples"
        return storage

    @property
    def resident(self) -> bool:
        """Whether all examples are in memory, as one tensor."""
        return self.values is not None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        storage = self.storage
        return tuple(storage.shape[1:]) if isinstance(storage, Tensor) else storage.shape

    @property
    def dtype(self) -> torch.dtype:
        """The type of stored values: uint8, float32, or float64 for values with a large offset."""
        return self.storage.dtype

    def raw(self, indices: Tensor | Sequence[int]) -> Tensor:
        """Return stored examples ``[B, *shape]``, on the device of ``values`` (streamed: CPU)."""
        indices = torch.as_tensor(indices, dtype=torch.int64)
        if self.values is not None:
            return self.values.index_select(0, indices.to(self.values.device))
        assert self.examples is not None
        return torch.from_numpy(self.examples.read(indices.cpu().numpy()))

    def chunks(self, size: int = CHUNK_SIZE) -> Iterator[Tensor]:
        """Yield all stored examples in order, ``size`` at a time; the last chunk may be smaller."""
        for chunk in chunk_ranges(len(self), size):
            yield self.raw(chunk) if self.values is None else self.values[chunk.start : chunk.stop]

    def to(self, device: str | torch.device) -> Self:
        """Return this split with its tensors on a device; of a streamed split these are the labels."""
        values, labels = (t if t is None else t.to(device) for t in (self.values, self.labels))
        return replace(self, values=values, labels=labels)


class Preprocessing(ABC):
    """A map from stored examples to observations ``x``, and from ``x`` back to gray levels.

    ``support`` is the set that contains the observations: ``binary`` {0, 1}, ``unit`` [0, 1], ``8-bit`` (bins of
    width 1/256 in [0, 1)) or ``real``. ``unit`` is the unit of :meth:`to_gray`: ``gray levels``, or ``data units``
    for examples that are not images.
    """

    name: ClassVar[str]
    support: ClassVar[str]
    eight_bit: ClassVar[bool] = True  # whether examples must be stored as uint8
    unit: str = "gray levels"

    @abstractmethod
    def apply(self, raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return observations, float32 ``[B, *shape]`` on the device of ``raw``, with new noise in each call."""

    @abstractmethod
    def to_gray(self, x: Tensor) -> Tensor:
        """Map observations or decoder means to the scale 0 to 255, not clamped, float32 (float64 at large offsets)."""

    def raw_to_gray(self, raw: Tensor) -> Tensor:
        """Map stored examples to the scale of :meth:`to_gray`, without noise, float32 ``[B, *shape]``."""
        return raw.to(torch.float32)

    def prepare_split(self, split: Split, ordinal: int) -> Split:
        """Apply what is done once, before training, to the split with number ``ordinal``; by default nothing."""
        return split

    def describe(self) -> dict[str, Any]:
        """Return the name and all parameters as JSON; :func:`preprocessing_from_dict` is the inverse."""
        return {"name": self.name, "support": self.support, "unit": self.unit}


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Three splits and their preprocessing.

    ``reading`` and ``remarks`` are as of :class:`IndexedExamples`, with those of the labels and of the source.
    ``checksum`` is a short SHA-256 of shapes, values and labels of the three splits before preprocessing. Of
    streamed data it covers evenly spaced examples, and then begins with ``sampled-``. ``column_names`` are those of
    the values of an example, if they are columns of a table.
    """

    name: str
    source: str
    x_shape: tuple[int, ...]
    train: Split
    validation: Split
    test: Split
    preprocessing: Preprocessing
    checksum: str
    classes: int | None = None
    class_names: tuple[str, ...] | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    column_names: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        """Return one line: name, shape, sizes and preprocessing."""
        shape = " × ".join(map(str, self.x_shape))
        sizes = " + ".join(f"{len(split):,} {split.name}" for split in self.splits)
        return f"<Dataset {self.name}: {shape}, {sizes}, {self.preprocessing.name}>"

    def _repr_html_(self) -> str:
        """Return a table for notebooks."""
        properties: dict[str, object] = {split.name: f"{len(split):,}" for split in self.splits}
        properties |= {"shape": self.x_shape, "preprocessing": self.preprocessing.name}
        if self.column_names:
            properties["columns"] = ", ".join(self.column_names)
        return html_properties(f"Dataset {self.name}", properties)

    @property
    def splits(self) -> tuple[Split, Split, Split]:
        """Train, validation and test."""
        return self.train, self.validation, self.test

    def describe(self) -> dict[str, Any]:
        """Return a description of the data for run directories and results, as JSON."""
        return {
            "name": self.name,
            "source": self.source,
            "shape": list(self.x_shape),
            "sizes": {split.name: len(split) for split in self.splits},
            "columns": list(self.column_names) if self.column_names else None,
            "classes": self.classes,
            "preprocessing": self.preprocessing.describe(),
            "storage": "resident" if self.train.resident else "stream",
            "checksum": self.checksum,
            "reading": dict(self.reading),
            "remarks": list(self.remarks),
        }


def check_batch_size(split: Split, batch_size: int, world: int = 1) -> None:
    """Check that a split fills a batch on each of ``world`` processes.

    Raises:
        ConfigError: if the batch size is below 1.
        DataError: if a batch is larger than the split.
    """
    if batch_size < 1:
        raise ConfigError("The batch size (train.batch_size) must be 1 or more.", given=batch_size)
    if batch_size * world > len(split):
        processes = f" on each of {world} processes" if world > 1 else ""
        raise DataError(
            "A batch is larger than the data.",
            given=f"train.batch_size {batch_size}{processes}, {len(split)} {split.name} examples",
            expected=f"at most {len(split) // world}",
            fix=f"set train.batch_size to {max(1, len(split) // world)} or less, or use more data",
        )
