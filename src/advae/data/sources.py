"""Locations of data: built-in names, files, patterns, folders and hub ids."""

from __future__ import annotations

import glob
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
    """

    source: str
    kind: LocationKind
    name: str
    path: Path = Path()
    files: tuple[Path, ...] = ()

    def with_suffix(self, suffixes: Collection[str]) -> list[Path]:
        """Return the files whose names end in one of ``suffixes``."""
        return [file for file in self.files if file.suffix.lower() in suffixes]


def locate(source: str, builtin_names: Collection[str], suffixes: Collection[str]) -> Location | None:
    """Find a source, without opening it. Return None if there is nothing at that place.

    Args:
        builtin_names: names of data that come with a library.
        suffixes: endings of files that can be read.

    Raises:
        DataError: if no file matches a pattern.
    """
    if source in builtin_names:
        return Location(source, "built-in", source)
    path = Path(source).expanduser()
    if path.is_dir():
        return Location(source, "folder", path.resolve().name, path, tuple(_visible_files(path)))
    if path.exists():
        return Location(source, "file", path.stem, path, (path,))
    if glob.has_magic(source):
        files = tuple(Path(file) for file in sorted(glob.glob(str(path), recursive=True)))
        if not files:
            raise DataError("No file matches the pattern (data.source).", given=source)
        return Location(source, "pattern", files[0].resolve().parent.name, path, files)
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


def _visible_files(folder: Path) -> list[Path]:
    """Return the files at any depth, sorted, without hidden files and folders."""
    files: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(files)
