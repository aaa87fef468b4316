"""What can be said about the data on the command line or in a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PreprocessingName = Literal["binarize-dynamic", "binarize-static", "gray", "dequantize", "standardize"]
Storage = Literal["auto", "resident", "stream"]


@dataclass(frozen=True)
class DataOptions:
    """Where the data are, how they are cut, and how they are observed."""

    source: str = "digits"
    """The data: `digits` (embedded handwritten digits), a .npy or .npz file, a folder of images, a Parquet
    file, folder or glob, or a data set of the hub as OWNER/NAME."""

    preprocessing: PreprocessingName = "dequantize"
    """How a stored example becomes an observation: `binarize-dynamic` (pixels drawn anew at each look),
    `binarize-static` (drawn once), `gray` (pixel / 255, the probability of a one), `dequantize` (8 bits plus
    uniform noise, in [0, 1)) or `standardize` (mean 0, standard deviation 1 over the training examples)."""

    validation: float | None = None
    """Validation examples, a share in (0, 1) or a count: of the source's own validation split the first so
    many, otherwise cut from the end of train. By default the whole split of the source, otherwise the last
    10,000 of train when it has 50,000 or more, otherwise its last tenth."""

    test: float | None = None
    """Test examples, a share in (0, 1) or a count: of the source's own test split the first so many,
    otherwise cut from the end. By default the whole split of the source, otherwise a tenth."""

    split_seed: int = 0
    """Seed of the shuffle before cutting, for sources without an order of their own. Parquet, hub and .npz
    sources with a test split keep their order, unless it goes class by class."""

    binarize_seed: int = 0
    """Seed of the draws of `binarize-static`."""

    image_size: int | None = None
    """Resize the shorter side to this, at most 1024, and crop the centre square (folders, Parquet, hub). By default
    the size is kept, and must then be the same for all images."""

    channels: int | None = None
    """Convert images (folders, Parquet, hub) to 1 channel (gray) or 3 (RGB). By default as the first."""

    limit: int | None = None
    """Use only the first so many training examples (for trials)."""

    storage: Storage = "auto"
    """`resident` holds all examples on the device, `stream` reads them as they are needed; `auto` streams
    what is larger than 2 GiB."""

    workers: int = 2
    """Processes that read streamed data ahead; 0 reads in the main process."""
