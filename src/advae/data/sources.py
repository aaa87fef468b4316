"""What ``data.source`` means: the embedded digits, files on this machine, or a data set of the hub."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from advae.data.dataset import split_of
from advae.errors import DataError, nearest

Kind = Literal["digits", "array", "parquet", "folder", "hub"]
KINDS = (
    "'digits', a .npy or .npz file, a folder of images, Parquet (file, folder, glob), or a hub id OWNER/NAME"
)
CODE = {".pt", ".pth", ".pkl", ".pickle", ".joblib", ".ckpt", ".bin"}  # formats that may hold pickled code
FILES = {
    ".npy",
    ".npz",
    ".parquet",
    ".arrow",
    ".csv",
    ".json",
    ".jsonl",
    ".h5",
    ".hdf5",
    ".mat",
    ".zip",
    ".tar",
    ".gz",
}
FILES |= {".png", ".jpg", ".jpeg", ".gif", ".txt", ".yaml"}  # endings that no data set of the hub has
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"}


@dataclass(frozen=True)
class Located:
    """A source found.

    Args:
        kind: what will read it.
        name: a short name for people; of the hub, the id.
        parts: its files by split, always with a train (digits, hub: none).
        classes: the class of each file by its subfolder (folders of images only).
    """

    kind: Kind
    name: str
    parts: dict[str, list[Path]] = field(default_factory=dict)
    classes: dict[str, list[str]] = field(default_factory=dict)


def locate(source: str) -> Located:
    """Find out what a source is, without opening it.

    Raises:
        DataError: there is no such file, or it is of no kind that can be read.
    """
    if source == "digits":
        return Located("digits", "digits")
    if not source.strip():
        raise DataError("data.source is empty", expected=KINDS)
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder(path)
    if path.exists():
        return _file(path)
    if glob.has_magic(source):
        return _glob(source, path)
    if _is_hub_id(source):
        return Located("hub", source)
    raise DataError(
        "no such file or folder (data.source)", given=source, expected=KINDS, fix=_hint(source, path)
    )


def _folder(path: Path) -> Located:
    files = _visible(path.rglob("*.parquet"), path)
    name = path.resolve().name
    if files:
        return Located("parquet", name, _sorted_out(files))
    parts, classes = _image_files(path)
    return Located("folder", name, parts, classes)


def _file(path: Path) -> Located:
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        return Located("array", path.stem, {"train": [path]})
    if suffix == ".parquet":
        return Located("parquet", path.stem, {"train": [path]})
    if suffix in CODE:
        raise DataError(
            "this kind of file may hold pickled code, and is never loaded",
            given=path,
            expected=KINDS,
            fix="save the arrays with numpy.save or numpy.savez",
        )
    raise DataError("this file is of no kind that can be read as data", given=path, expected=KINDS)


def _glob(source: str, path: Path) -> Located:
    files = [Path(found) for found in sorted(glob.glob(str(path), recursive=True))]
    if not files:
        raise DataError("no file matches this pattern (data.source)", given=source)
    strange = [file for file in files if file.suffix.lower() != ".parquet"]
    if strange:
        raise DataError(
            "a pattern may match Parquet files only",
            given=f"{source} matches {strange[0]}",
            fix="end the pattern with .parquet; for images give their folder",
        )
    return Located("parquet", files[0].resolve().parent.name, _sorted_out(files))


def _visible(files: Iterable[Path], root: Path) -> list[Path]:
    """Files below no hidden folder, in the order of their names."""
    return sorted(f for f in files if not any(part.startswith(".") for part in f.relative_to(root).parts))


def _sorted_out(files: Sequence[Path]) -> dict[str, list[Path]]:
    """Files by the split they are named after; all of them are train if they name one split or none."""
    named = {file: split_of(file.name) or split_of(file.parent.name) for file in files}
    kinds = set(named.values())
    if len(kinds) == 1:
        return {"train": list(files)}
    if None in kinds or "train" not in kinds:
        raise DataError(
            "these Parquet files do not say which split they belong to",
            given=", ".join(file.name for file in list(files)[:6]),
            expected="names that begin with train, validation or test",
            fix="rename them, or give a pattern that matches one split",
        )
    parts: dict[str, list[Path]] = {}
    for file, part in named.items():
        parts.setdefault(str(part), []).append(file)
    return parts


def _image_files(root: Path) -> tuple[dict[str, list[Path]], dict[str, list[str]]]:
    """Image files by split, and their classes if every one lies in a subfolder and there are at least two."""
    parts: dict[str, list[Path]] = {}
    classes: dict[str, list[str]] = {}
    flat = False
    for folder, part in _split_folders(root).items():
        for file in _images_below(folder):
            inside = file.relative_to(folder).parts
            flat = flat or len(inside) == 1
            parts.setdefault(part, []).append(file)
            classes.setdefault(part, []).append(inside[0])
    if not parts.get("train"):
        endings = " ".join(sorted(IMAGES))
        raise DataError(
            "there is no image in this folder (data.source)",
            given=root,
            expected=f"files ending in {endings} or .parquet",
        )
    return parts, {} if flat or len(set().union(*classes.values())) == 1 else classes


def _images_below(folder: Path) -> list[Path]:
    """Image files at any depth, in the order of their names, without hidden ones."""
    found: list[Path] = []
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(where, f) for f in files if Path(f).suffix.lower() in IMAGES and not f.startswith(".")]
    return sorted(found)


def _split_folders(root: Path) -> dict[Path, str]:
    """Folders named after splits, if there is train and another split or nothing else; otherwise the root."""
    inside = [path for path in sorted(root.iterdir()) if not path.name.startswith(".")]
    named = {path: split for path in inside if path.is_dir() and (split := split_of(path.name))}
    strange = [p for p in inside if p not in named and (p.is_dir() or p.suffix.lower() in IMAGES)]
    kinds = set(named.values())
    if "train" not in kinds or (kinds == {"train"} and strange):
        return {root: "train"}  # a folder "train" among others may well be a class, say of vehicles
    if strange:
        raise DataError(
            "this folder has images or folders beside its train and test folders",
            given=f"{root}: {', '.join(path.name for path in strange[:5])}",
            fix="move them into train or test, or out of the folder",
        )
    return named


def _is_hub_id(source: str) -> bool:
    suffix = Path(source).suffix.lower()
    return HUB_ID.fullmatch(source) is not None and suffix not in FILES | CODE


def _hint(source: str, path: Path) -> str:
    """The nearest name beside the missing file, or where the path breaks off."""
    if "/" not in source and not path.suffix:
        return nearest(source, ["digits"]) + "; a path to data, or a hub id OWNER/NAME"
    parent = path.parent
    if not parent.is_dir():
        return f"there is no folder {parent} either"
    beside = sorted(found.name for found in parent.iterdir() if not found.name.startswith("."))[:20]
    return nearest(path.name, beside) if beside else f"there is nothing in the folder {parent}"
