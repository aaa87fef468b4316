"""Encoded images: decoding, orientation, transparency, bit depth, color and size, to uint8 ``[C, H, W]``.

- The orientation of the EXIF tag is applied, in every format that has it.
- Transparency is composited on white.
- Images become RGB if any of the data set has color, otherwise gray, unless ``data.channels`` is set.
- Gray levels of more than 8 bits are divided by the white level, the same for the data set, and rounded.
- Of several frames, the first is used.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from advae.data.data_options import DataOptions
from advae.data.dataset import IndexedExamples, Indices, ReadErrors, chunk_ranges, reading_progress
from advae.data.sources import check_regular_file, printable
from advae.errors import DataError
from advae.progress import Progress

if TYPE_CHECKING:
    import datasets
    from PIL import Image

    Table: TypeAlias = datasets.Dataset | list[str]

Pixels = npt.NDArray[np.uint8]
# Decoding releases the interpreter's lock. Measured on 2 cores: images of 1 to 2 kB decode faster without threads.
MIN_BYTES_FOR_THREADS = 16_384  # mean size of an encoded image
# Others are not opened: some of PIL's decoders start other programs.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000")
EXIF_ORIENTATION, EXIF_ROTATED = 0x0112, {5, 6, 7, 8}  # the tag, and its values that swap height and width
EXIF_IN_PNG = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")  # keys of PIL
BIT_DEPTHS = (8, 10, 12, 14, 16, 24, 32)  # of sensors and file formats
BACKGROUND = "white"


class ImageExamples(IndexedExamples):
    """Encoded images, decoded as they are read.

    Args:
        table: paths of files, or a table with a column ``image`` of ``{bytes, path}``, not decoded.
        shape: (C, H, W) that every image must have after conversion and resizing.
        survey: of the headers of these images.
        image_size: resize the shorter side to this and crop the center; None keeps the size.
        white: the value of white in images of more than 8 bits.
    """

    def __init__(
        self, table: Table, shape: tuple[int, int, int], survey: Survey, image_size: int | None, white: float
    ) -> None:
        self.table, self.shape, self.survey = table, shape, survey
        self.image_size, self.white = image_size, white
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
        """Add files that are not images and sizes that differ, as the survey of the headers found them."""
        for index in indices.tolist():
            if index in self.survey.failures:
                errors.unreadable.append(self.survey.failures[index])
            elif self.image_size is None:
                self._count_size(errors, *self.survey.sizes[index].tolist())

    def _count_size(self, errors: ReadErrors, height: int, width: int) -> None:
        """Count an image's size. If it differs, also count the expected size, whose image may not be among these."""
        errors.sizes[f"{height} × {width}"] += 1
        if (height, width) != self.shape[1:]:
            expected = f"{self.shape[1]} × {self.shape[2]}"
            errors.sizes[expected] = max(1, errors.sizes[expected])

    def _decode_all(self, indices: Indices) -> Iterable[tuple[int, dict[str, Any], Pixels | Exception]]:
        """Return index, cell, and pixels or error of each image; in threads where that is faster."""
        cells = read_cells(self.table, indices.tolist())

        def decode_or_error(cell: dict[str, Any]) -> Pixels | Exception:
            try:
                return decode(cell, self.shape[0], self.image_size, self.white)
            except Exception as error:  # PIL raises many kinds of errors, including SyntaxError
                return error

        threads = os.cpu_count() or 1
        in_worker = torch.utils.data.get_worker_info() is not None
        sizes = [MIN_BYTES_FOR_THREADS if cell["bytes"] is None else len(cell["bytes"]) for cell in cells]
        if in_worker or threads == 1 or sum(sizes) < MIN_BYTES_FOR_THREADS * len(cells):
            return zip(indices.tolist(), cells, map(decode_or_error, cells), strict=True)
        with ThreadPoolExecutor(threads) as pool:
            return list(zip(indices.tolist(), cells, pool.map(decode_or_error, cells), strict=True))


@dataclass
class Survey:
    """What the headers of encoded images say.

    Attributes:
        sizes: height and width after rotation ``[N, 2]``; 0 if unreadable.
        failures: why images cannot be read, by index.
        traits: numbers of images that are ``gray``, have ``color``, are ``transparent``, ``deep`` (more than 8 bits),
            ``reduced`` (16 bits per color channel, of which PIL reads 8), ``animated``.
        largest: the largest pixel of deep images.
        is_fraction: whether deep images have fractions, so that 1 can be white.
    """

    sizes: npt.NDArray[np.int32]
    failures: dict[int, str] = field(default_factory=dict)
    traits: Counter[str] = field(default_factory=Counter)
    largest: float = 0.0
    is_fraction: bool = False

    def add(self, index: int, image: Image.Image) -> None:
        """Add an opened image; deep ones are decoded."""
        mode, size = raw_mode(image), image.size
        if orientation(image) in EXIF_ROTATED:  # PIL's versions differ in the size of TIFF files
            size = load_oriented(image).size if image.format == "TIFF" else size[::-1]
        self.sizes[index] = size[::-1]
        is_deep = image.mode.startswith(("I", "F"))
        self.traits["gray" if is_gray(image) else "color"] += 1
        self.traits["transparent"] += not is_deep and image.has_transparency_data
        self.traits["reduced"] += not is_deep and ";16" in mode
        self.traits["animated"] += image.format != "MPO" and getattr(image, "is_animated", False)
        if is_deep:
            self.traits["deep"] += 1
            pixels = deep_pixels(image)
            self.largest = max(self.largest, float(pixels.max()))
            self.is_fraction = self.is_fraction or image.mode == "F"


def survey_images(table: Table, progress: Progress) -> Survey:
    """Read the headers of all images."""
    survey = Survey(np.zeros((len(table), 2), np.int32))
    for chunk in chunk_ranges(len(table)):
        for index, cell in zip(chunk, read_cells(table, list(chunk)), strict=True):
            try:
                with open_image(cell) as image:
                    survey.add(index, image)
            except Exception as error:  # PIL raises many kinds of errors, including SyntaxError
                survey.failures[index] = describe_failure(cell, index, error)
        progress.update(progress.step + len(chunk), {})
    return survey


def image_examples(
    name: str, tables: Mapping[str, Table], options: DataOptions
) -> dict[str, IndexedExamples]:
    """Return the examples of each split, converted in the same way, which follows from all their headers.

    The size is that of the first readable training image.

    Raises:
        DataError: if there is no training image, or none that can be read.
    """
    if len(tables["train"]) == 0:
        raise DataError("The data are empty.", given=f"{name}: no training image")
    with reading_progress("checking images", sum(map(len, tables.values()))) as progress:
        surveys = {split: survey_images(table, progress) for split, table in tables.items()}
    train = surveys["train"]
    readable = np.flatnonzero(train.sizes[:, 0])
    if len(readable) == 0:
        ReadErrors(list(train.failures.values())).raise_if_any(len(train.sizes))
    traits = sum((survey.traits for survey in surveys.values()), Counter[str]())
    channels = options.channels or (3 if traits["color"] else 1)
    white = options.white_level or white_level(surveys.values())
    size = options.image_size
    height, width = (size, size) if size else train.sizes[readable[0]].tolist()
    examples = {
        split: ImageExamples(table, (channels, height, width), surveys[split], size, white)
        for split, table in tables.items()
    }
    reading = {"channels": channels} | ({"white_level": white} if traits["deep"] else {})
    for part in examples.values():
        part.reading = reading
    largest = max(survey.largest for survey in surveys.values())
    examples["train"].remarks = conversion_remarks(traits, options, white, largest)
    return dict(examples)


def conversion_remarks(traits: Counter[str], options: DataOptions, white: float, largest: float) -> list[str]:
    """Return remarks on conversions that change or lose information."""
    count = {trait: f"{traits[trait]:,} of {traits['gray'] + traits['color']:,} images" for trait in traits}
    remarks = []
    if options.channels is None and traits["gray"] and traits["color"]:
        remarks.append(f"{count['color']} have color, and so all are read as RGB (data.channels).")
    if traits["transparent"]:
        remarks.append(f"{count['transparent']} have transparency: they are composited on {BACKGROUND}.")
    if traits["deep"]:
        clipped = "; larger values become white" if largest > white else ""
        scaling = f"levels 0 to {white:,g} are rounded to 8 bits (data.white_level){clipped}"
        remarks.append(f"{count['deep']} have pixels of more than 8 bits, up to {largest:,g}: {scaling}.")
    if traits["reduced"]:
        remarks.append(f"{count['reduced']} have 16 bits per color channel: the upper 8 are read.")
    if traits["animated"]:
        remarks.append(f"{count['animated']} have several frames: the first is read.")
    return remarks


def white_level(surveys: Iterable[Survey]) -> float:
    """Return the value of white in deep images: 1 for fractions, else the largest of the fewest usual bits."""
    surveys = list(surveys)
    largest = max(survey.largest for survey in surveys)
    if largest <= 1 and any(survey.is_fraction for survey in surveys):
        return 1.0
    return next((float(2**bits - 1) for bits in BIT_DEPTHS if largest < 2**bits), largest)


def read_cells(table: Table, indices: list[int]) -> list[dict[str, Any]]:
    """Return encoded images as ``{bytes, path}``, both None where a table has none."""
    if isinstance(table, list):
        return [{"bytes": None, "path": table[index]} for index in indices]
    return [cell or {"bytes": None, "path": None} for cell in table[indices]["image"]]


def open_image(cell: Mapping[str, Any]) -> Image.Image:
    """Open the image of a cell and read its header."""
    from PIL import Image

    encoded, path = cell["bytes"], cell["path"]
    if encoded is not None:
        return Image.open(io.BytesIO(encoded), formats=FORMATS)
    if path is None:
        raise ValueError("the image is missing")
    check_regular_file(path)
    image = Image.open(path, formats=FORMATS)
    image.filename = (
        ""  # otherwise PIL maps the file into memory, and pixels of rotated TIFF files are out of place
    )
    return image


def decode(
    cell: Mapping[str, Any], channels: int, image_size: int | None = None, white: float = 255.0
) -> Pixels:
    """Decode one image to uint8 ``[C, H, W]``: rotate by its EXIF tag, convert, resize, crop."""
    with open_image(cell) as encoded:
        image = convert(load_oriented(encoded), channels, white)
        if image_size is not None:
            image = resize_and_crop(image, image_size)
        pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def orientation(image: Image.Image) -> int | None:
    """Return the EXIF orientation, without decoding the image; None if there is none."""
    if image.format == "PNG" and not any(key in image.info for key in EXIF_IN_PNG):
        return None
    value: int | None = image.getexif().get(EXIF_ORIENTATION)
    return value


def load_oriented(image: Image.Image) -> Image.Image:
    """Decode an image and rotate it by its EXIF tag."""
    from PIL import ImageOps

    image.load()  # a PNG file can have its EXIF data at the end; TIFF files are rotated here
    return image if orientation(image) is None else ImageOps.exif_transpose(image)


def raw_mode(image: Image.Image) -> str:
    """Return how PIL names the pixels of the file, as ``LA;16B``."""
    tiles = getattr(image, "tile", None)
    return str(tiles[0][3]) if tiles else ""


def is_gray(image: Image.Image) -> bool:
    """Return whether an opened image is gray, with or without transparency; palettes count as color."""
    is_deep = image.mode.startswith(("I", "F"))
    return is_deep or image.mode in ("1", "L", "LA", "La") or raw_mode(image).startswith("LA")


def deep_pixels(image: Image.Image) -> npt.NDArray[Any]:
    """Return pixels of more than 8 bits ``[H, W]``; raise ValueError if some are not finite or negative."""
    pixels = np.asarray(image)
    if not (pixels >= 0).all() or not np.isfinite(pixels).all():
        raise ValueError("negative or non-finite pixels: save such data as .npy, and set standardize")
    return pixels


def convert(image: Image.Image, channels: int, white: float = 255.0) -> Image.Image:
    """Convert to 8-bit gray or RGB, composited on the background if transparent."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):  # PIL's convert() would clip at 255
        image = Image.fromarray(np.rint(deep_pixels(image) / (white / 255)).clip(0, 255).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, BACKGROUND), image).convert("RGB")
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


def describe_failure(cell: Mapping[str, Any], index: int, error: Exception) -> str:
    """Return the path or row of an image, and why it cannot be read."""
    reason = "not an image" if type(error).__name__ == "UnidentifiedImageError" else str(error)
    place = f"row {index}" + (f" ({cell['path']})" if cell["path"] else "")
    if cell["bytes"] is None and cell["path"]:
        place = cell["path"]
    return f"{printable(place)}: {reason or type(error).__name__}"
