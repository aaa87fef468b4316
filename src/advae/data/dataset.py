"""The vocabulary of the data floor: rows to read, a source of parts, splits, preprocessings, a data set."""

from __future__ import annotations

import re
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

Indices = npt.NDArray[np.int64]
CHUNK = (
    1024  # examples read at a time: large enough to hide the call, small enough for 256 × 256 RGB (200 MB)
)

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}


def split_of(name: str) -> str | None:
    """The split that a file, folder or key is named after: ``train-00000-of-00001`` is train.

    >>> split_of("test"), split_of("val_2"), split_of("trainer")
    ('test', 'validation', None)
    """
    for split, words in SPLITS.items():
        if re.match(rf"({'|'.join(words)})(?![a-z])", name.lower()):
            return split
    return None


@dataclass
class Problems:
    """What went wrong while reading images, collected so that one message can name and count it."""

    unreadable: list[str] = field(default_factory=list)
    sizes: Counter[str] = field(default_factory=Counter)

    def report(self, total: int) -> None:
        """Do nothing if nothing went wrong.

        Raises:
            DataError: images that cannot be read (up to five named), or sizes that differ.
        """
        if self.unreadable:
            rest = len(self.unreadable) - 5
            named = "; ".join(self.unreadable[:5]) + (f"; and {rest} more" if rest > 0 else "")
            raise DataError(
                f"{len(self.unreadable)} of {total} images cannot be read",
                given=named,
                fix="remove or replace these images",
            )
        if len(self.sizes) > 1:
            common = ", ".join(f"{size} ({count})" for size, count in self.sizes.most_common(4))
            raise DataError(
                f"the images have {len(self.sizes)} different sizes",
                given=f"height × width (images): {common}",
                expected="one size",
                fix="set data.image_size, e.g. --data.image_size 64, to resize and crop them",
            )


class Rows(ABC):
    """Examples that can be read by their indices; picklable, so that workers can read them."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, indices: Indices, problems: Problems | None = None) -> npt.NDArray[Any]:
        """The examples [B, *shape]; failures go into ``problems``, or raise DataError where it is None."""

    def scan(self, indices: Indices, problems: Problems) -> None:
        """A cheap look for failures before streaming; arrays were looked at when they were opened."""
        return


class Subset(Rows):
    """Some rows of others, in a given order."""

    def __init__(self, rows: Rows, order: Indices) -> None:
        self.rows, self.order = rows, order
        self.shape, self.dtype = rows.shape, rows.dtype

    def __len__(self) -> int:
        return len(self.order)

    def read(self, indices: Indices, problems: Problems | None = None) -> npt.NDArray[Any]:
        return self.rows.read(self.order[indices], problems)

    def scan(self, indices: Indices, problems: Problems) -> None:
        self.rows.scan(self.order[indices], problems)


@dataclass(frozen=True)
class Source:
    """An opened source.

    Args:
        name: a short name for people.
        parts: rows by split; always a train, and a validation or test where the source has its own.
        labels: a class number or name for each example of a part, as they come; absent where there are none.
        ordered: whether the order of the examples means something.
        class_names: names of the class numbers, where known.
    """

    name: str
    parts: Mapping[str, Rows]
    labels: Mapping[str, npt.ArrayLike] = field(default_factory=dict)
    ordered: bool = False
    class_names: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False)
class Split:
    """The examples of one purpose: resident as a tensor, or streamed from rows.

    Args:
        name: train, validation or test.
        values: the resident examples, uint8 or float32 [N, *shape]; None when they are streamed.
        labels: class ids, int64 [N], -1 where unknown; None without labels.
        rows: what a streamed split reads.
    """

    name: str
    values: Tensor | None
    labels: Tensor | None = None
    rows: Rows | None = None

    def __len__(self) -> int:
        return len(self.source)

    @property
    def source(self) -> Tensor | Rows:
        """The tensor of a resident split, the rows of a streamed one."""
        found = self.values if self.values is not None else self.rows
        assert found is not None, "a split has values or rows"
        return found

    @property
    def resident(self) -> bool:
        """Whether all examples are held as one tensor."""
        return self.values is not None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.values.shape[1:]) if isinstance(self.source, Tensor) else self.source.shape  # type: ignore[union-attr]

    @property
    def dtype(self) -> torch.dtype:
        """uint8 or float32."""
        return self.source.dtype

    def raw(self, indices: Tensor | Sequence[int]) -> Tensor:
        """The stored examples at these places, [B, *shape], on the device of ``values`` (streamed: CPU)."""
        wanted = torch.as_tensor(indices, dtype=torch.int64)
        if self.values is not None:
            return self.values.index_select(0, wanted.to(self.values.device))
        assert self.rows is not None
        return torch.from_numpy(self.rows.read(wanted.cpu().numpy()))

    def chunks(self, size: int = CHUNK) -> Iterator[Tensor]:
        """All examples in their order, ``size`` at a time; the last chunk may be smaller."""
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            yield self.raw(range(start, stop)) if self.values is None else self.values[start:stop]

    def to(self, device: str | torch.device) -> Self:
        """This split with its tensors on a device; a streamed split has only labels to move."""
        values, labels = (t if t is None else t.to(device) for t in (self.values, self.labels))
        return replace(self, values=values, labels=labels)


class Preprocessing(ABC):
    """How a stored example becomes an observation ``x``, and how ``x`` goes back to gray levels.

    ``support`` says where the observations live: ``binary`` {0, 1}, ``unit`` [0, 1], ``8-bit`` (bins of width
    1/256 in [0, 1)) or ``real``. ``unit`` of :meth:`to_gray` is ``gray levels``, or ``data units`` where the
    examples are no images.
    """

    name: ClassVar[str]
    support: ClassVar[str]
    eight_bit: ClassVar[bool] = True  # whether it needs examples stored as uint8
    unit: str = "gray levels"

    @abstractmethod
    def apply(self, raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Observations, float32 [B, *shape] on the device of ``raw``; a new draw each call where random."""

    @abstractmethod
    def to_gray(self, x: Tensor) -> Tensor:
        """Observations or decoder means on the scale 0 to 255, float32; not clamped (figures clamp)."""

    def raw_to_gray(self, raw: Tensor) -> Tensor:
        """Stored examples on the scale of :meth:`to_gray`, without noise, float32 [B, *shape]."""
        return raw.to(torch.float32)

    def fixed(self, split: Split, ordinal: int) -> Split:
        """A split after what the preprocessing does once, before training: nothing, for most."""
        return split

    def describe(self) -> dict[str, Any]:
        """The name and every number needed to apply in the same way again; JSON."""
        return {"name": self.name, "support": self.support, "unit": self.unit}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits and the preprocessing by which they are observed.

    ``checksum`` is a short SHA-256 over shape, values and labels of the three splits, before the preprocessing; of
    streamed data over evenly spaced examples, and it then begins with ``sampled-``.
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

    @property
    def splits(self) -> tuple[Split, Split, Split]:
        """Train, validation and test."""
        return self.train, self.validation, self.test

    def describe(self) -> dict[str, Any]:
        """What a reader of a result must know of the data; JSON."""
        return {
            "name": self.name,
            "source": self.source,
            "shape": list(self.x_shape),
            "sizes": {split.name: len(split) for split in self.splits},
            "classes": self.classes,
            "preprocessing": self.preprocessing.describe(),
            "storage": "resident" if self.train.resident else "stream",
            "checksum": self.checksum,
        }


def check_batch_size(split: Split, batch_size: int, world: int = 1) -> None:
    """Whether a split fills a batch on every rank.

    Raises:
        ConfigError: a batch size below 1.
        DataError: a batch larger than the split.
    """
    if batch_size < 1:
        raise ConfigError("the batch size must be 1 or more (train.batch_size)", given=batch_size)
    if batch_size * world > len(split):
        processes = f" on each of {world} processes" if world > 1 else ""
        raise DataError(
            "a batch is larger than the data",
            given=f"train.batch_size {batch_size}{processes}, {len(split)} {split.name} examples",
            expected=f"at most {len(split) // world}",
            fix=f"set train.batch_size to {max(1, len(split) // world)} or less, or give more data",
        )
