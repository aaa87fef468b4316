"""Base class and registry of data readers.

A reader is one class in one file of this folder. It declares what it recognizes, and opens it:

    @READERS.register("matlab")
    class MatlabReader(SourceReader):
        description = "a .mat file"
        suffixes = (".mat",)

        @classmethod
        def open(cls, location, options, eight_bit): ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy.typing as npt

from advae.data.arrays import array_examples
from advae.data.data_options import DataOptions
from advae.data.dataset import IndexedExamples
from advae.data.sources import Location, list_some, locate, suggest_source
from advae.data.table_columns import table_arrays
from advae.errors import DataError
from advae.registry import Registry
from advae.serialization import PICKLE_SUFFIXES

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class DataSource:
    """An opened source.

    Args:
        name: a short name for people.
        parts: examples by split: train, and validation and test where the source has them.
        labels: as stored, one per example of a part, None where missing; absent for parts without labels.
        ordered: whether the order of the examples has a meaning.
        class_names: names of the class numbers, where known.
        reading, remarks: as of :class:`~advae.data.dataset.IndexedExamples`.
        column_names: of the values of an example, if they are columns of a table.
        tables: of a source that is a table, by part: :func:`open_source` turns their columns into parts and labels.
    """

    name: str
    parts: Mapping[str, IndexedExamples]
    labels: Mapping[str, npt.ArrayLike] = field(default_factory=dict)
    ordered: bool = False
    class_names: tuple[str, ...] | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    column_names: tuple[str, ...] | None = None
    tables: Mapping[str, pa.Table] = field(default_factory=dict)


class SourceReader(ABC):
    """Reader of one data format."""

    name: ClassVar[str]
    description: ClassVar[str]
    """What it reads, for messages: "a .npy or .npz file"."""
    builtin_names: ClassVar[tuple[str, ...]] = ()
    """Sources that need no path, as "digits"."""
    suffixes: ClassVar[tuple[str, ...]] = ()
    """Endings of the files that it reads, in lower case."""
    reads_many_files: ClassVar[bool] = False
    """Whether it also reads folders with such files, and patterns that match such files only."""
    priority: ClassVar[int] = 0
    """The reader with the highest priority is used for a location that several recognize."""
    options: ClassVar[tuple[str, ...]] = ()
    """The options of READING_OPTIONS that apply."""

    @classmethod
    def recognizes(cls, location: Location) -> bool:
        """Return whether this reader opens the location."""
        if location.kind == "built-in":
            return location.name in cls.builtin_names
        num_files = len(location.with_suffix(cls.suffixes))
        if location.kind == "folder":
            return cls.reads_many_files and num_files > 0
        if location.kind == "pattern":
            return cls.reads_many_files and num_files == len(location.files)
        return location.kind == "file" and num_files == 1

    @classmethod
    @abstractmethod
    def open(cls, location: Location, options: DataOptions, eight_bit: bool) -> DataSource:
        """Open a location that the reader recognizes.

        Args:
            location: where the data are.
            options: how the data are loaded.
            eight_bit: whether preprocessing needs values that can be stored as uint8.

        Raises:
            DataError: if the data cannot be read.
        """


IN_MEMORY = "(in memory)"
"""``data.source`` of data that were passed from Python."""
READING_OPTIONS = ("image_size", "channels", "layout", "white_level", "label", "missing")
IMAGE_OPTIONS = ("image_size", "channels", "white_level")
TABLE_OPTIONS = ("label", "missing")

READERS: Registry[type[SourceReader]] = Registry("data reader", "advae.data.readers", SourceReader)


def find_reader(source: str) -> tuple[type[SourceReader], Location]:
    """Return the reader of a source, and where the source is.

    Raises:
        DataError: if the source does not exist, or no reader recognizes it.
    """
    readers = [READERS.find(name) for name in READERS.names()]
    formats = "; ".join(reader.description for reader in readers)
    builtin_names = [name for reader in readers for name in reader.builtin_names]
    suffixes = [suffix for reader in readers for suffix in reader.suffixes]
    if source == IN_MEMORY:
        raise DataError(
            "The data were passed from Python, and are not stored.",
            given=f"data.source {source}",
            fix="pass the same data again: advae.resume(run, data=…), advae.evaluate(run, data); or save them as a "
            "file and set data.source (--data.source PATH)",
        )
    if not source.strip():
        raise DataError("data.source is empty.", expected=formats)
    location = locate(source, builtin_names, suffixes)
    if location is None:
        fix = suggest_source(source, builtin_names)
        raise DataError("data.source does not exist.", given=source, expected=formats, fix=fix)
    candidates = [reader for reader in readers if reader.recognizes(location)]
    if not candidates:
        raise _unsupported_format(location, readers)
    return max(candidates, key=lambda reader: reader.priority), location


def open_source(options: DataOptions, eight_bit: bool, columns: Sequence[str] | None = None) -> DataSource:
    """Open ``options.source`` with the reader that recognizes it.

    Args:
        columns: those of a trained model, by which the columns of a table are matched.

    Raises:
        DataError: if the source does not exist or cannot be read, or an option does not apply to it.
    """
    reader, location = find_reader(options.source)
    for name in READING_OPTIONS:
        if getattr(options, name) != getattr(DataOptions(), name) and name not in reader.options:
            formats = [READERS.find(other) for other in READERS.names()]
            raise DataError(
                f"data.{name} does not apply to this source.",
                given=f"data.source {options.source}",
                expected="; ".join(other.description for other in formats if name in other.options),
                fix=f"omit data.{name}, or convert the examples themselves",
            )
    source = reader.open(location, options, eight_bit)
    remarks = [*location.remarks, *source.remarks]
    others = sorted(set(location.files) - set(location.with_suffix(reader.suffixes)))
    if others:
        remarks.append(f"Left out: files of other types: {list_some(others)}.")
    return resolve_tables(replace(source, remarks=tuple(remarks)), options, eight_bit, columns)


def resolve_tables(
    source: DataSource, options: DataOptions, eight_bit: bool, columns: Sequence[str] | None = None
) -> DataSource:
    """Return a source with the numbers and labels of its tables, if it has tables.

    Raises:
        DataError: as :func:`~advae.data.table_columns.table_arrays`.
    """
    if not source.tables:
        return source
    table = table_arrays(source.tables, options.source, options, columns)
    return replace(
        source,
        parts=array_examples(table.values, options.source, eight_bit),
        labels=source.labels or table.labels,
        reading={**source.reading} | ({"label_column": table.label} if table.label else {}),
        remarks=(*source.remarks, *table.remarks),
        column_names=table.columns,
        tables={},
    )


def _unsupported_format(location: Location, readers: list[type[SourceReader]]) -> DataError:
    """Return the error for a location that no reader recognizes."""
    formats = "; ".join(reader.description for reader in readers)
    if location.kind == "file" and location.path.suffix.lower() in PICKLE_SUFFIXES:
        return DataError(
            "This kind of file can contain pickled code and is never loaded.",
            given=location.path,
            expected=formats,
            fix="save the arrays with numpy.save or numpy.savez",
        )
    endings = sorted({file.suffix or file.name for file in location.files})
    what = {
        "folder": "The folder contains no data",
        "pattern": "These files are not of one format that has patterns",
    }
    return DataError(
        f"{what.get(location.kind, 'This kind of file is not supported')} (data.source).",
        given=f"{location.source}: {list_some(endings, 6)}" if location.kind == "pattern" else location.path,
        expected=formats,
    )
