"""Folders of image files, with splits and classes by subfolder."""

from __future__ import annotations

from pathlib import Path

from advae.data.data_options import DataOptions
from advae.data.dataset import split_from_name
from advae.data.images import image_examples
from advae.data.readers.base import READERS, DataSource, SourceReader
from advae.data.sources import Location
from advae.errors import DataError


@READERS.register("image-folder")
class ImageFolderReader(SourceReader):
    """Reader of ``folder/[train|validation|test/][class/]…/image.png``."""

    description = "a folder of images"
    suffixes = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
    reads_many_files = True
    resizes_images = True

    @classmethod
    def recognizes(cls, location: Location) -> bool:
        return location.kind == "folder" and super().recognizes(location)

    @classmethod
    def open(cls, location: Location, options: DataOptions, eight_bit: bool) -> DataSource:
        import datasets

        files, classes = cls._by_split(location.path, location.with_suffix(cls.suffixes))
        cells = {
            split: [{"bytes": None, "path": str(file)} for file in paths] for split, paths in files.items()
        }
        tables = {split: datasets.Dataset.from_dict({"image": column}) for split, column in cells.items()}
        return DataSource(location.name, image_examples(location.name, tables, options), classes)

    @classmethod
    def _by_split(cls, root: Path, images: list[Path]) -> tuple[dict[str, list[Path]], dict[str, list[str]]]:
        """Return files by split, and their classes if all are in subfolders of at least two names."""
        files: dict[str, list[Path]] = {}
        classes: dict[str, list[str]] = {}
        split_folders, any_without_class = cls._split_folders(root), False
        for file in images:
            inside, split = file.parts[len(root.parts) :], "train"
            if split_folders:
                split, inside = split_folders[inside[0]], inside[1:]
            any_without_class = any_without_class or len(inside) == 1
            files.setdefault(split, []).append(file)
            classes.setdefault(split, []).append(inside[0])
        if not files.get("train"):
            raise DataError("The train folder contains no image (data.source).", given=root)
        num_classes = len(set().union(*classes.values()))
        return files, {} if any_without_class or num_classes == 1 else classes

    @classmethod
    def _split_folders(cls, root: Path) -> dict[str, str]:
        """Return the splits of folders by name; empty if the root is not divided into splits."""
        entries = [path for path in sorted(root.iterdir()) if not path.name.startswith(".")]
        folders = {path: split for path in entries if path.is_dir() and (split := split_from_name(path.name))}
        others = [
            path
            for path in entries
            if path not in folders and (path.is_dir() or path.suffix.lower() in cls.suffixes)
        ]
        splits = set(folders.values())
        if "train" not in splits or (splits == {"train"} and others):
            return {}  # a folder "train" among others may be a class, for example of vehicles
        if others:
            raise DataError(
                "The folder has images or folders next to its train and test folders.",
                given=f"{root}: {', '.join(path.name for path in others[:5])}",
                fix="move them into train or test, or out of the folder",
            )
        return {path.name: split for path, split in folders.items()}
