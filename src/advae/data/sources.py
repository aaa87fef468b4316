"""Locations of data: built-in names, files, patterns, folders and hub ids; and what may be opened."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from advae.data.dataset import split_from_name
from advae.errors import DataError, nearest
from advae.serialization import PICKLE_SUFFIXES, is_hub_id

LocationKind = Literal["built-in", "file", "pattern", "folder", "hub"]

# Endings that no data set of the hub has, in addition to those of the readers.
FILE_SUFFIXES = {".arrow", ".csv", ".json", ".jsonl", ".h5", ".hdf5", ".mat", ".txt", ".yaml"}
FILE_SUFFIXES |= {".zip", ".tar", ".gz"} | PICKLE_SUFFIXES


@dataclass(frozen=True)
class Location:
    """Where a data source is.

    Args:
        source: the source as given.
        kind: what the source names.
        name: a short name for people; for the hub, the id.
        path: of the file, pattern or folder.
        files: the file, the files that match the pattern, or all files in the folder that are not hidden, sorted.
            All are regular files, so that opening them cannot block.
        remarks: what was left out of a folder.
    """

    source: str
    kind: LocationKind
    name: str
    path: Path = Path()
    files: tuple[Path, ...] = ()
    remarks: tuple[str, ...] = ()

    def with_suffix(self, suffixes: Collection[str]) -> list[Path]:
        """Return the files whose names end in one of ``suffixes``."""
        return [file for file in self.files if file.suffix.lower() in suffixes]


def locate(source: str, builtin_names: Collection[str], suffixes: Collection[str]) -> Location | None:
    """Find a source, without opening it. Return None if there is nothing at that place.

    Args:
        builtin_names: names of data that come with a library.
        suffixes: endings of files that can be read.

    Raises:
        DataError: if no file matches a pattern, or a file is a pipe, socket or device.
    """
    if source in builtin_names:
        return Location(source, "built-in", source)
    path = Path(source).expanduser()
    if path.is_dir():
        files, remarks = _visible_files(path)
        return Location(source, "folder", printable(path.resolve().name), path, files, remarks)
    if path.exists():
        check_regular_file(path)
        return Location(source, "file", printable(path.stem), path, (path,))
    if glob.has_magic(source):
        files = tuple(Path(file) for file in sorted(glob.glob(str(path), recursive=True)))
        for file in files:
            check_regular_file(file)
        if not files:
            raise DataError("No file matches the pattern (data.source).", given=source)
        return Location(source, "pattern", printable(files[0].resolve().parent.name), path, files)
    if is_hub_id(source) and path.suffix.lower() not in FILE_SUFFIXES | set(suffixes):
        return Location(source, "hub", source)
    return None


def suggest_source(source: str, builtin_names: Collection[str]) -> str:
    """Suggest the nearest name next to a missing file, or say which folder is missing."""
    path = Path(source).expanduser()
    if "/" not in source and not path.suffix:
        return nearest(source, builtin_names) + "; a path to data, or a hub id OWNER/NAME"
    parent = path.parent
    if not parent.is_dir():
        return f"the folder {parent} does not exist either"
    names = sorted(file.name for file in parent.iterdir() if not file.name.startswith("."))[:20]
    return nearest(path.name, names) if names else f"the folder {parent} is empty"


def _visible_files(folder: Path) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Return the files at any depth, sorted, without hidden ones, and remarks on what is left out.

    Links to folders are followed, except to those that contain this folder. Each folder is read once, by a path without
    links if there is one, so that links in cycles end.
    """
    parents = {folder.resolve(), *folder.resolve().parents}
    files: list[Path] = []
    skipped: dict[str, list[Path]] = {}
    folders, links = [folder], list[Path]()
    seen: set[tuple[int, int]] = set()
    while folders or links:
        parent = folders.pop() if folders else links.pop(0)
        status = parent.stat()
        if (status.st_dev, status.st_ino) in seen:
            skipped.setdefault("links to folders that are read under another name", []).append(parent)
            continue
        seen.add((status.st_dev, status.st_ino))
        try:
            entries = sorted(os.scandir(parent), key=lambda entry: entry.name)
        except OSError:
            skipped.setdefault("folders that cannot be read", []).append(parent)
            continue
        for entry in entries:
            path = parent / entry.name
            if entry.name.startswith("."):
                continue
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError:  # a link to itself
                is_folder = is_file = False
            if is_folder and entry.is_symlink() and path.resolve() in parents:
                skipped.setdefault("links to a folder that contains this one", []).append(path)
            elif is_folder:
                (links if entry.is_symlink() else folders).append(path)
            elif is_file:
                files.append(path)
            else:
                skipped.setdefault("broken links, pipes, sockets and devices", []).append(path)
    remarks = (f"Left out: {what}: {list_some(paths)}." for what, paths in sorted(skipped.items()))
    return tuple(sorted(files)), tuple(remarks)


def files_by_split(files: Sequence[Path]) -> dict[str, list[Path]]:
    """Return files by the split they are named after; all are train if they name one split or none.

    Raises:
        DataError: if some files name a split and others do not, or none names train.
    """
    names = {file: split_from_name(file.name) or split_from_name(file.parent.name) for file in files}
    splits = set(names.values())
    if len(splits) == 1:
        return {"train": list(files)}
    if None in splits or "train" not in splits:
        raise DataError(
            "The split of these files is unknown.",
            given=", ".join(file.name for file in files[:6]),
            expected="names that begin with train, validation or test",
            fix="rename them, or give a pattern that matches one split",
        )
    by_split: dict[str, list[Path]] = {}
    for file, split in names.items():
        by_split.setdefault(str(split), []).append(file)
    return by_split


def list_some(names: Iterable[object], count: int = 3) -> str:
    """Return the first names, and how many more there are.

    >>> list_some(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    texts = [printable(str(name)) for name in names]
    return ", ".join(texts[:count]) + (f" and {len(texts) - count:,} more" if len(texts) > count else "")


def printable(name: str) -> str:
    """Return a file name that can be printed and stored: bytes that are not UTF-8 as ``\\udc…``."""
    return name.encode("utf-8", "backslashreplace").decode()


def check_regular_file(path: str | os.PathLike[str]) -> None:
    """Check that a path is a regular file, or a link to one: reading others can block or never end.

    Raises:
        DataError: if it is not, or does not exist.
    """
    try:
        is_regular = stat.S_ISREG(os.stat(path).st_mode)
    except OSError as error:
        raise DataError("The file cannot be read.", given=f"{path}: {error.strerror}") from None
    if not is_regular:
        raise DataError(
            "Data are read from regular files only.",
            given=f"{path}: a folder, pipe, socket or device",
            fix="copy the data into a file",
        )


def check_memory(num_bytes: int, given: object) -> None:
    """Check that something of a declared size fits in the memory that is free, before it is read.

    Raises:
        DataError: if it does not.
    """
    available = available_memory()
    if available is not None and num_bytes > available:
        raise DataError(
            "The data do not fit in memory.",
            given=f"{given}: {num_bytes / 2**30:.3g} GiB",
            expected=f"at most {available / 2**30:.3g} GiB, which are free",
            fix="use fewer data, or a .npy file, Parquet or an image folder with data.storage stream",
        )


def available_memory() -> int | None:
    """Return the bytes that are free, within the limit of a container; None if unknown."""
    limits = []
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
        limits.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    with suppress(OSError, ValueError):
        maximum, current = (
            int(Path("/sys/fs/cgroup", f"memory.{name}").read_text()) for name in ("max", "current")
        )
        limits.append(maximum - current)
    return min(limits, default=None)
