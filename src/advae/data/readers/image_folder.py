"""Folders of image files, with splits and classes by subfolder."""

from __future__ import annotations

from pathlib import Path

from advae.data.data_options import DataOptions
from advae.data.dataset import split_from_name
from advae.data.images import image_examples
from advae.data.readers.base import IMAGE_OPTIONS, READERS, DataSource, SourceReader
from advae.data.sources import Location, list_some, printable
from advae.errors import DataError


@READERS.register("image-folder")
class ImageFolderReader(SourceReader):
    """Reader of ``folder/[train|validation|test/][class/]…/image.png``, or of a single image."""

    description = "a folder of images, or an image"
    suffixes = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
    reads_many_files = True
    options = IMAGE_OPTIONS

    @classmethod
    def recognizes(cls, location: Location) -> bool:
        return location.kind in ("folder", "file") and super().recognizes(location)

    @classmethod
    def open(cls, location: Location, options: DataOptions, eight_bit: bool) -> DataSource:
        images = location.with_suffix(cls.suffixes)
        is_file = location.kind == "file"
        files, classes = ({"train": images}, {}) if is_file else _by_split(location.path, images)
        paths = {split: [str(file) for file in part] for split, part in files.items()}
        return DataSource(location.name, image_examples(location.name, paths, options), classes)


def _by_split(root: Path, images: list[Path]) -> tuple[dict[str, list[Path]], dict[str, list[str]]]:
    """Return files by split, and their classes if all are in subfolders of at least two names.

    A folder that contains everything is passed over.

    Raises:
        DataError: if the train folder is empty, or train and test folders are not at the top.
    """
    relative = [file.relative_to(root).parts for file in images]
    while len({parts[0] for parts in relative}) == 1 and any(len(parts) > 2 for parts in relative):
        if split_from_name(relative[0][0]) is not None:
            break
        root, relative = root / relative[0][0], [parts[1:] for parts in relative]
    split_folders = _split_folders(root, relative)
    files: dict[str, list[Path]] = {}
    classes: dict[str, list[str]] = {}
    deeper: dict[str, Path] = {}
    any_without_class = False
    for file, inside in zip(images, relative, strict=True):
        split = "train"
        if split_folders:
            split, inside = split_folders[inside[0]], inside[1:]
        any_without_class = any_without_class or len(inside) == 1
        files.setdefault(split, []).append(file)
        classes.setdefault(split, []).append(printable(inside[0]))
        deeper |= {name: file for folder in inside[:-1] if (name := split_from_name(folder))}
    if "train" in deeper and len(deeper) > 1:
        raise DataError(
            "Train and test folders are not at the top of the folder.",
            given=list_some(path.parent for path in deeper.values()),
            expected=f"{root}/train and {root}/test, with the classes inside",
            fix="give the folder that contains train and test as data.source, or move them",
        )
    if not files.get("train"):
        raise DataError("The train folder contains no image (data.source).", given=root)
    num_classes = len(set().union(*classes.values()))
    return files, {} if any_without_class or num_classes == 1 else classes


def _split_folders(root: Path, relative: list[tuple[str, ...]]) -> dict[str, str]:
    """Return the splits of folders by name; empty if the root is not divided into splits.

    Args:
        relative: paths of the images in the root.
    """
    names = [path.name for path in root.iterdir() if path.is_dir()]
    folders = {name: split for name in names if (split := split_from_name(name))}
    others = sorted({parts[0] for parts in relative} - set(folders))
    splits = set(folders.values())
    if "train" not in splits or (splits == {"train"} and others):
        return {}  # a folder "train" among others may be a class, for example of vehicles
    if others:
        raise DataError(
            "The folder has images or folders next to its train and test folders.",
            given=f"{root}: {list_some(others, 5)}",
            fix="move them into train or test, or out of the folder",
        )
    return folders
