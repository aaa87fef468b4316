"""Options of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PreprocessingName = Literal[
    "auto", "binarize-dynamic", "binarize-static", "gray", "dequantize", "standardize"
]
Layout = Literal["auto", "NHW", "NCHW", "NHWC", "as-stored"]
Storage = Literal["auto", "resident", "stream"]


@dataclass(frozen=True)
class DataOptions:
    """Source, splits, preprocessing and storage of the data."""

    source: str = "digits"
    """The data: `digits` (handwritten digits of scikit-learn), a .npy or .npz file, a folder of images, a CSV, TSV or
    Parquet file, folder or pattern, or a data set of the Hugging Face hub as OWNER/NAME."""

    preprocessing: PreprocessingName = "dequantize"
    """How stored examples become observations: `binarize-dynamic` (pixels sampled in every step),
    `binarize-static` (sampled once), `gray` (pixel / 255, the probability of a one), `dequantize` (8 bits plus
    uniform noise, in [0, 1)) or `standardize` (mean 0, standard deviation 1 over the training examples). `auto` is
    `dequantize` for 8-bit images, and `standardize` for tables, vectors and other images."""

    validation: float | None = None
    """Number of validation examples, or their fraction in (0, 1): the first of the source's validation split if it
    has one, otherwise cut from the end of train. By default the whole split of the source, otherwise the last
    10,000 of train when it has 50,000 or more, otherwise its last tenth."""

    test: float | None = None
    """Number of test examples, or their fraction in (0, 1): the first of the source's test split if it has one,
    otherwise cut from the end of train. By default the whole split of the source, otherwise a tenth."""

    split_seed: int = 0
    """Seed of the shuffle before cutting, for sources without a meaningful order. Parquet, hub and .npz sources
    with a test split keep their order, unless they are sorted by class."""

    binarize_seed: int = 0
    """Seed of `binarize-static`."""

    image_size: int | None = None
    """Resize the shorter side to this many pixels, at most 1024, and crop the center square (image folders,
    Parquet, hub). By default the size is kept, and must then be the same for all images."""

    channels: int | None = None
    """Convert images (image folders, Parquet, hub) to 1 channel (gray) or 3 (RGB). By default RGB if any image has
    color."""

    layout: Layout = "auto"
    """Axes of arrays (.npy, .npz): `NHW` gray images, `NCHW` or `NHWC` images with channels, or `as-stored`. `auto`
    decides by the shape."""

    white_level: float | None = None
    """Stored value of white, which becomes 255. By default 1 or 255 for arrays, and for images of more than 8 bits
    the largest value of the fewest bits (8, 10, 12, 14, 16, 24, 32) that hold all pixels."""

    label: str | None = None
    """Column with the classes (tables, and Parquet or hub images), or `none`. By default a column with a usual name
    (label, class, target, species, …) and few values, otherwise the only column of text."""

    missing: Literal["refuse", "drop"] = "refuse"
    """Rows of tables with missing values: `refuse` them, or `drop` them from all splits."""

    limit: int | None = None
    """Use only the first training examples, this many."""

    storage: Storage = "auto"
    """`resident` keeps all examples on the device, `stream` reads them when needed; `auto` streams data of more
    than 2 GiB."""

    workers: int = 2
    """Processes that read streamed data ahead; 0 reads in the main process."""
