"""Encoded images to uint8 pixels [C, H, W]: decoded by PIL, converted, resized, named where unreadable."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from advae.data.dataset import Indices, Problems, Rows
from advae.errors import DataError

if TYPE_CHECKING:
    import datasets
    from PIL import Image

Pixels = npt.NDArray[np.uint8]
# Threads pay once decoding (which releases the interpreter's lock) outweighs the rest: measured on 2 cores,
# images of 1 to 2 kB decode faster without them.
THREADED_FROM = 16_384  # bytes an image
WITH_ORIENTATION = {"JPEG", "MPO", "TIFF", "WEBP"}
ORIENTATION, TURNED = 0x0112, {5, 6, 7, 8}  # the EXIF tag, and its values for an image that lies on its side


class ImageRows(Rows):
    """Encoded images of a table, decoded as they are read.

    Args:
        table: a column ``image`` of ``{bytes, path}``, not decoded.
        shape: (C, H, W) that every image must have after conversion and resizing.
        image_size: resize the shorter side to this and crop the centre; None keeps the size.
    """

    def __init__(self, table: datasets.Dataset, shape: tuple[int, int, int], image_size: int | None) -> None:
        self.table, self.shape, self.image_size = table, shape, image_size
        self.dtype = torch.uint8

    def __len__(self) -> int:
        return len(self.table)

    def read(self, indices: Indices, problems: Problems | None = None) -> Pixels:
        noted = Problems() if problems is None else problems
        pixels = np.zeros((len(indices), *self.shape), np.uint8)
        for place, (index, cell, found) in enumerate(self._decoded(indices)):
            if isinstance(found, Exception):
                noted.unreadable.append(named(cell, index, found))
                continue
            self._note(noted, *found.shape[1:])
            if found.shape == self.shape:
                pixels[place] = found
        if problems is None:
            noted.report(len(indices))
        return pixels

    def scan(self, indices: Indices, problems: Problems) -> None:
        """Read the headers only: finds files that are no images, and sizes that differ."""
        for start in range(0, len(indices), 1024):
            block = indices[start : start + 1024]
            for index, cell in zip(block.tolist(), self._cells(block), strict=True):
                try:
                    with opened(cell) as image:
                        width, height = image.size
                        if image.format in WITH_ORIENTATION and image.getexif().get(ORIENTATION) in TURNED:
                            width, height = height, width
                except Exception as error:  # PIL's readers raise many kinds, also SyntaxError
                    problems.unreadable.append(named(cell, index, error))
                else:
                    if self.image_size is None:
                        self._note(problems, height, width)

    def _note(self, problems: Problems, height: int, width: int) -> None:
        """Count an image's size; and, beside another, that of the first image of the data, which may not be read."""
        problems.sizes[f"{height} × {width}"] += 1
        if (height, width) != self.shape[1:]:
            expected = f"{self.shape[1]} × {self.shape[2]}"
            problems.sizes[expected] = max(1, problems.sizes[expected])

    def _cells(self, indices: Indices) -> list[dict[str, Any]]:
        return list(self.table[indices.tolist()]["image"])

    def _decoded(self, indices: Indices) -> Iterable[tuple[int, dict[str, Any], Pixels | Exception]]:
        cells = self._cells(indices)
        channels = self.shape[0]

        def one(cell: dict[str, Any]) -> Pixels | Exception:
            try:
                return decode(cell, channels, self.image_size)
            except Exception as error:  # PIL's readers raise many kinds, also SyntaxError
                return error

        threads = os.cpu_count() or 1
        in_worker = torch.utils.data.get_worker_info() is not None
        if in_worker or threads == 1 or not cells or mean_bytes(cells) < THREADED_FROM:
            return zip(indices.tolist(), cells, map(one, cells), strict=True)
        with ThreadPoolExecutor(threads) as pool:
            return list(zip(indices.tolist(), cells, pool.map(one, cells), strict=True))


def image_rows(
    name: str,
    tables: Mapping[str, datasets.Dataset],
    image_size: int | None = None,
    channels: int | None = None,
) -> dict[str, Rows]:
    """Rows for each part; the first readable image says size and channels where they are not given.

    Raises:
        DataError: there is no image, or none that can be read.
    """
    if len(tables["train"]) == 0:
        raise DataError("the data are empty", given=f"{name}: no training image")
    shape = first_shape(tables["train"], channels, image_size)
    return {part: ImageRows(table, shape, image_size) for part, table in tables.items()}


def first_shape(
    table: datasets.Dataset, channels: int | None, image_size: int | None
) -> tuple[int, int, int]:
    """(C, H, W) of the first image that can be read."""
    problems = Problems()
    for index in range(len(table)):
        cell = table[index]["image"]
        try:
            with opened(cell) as image:
                count = channels or channels_of(image)
            _, height, width = decode(cell, count, image_size).shape
            return count, height, width
        except Exception as error:  # PIL's readers raise many kinds, also SyntaxError
            problems.unreadable.append(named(cell, index, error))
    problems.report(len(table))
    raise AssertionError("an unreadable image was reported")


def opened(cell: Mapping[str, Any]) -> Image.Image:
    """The image of a cell, its header read only."""
    from PIL import Image

    encoded = cell["bytes"]
    return Image.open(io.BytesIO(encoded) if encoded is not None else cell["path"])


def decode(cell: Mapping[str, Any], channels: int, image_size: int | None = None) -> Pixels:
    """One image as uint8 [C, H, W]: upright, converted, resized, cropped."""
    with opened(cell) as opened_image:
        image: Image.Image = opened_image
        if image.format in WITH_ORIENTATION:
            from PIL import ImageOps

            image = ImageOps.exif_transpose(image)
        image = converted(image, channels)
        if image_size is not None:
            image = squared(image, image_size)
        pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def channels_of(image: Image.Image) -> int:
    """1 for gray images, with or without transparency; 3 for colour, which a palette counts as."""
    return 1 if image.mode in ("1", "L", "LA", "La") or image.mode.startswith(("I", "F")) else 3


def converted(image: Image.Image, channels: int) -> Image.Image:
    """The image as 8-bit gray or RGB; transparency is dropped, and 16 bits become 8."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("32-bit float pixels have no 8-bit gray levels")
    if image.mode.startswith("I"):  # 16 bits, which convert() would cut off at 255
        image = Image.fromarray(np.rint(np.asarray(image) / 257).clip(0, 255).astype(np.uint8))
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def squared(image: Image.Image, size: int) -> Image.Image:
    """The shorter side resized to ``size`` (Lanczos, antialiased), the centre square kept."""
    from PIL import Image

    width, height = image.size
    ratio = size / min(width, height)
    width, height = max(size, round(width * ratio)), max(size, round(height * ratio))
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def mean_bytes(cells: list[dict[str, Any]]) -> float:
    """The mean size of the first cells; files that are read by path count as large."""
    sizes = [THREADED_FROM if cell["bytes"] is None else len(cell["bytes"]) for cell in cells[:32]]
    return sum(sizes) / len(sizes)


def named(cell: Mapping[str, Any], index: int, error: Exception) -> str:
    """A name by which a person finds the image, and the reason in a few words."""
    reason = (
        "no image" if type(error).__name__ == "UnidentifiedImageError" else str(error) or type(error).__name__
    )
    where = (
        cell["path"]
        if cell.get("bytes") is None
        else f"row {index}" + (f" ({cell['path']})" if cell["path"] else "")
    )
    return f"{where}: {reason}"
