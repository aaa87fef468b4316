"""Encoded images: decoding, orientation, color conversion and resizing to uint8 ``[C, H, W]``."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from advae.data.data_options import DataOptions
from advae.data.dataset import CHUNK_SIZE, IndexedExamples, Indices, ReadErrors
from advae.errors import DataError

if TYPE_CHECKING:
    import datasets
    from PIL import Image

Pixels = npt.NDArray[np.uint8]
# Decoding releases the interpreter's lock. Measured on 2 cores: images of 1 to 2 kB decode faster without threads.
MIN_BYTES_FOR_THREADS = 16_384  # mean size of an encoded image
NUM_SIZED_CELLS = 32  # images from which the mean size is estimated
FORMATS_WITH_EXIF = {"JPEG", "MPO", "TIFF", "WEBP"}
EXIF_ORIENTATION, EXIF_ROTATED = 0x0112, {5, 6, 7, 8}  # the tag, and its values that swap height and width


class ImageExamples(IndexedExamples):
    """Encoded images of a table, decoded as they are read.

    Args:
        table: a column ``image`` of ``{bytes, path}``, not decoded.
        shape: (C, H, W) that every image must have after conversion and resizing.
        image_size: resize the shorter side to this and crop the center; None keeps the size.
    """

    def __init__(self, table: datasets.Dataset, shape: tuple[int, int, int], image_size: int | None) -> None:
        self.table, self.shape, self.image_size = table, shape, image_size
        self.dtype = torch.uint8

    def __len__(self) -> int:
        return len(self.table)

    def read(self, indices: Indices, errors: ReadErrors | None = None) -> Pixels:
        collected = ReadErrors() if errors is None else errors
        pixels = np.zeros((len(indices), *self.shape), np.uint8)
        for place, (index, cell, image) in enumerate(self._decode_all(indices)):
            if isinstance(image, Exception):
                collected.unreadable.append(describe_failure(cell, index, image))
                continue
            self._count_size(collected, *image.shape[1:])
            if image.shape == self.shape:
                pixels[place] = image
        if errors is None:
            collected.raise_if_any(len(indices))
        return pixels

    def scan(self, indices: Indices, errors: ReadErrors) -> None:
        """Read the headers, to find files that are not images and sizes that differ."""
        for start in range(0, len(indices), CHUNK_SIZE):
            chunk = indices[start : start + CHUNK_SIZE]
            for index, cell in zip(chunk.tolist(), self._cells(chunk), strict=True):
                try:
                    with open_image(cell) as image:
                        width, height = image.size
                        if image.format in FORMATS_WITH_EXIF:
                            if image.getexif().get(EXIF_ORIENTATION) in EXIF_ROTATED:
                                width, height = height, width
                except Exception as error:  # PIL raises many kinds of errors, including SyntaxError
                    errors.unreadable.append(describe_failure(cell, index, error))
                else:
                    if self.image_size is None:
                        self._count_size(errors, height, width)

    def _count_size(self, errors: ReadErrors, height: int, width: int) -> None:
        """Count an image's size. If it differs, also count the expected size, whose image may not be among these."""
        errors.sizes[f"{height} × {width}"] += 1
        if (height, width) != self.shape[1:]:
            expected = f"{self.shape[1]} × {self.shape[2]}"
            errors.sizes[expected] = max(1, errors.sizes[expected])

    def _cells(self, indices: Indices) -> list[dict[str, Any]]:
        return list(self.table[indices.tolist()]["image"])

    def _decode_all(self, indices: Indices) -> Iterable[tuple[int, dict[str, Any], Pixels | Exception]]:
        """Return index, cell, and pixels or error of each image; in threads where that is faster."""
        cells = self._cells(indices)

        def decode_or_error(cell: dict[str, Any]) -> Pixels | Exception:
            try:
                return decode(cell, self.shape[0], self.image_size)
            except Exception as error:  # PIL raises many kinds of errors, including SyntaxError
                return error

        threads = os.cpu_count() or 1
        in_worker = torch.utils.data.get_worker_info() is not None
        if in_worker or threads == 1 or not cells or mean_num_bytes(cells) < MIN_BYTES_FOR_THREADS:
            return zip(indices.tolist(), cells, map(decode_or_error, cells), strict=True)
        with ThreadPoolExecutor(threads) as pool:
            return list(zip(indices.tolist(), cells, pool.map(decode_or_error, cells), strict=True))


def image_examples(
    name: str, tables: Mapping[str, datasets.Dataset], options: DataOptions
) -> dict[str, IndexedExamples]:
    """Return the examples of each split. The first readable image sets size and channels, unless options do.

    Raises:
        DataError: if there is no image, or none that can be read.
    """
    if len(tables["train"]) == 0:
        raise DataError("The data are empty.", given=f"{name}: no training image")
    shape = _first_shape(tables["train"], options.channels, options.image_size)
    return {split: ImageExamples(table, shape, options.image_size) for split, table in tables.items()}


def _first_shape(
    table: datasets.Dataset, channels: int | None, image_size: int | None
) -> tuple[int, int, int]:
    """Return (C, H, W) of the first image that can be read."""
    errors = ReadErrors()
    for index in range(len(table)):
        cell = table[index]["image"]
        try:
            with open_image(cell) as image:
                num_channels = channels or channels_of(image)
            _, height, width = decode(cell, num_channels, image_size).shape
            return num_channels, height, width
        except Exception as error:  # PIL raises many kinds of errors, including SyntaxError
            errors.unreadable.append(describe_failure(cell, index, error))
    errors.raise_if_any(len(table))
    raise AssertionError("an unreadable image was reported")


def open_image(cell: Mapping[str, Any]) -> Image.Image:
    """Open the image of a cell and read its header."""
    from PIL import Image

    encoded = cell["bytes"]
    return Image.open(io.BytesIO(encoded) if encoded is not None else cell["path"])


def decode(cell: Mapping[str, Any], channels: int, image_size: int | None = None) -> Pixels:
    """Decode one image to uint8 ``[C, H, W]``: rotate by its EXIF tag, convert, resize, crop."""
    with open_image(cell) as encoded:
        image: Image.Image = encoded
        if image.format in FORMATS_WITH_EXIF:
            from PIL import ImageOps

            image = ImageOps.exif_transpose(image)
        image = convert(image, channels)
        if image_size is not None:
            image = resize_and_crop(image, image_size)
        pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def channels_of(image: Image.Image) -> int:
    """Return 1 for gray images, with or without transparency, and 3 for color and palettes."""
    return 1 if image.mode in ("1", "L", "LA", "La") or image.mode.startswith(("I", "F")) else 3


def convert(image: Image.Image, channels: int) -> Image.Image:
    """Convert to 8-bit gray or RGB, without transparency; 16 bits become 8."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("32-bit float pixels have no 8-bit gray levels")
    if image.mode.startswith("I"):  # 16 bits, which PIL's convert() would clip at 255
        image = Image.fromarray(np.rint(np.asarray(image) / 257).clip(0, 255).astype(np.uint8))
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    """Resize the shorter side to ``size`` (Lanczos, antialiased) and crop the center square."""
    from PIL import Image

    width, height = image.size
    ratio = size / min(width, height)
    width, height = max(size, round(width * ratio)), max(size, round(height * ratio))
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def mean_num_bytes(cells: list[dict[str, Any]]) -> float:
    """Return the mean size of the first images; those in files of their own count as large."""
    sizes = [
        MIN_BYTES_FOR_THREADS if cell["bytes"] is None else len(cell["bytes"])
        for cell in cells[:NUM_SIZED_CELLS]
    ]
    return sum(sizes) / len(sizes)


def describe_failure(cell: Mapping[str, Any], index: int, error: Exception) -> str:
    """Return the path or row of an image, and why it cannot be read."""
    reason = "not an image" if type(error).__name__ == "UnidentifiedImageError" else str(error)
    place = f"row {index}" + (f" ({cell['path']})" if cell["path"] else "")
    if cell.get("bytes") is None:
        place = cell["path"]
    return f"{place}: {reason or type(error).__name__}"
