"""Array files of numpy: ``.npy`` and ``.npz``, without pickles."""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from advae.data.arrays import Array, array_examples
from advae.data.data_options import DataOptions
from advae.data.dataset import SPLIT_NAMES
from advae.data.readers.base import READERS, DataSource, SourceReader
from advae.data.sources import Location, check_memory, list_some, printable
from advae.errors import DataError

EXAMPLE_WORDS = "x|data|images?|imgs?|samples?|features?|inputs?|examples?|observations?"
LABEL_WORDS = "y|labels?|targets?|class(?:es)?"
SPLIT_WORDS = "|".join(word for words in SPLIT_NAMES.values() for word in words)
# Any case, words in any order, with or without separators: X_train, train_images, testLabels, y, valid.
KEY = re.compile(rf"({SPLIT_WORDS})?(?:({EXAMPLE_WORDS})|({LABEL_WORDS}))?({SPLIT_WORDS})?")
MAX_HEADER_BYTES = 2**16  # numpy refuses headers of more than 10,000 characters
MAX_EXPANDED_BYTES, MAX_EXPANSION = (
    2**28,
    100,
)  # larger arrays are refused if they expand by more: observations do not
EXPECTED = "one array; or x, or x_train and optionally x_validation and x_test; labels y, or y_train …"


class Header(NamedTuple):
    """What a file says about an array that is not read yet."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@READERS.register("arrays")
class ArrayFileReader(SourceReader):
    """Reader of ``.npy`` (examples, memory-mapped) and ``.npz`` (examples and labels by split)."""

    description = "a .npy or .npz file"
    suffixes = (".npy", ".npz")
    options = ("layout", "white_level")

    @classmethod
    def open(cls, location: Location, options: DataOptions, eight_bit: bool) -> DataSource:
        path = location.path
        with _reading(path):
            is_archive = zipfile.is_zipfile(path)
            arrays = {} if is_archive else {"train": _read_npy(path)}
        if not is_archive:
            return DataSource(location.name, array_examples(arrays, path, eight_bit, options))
        with _reading(path), zipfile.ZipFile(path) as archive:
            headers = _read_headers(archive)
            examples, labels = _find_keys(headers, path)
            arrays = _read_members(archive, headers, [*examples.values(), *labels.values()], path)
        others = [name for key, name in _describe(headers).items() if key not in arrays]
        parts = {part: arrays[key] for part, key in examples.items()}
        return DataSource(
            location.name,
            array_examples(parts, path, eight_bit, options),
            {part: arrays[key] for part, key in labels.items()},
            ordered="test" in parts,
            reading={"examples": examples} | ({"labels": labels} if labels else {}),
            remarks=(f"Left out: arrays {list_some(others)}.",) if others else (),
        )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what reading a damaged file raises into a DataError; the types are BadZipFile, zlib.error and many more."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError("The array file cannot be read.", given=f"{path}: {error}") from None


def split_and_role(key: str) -> tuple[str, str] | None:
    """Return the split and the role that a key of an archive names; None if it names something else.

    >>> split_and_role("X_train"), split_and_role("testLabels"), split_and_role("images"), split_and_role("mean")
    (('train', 'examples'), ('test', 'labels'), ('train', 'examples'), None)
    """
    compact = re.sub(r"[\W_]", "", key.lower())
    match = KEY.fullmatch(compact)
    if not compact or match is None or (match[1] and match[4]):
        return None
    word = match[1] or match[4] or "train"
    split = next(name for name, words in SPLIT_NAMES.items() if word in words)
    return split, "labels" if match[3] else "examples"


def _find_keys(headers: Mapping[str, Header | None], path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the keys of examples and of labels by split.

    Raises:
        DataError: if no training examples, or several arrays for the same, are named.
    """
    keys: dict[tuple[str, str], list[str]] = {}
    for key in headers:
        if role := split_and_role(key):
            keys.setdefault(role, []).append(key)
    arrays = [key for key, header in headers.items() if header]
    if not keys and len(arrays) == 1:
        keys["train", "examples"] = arrays
    doubled = next((names for names in keys.values() if len(names) > 1), None)
    if doubled or ("train", "examples") not in keys:
        raise DataError(
            f"The names of the arrays are ambiguous: {list_some(doubled)}."
            if doubled
            else "The names of the arrays do not say which has the training examples.",
            given=f"{path}: {', '.join(_describe(headers).values()) or 'no array'}",
            expected=EXPECTED,
            fix="save the file with such names",
        )
    examples, labels = (
        {split: names[0] for (split, role), names in keys.items() if role == wanted}
        for wanted in ("examples", "labels")
    )
    return examples, {split: key for split, key in labels.items() if split in examples}


def _describe(headers: Mapping[str, Header | None]) -> dict[str, str]:
    """Return the name, shape and type of each member."""
    facts = {key: f"{list(h.shape)} {h.dtype}" if h else "(not an array)" for key, h in headers.items()}
    return {key: f"{printable(key)} {fact}" for key, fact in facts.items()}


def _read_headers(archive: zipfile.ZipFile) -> dict[str, Header | None]:
    """Return the header of each member by key; None for members that are not arrays."""
    headers: dict[str, Header | None] = {}
    for info in archive.infolist():
        key = info.filename.removesuffix(".npy")
        if key in headers:
            raise ValueError(f"two arrays are named {printable(key)}")
        headers[key] = None
        if info.filename.endswith(".npy"):
            with archive.open(info) as file:
                headers[key] = _read_header(file, info.file_size)
    return headers


def _read_header(file: IO[bytes], size: int) -> Header:
    """Return the header of an array file of ``size`` bytes; raise ValueError if it is invalid."""
    start = io.BytesIO(file.read(MAX_HEADER_BYTES))
    is_long = np.lib.format.read_magic(start) == (2, 0)
    read = np.lib.format.read_array_header_2_0 if is_long else np.lib.format.read_array_header_1_0
    shape, _, dtype = read(start)
    if any(type(n) is not int or n < 0 for n in shape):
        raise ValueError(f"the shape {shape} is invalid")
    header = Header(shape, dtype)
    if not dtype.hasobject and start.tell() + header.num_bytes > size:
        raise ValueError(f"the shape {shape} is larger than the file")
    return header


def _read_npy(path: Path) -> Array:
    """Return the memory-mapped array of a ``.npy`` file."""
    with path.open("rb") as file:
        _check_plain(_read_header(file, path.stat().st_size), path)
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def _read_members(
    archive: zipfile.ZipFile, headers: Mapping[str, Header | None], keys: list[str], path: Path
) -> dict[str, Array]:
    """Return some arrays of an archive, if their declared sizes fit in memory."""
    for key in keys:
        _check_plain(headers[key], f"{path} ({printable(key)})")
        info = archive.getinfo(f"{key}.npy")
        if info.file_size > max(MAX_EXPANDED_BYTES, MAX_EXPANSION * info.compress_size):
            raise DataError(
                "The array expands to many times its compressed size.",
                given=f"{path} ({printable(key)}): {info.file_size:,} bytes from {info.compress_size:,}",
                expected=f"at most {MAX_EXPANSION} times as many",
                fix="if the file is your own, save it without compression: numpy.savez",
            )
    check_memory(sum(header.num_bytes for key in keys if (header := headers[key])), path)
    arrays = {}
    for key in keys:
        with archive.open(f"{key}.npy") as file:
            arrays[key] = np.lib.format.read_array(file, allow_pickle=False)
    return arrays


def _check_plain(header: Header | None, given: object) -> None:
    """Raise DataError if a member is not an array, or has objects, which would be unpickled."""
    if header is None or header.dtype.hasobject:
        raise DataError(
            "The file contains pickled objects, or no array; pickles are never loaded.",
            given=given,
            fix="save plain arrays of numbers, of one shape for all examples, with numpy.save",
        )
