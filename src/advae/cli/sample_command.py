"""``advae sample``: samples from a model, as an image grid or as arrays."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from advae.cli.console import output_path, print_written, write_csv, write_figure
from advae.cli.loaded_model import load_model
from advae.cli.parser import Count, FilePath, ModelOptions, Parser, RunPath, Seed
from advae.errors import ConfigError
from advae.io import write_atomically, write_npz

if TYPE_CHECKING:
    from torch import Tensor

SUMMARY = "sample observations from a model"
EXAMPLES = """
advae sample runs/mine
advae sample runs/mine -n 10000 --format npz
advae sample runs/mine -n 20 --separate --out images/
advae sample runs/table -n 500 --out synthetic.csv
"""
COPIES_IN_MEMORY = 4  # of every sample: per batch, concatenated, in gray levels, and as written
BYTES_PER_VALUE = 4


@dataclass(frozen=True, kw_only=True)
class SampleOptions(ModelOptions):
    """Decode latents sampled from the prior; from a model without latents, sample p(x). A .png is a grid of images; a
    .csv has the columns of a table, in the units of the data; an .npz holds x (preprocessed, as the model sees
    observations), values (the same in gray levels or the data's units) and the seed."""

    run: RunPath
    """Run directory, saved model, or hub id."""
    n: Count = 64
    """Number of samples."""
    stochastic: bool = False
    """Sample p(x|z) instead of showing its mean."""
    format: Literal["png", "csv", "npz"] | None = None
    """png (images), csv (tables) or npz (default: by --out, else png for images and csv for tables)."""
    separate: bool = False
    """Write every image to a file of its own, in the folder --out."""
    out: FilePath | None = None
    """Output file (default: samples.png, .csv or .npz in the run directory)."""
    seed: Seed = 0
    """Seed of all random choices."""


def parser() -> Parser[SampleOptions]:
    return Parser(
        "sample", SampleOptions, EXAMPLES, usage="RUN [-n N] [--format NAME] [--out FILE] [option …]"
    )


def run(options: SampleOptions) -> int:
    """Sample and write."""
    loaded = load_model(options.run, options)
    _check_fits_in_memory(options.n, loaded.model.x_shape)
    path = _output_path(options, loaded.folder, loaded.suffixes)
    # Without latents p(x|z) is p(x), whose mean is not a sample.
    mean = loaded.model.latent_dim > 0 and not options.stochastic
    x = loaded.model.sample(options.n, seed=options.seed, mean=mean).cpu()
    values = loaded.preprocessing.to_gray(x)
    if options.separate:
        _write_images(path, values)
    elif path.suffix == ".csv":
        write_csv(path, loaded.to_columns(x))
    elif path.suffix == ".npz":
        write_npz(path, {"x": x, "values": values, "seed": options.seed}, compress=True)
    else:
        from advae.report.figures.image_grid import image_grid

        write_figure(path, image_grid(values.numpy(), columns=math.ceil(math.sqrt(options.n))))
    return print_written(options, path, n=options.n, shape=list(x.shape))


def _output_path(options: SampleOptions, folder: Path, suffixes: Sequence[str]) -> Path:
    """Return the file to write or, for separate images, the folder.

    Raises:
        ConfigError: the observations cannot be written in this format, or two formats are named.
    """
    suffix = f".{options.format}"
    if options.format and suffix not in suffixes:
        kinds = {".png": "images of 1 or 3 channels", ".csv": "tables"}
        raise ConfigError(
            f"Format {options.format} is for {kinds[suffix]}.",
            given=f"--format {options.format}",
            expected=" or ".join(s.removeprefix(".") for s in suffixes),
        )
    if options.separate:
        if ".png" not in suffixes or options.format not in (None, "png"):
            raise ConfigError("Only images are written to separate files.", given="--separate")
        from advae.run import check_writable

        path = Path(options.out) if options.out else folder / "generated"
        check_writable(path)
        return path
    return output_path(options.out, folder, "samples", [suffix] if options.format else suffixes)


def _write_images(folder: Path, values: Tensor) -> None:
    """Write gray levels ``[n, C, H, W]`` as PNG files 0000.png, 0001.png, … of a folder."""
    from PIL import Image

    values = values[:, :3] if values.shape[1] >= 3 else values.mean(1, keepdim=True)  # as the grid shows them
    pixels = values.round().clamp(0, 255).byte().permute(0, 2, 3, 1).squeeze(-1).numpy()
    for i, image in enumerate(pixels):
        buffer = BytesIO()
        Image.fromarray(image).save(buffer, "png")
        write_atomically(folder / f"{i:0{max(4, len(str(len(pixels))))}d}.png", buffer.getvalue())


def _check_fits_in_memory(n: int, shape: Sequence[int]) -> None:
    if not hasattr(os, "sysconf"):  # the size of memory is unknown
        return
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    most = memory // (COPIES_IN_MEMORY * BYTES_PER_VALUE * math.prod(shape))
    if n > most:
        raise ConfigError(
            "Samples do not fit into memory.",
            given=f"-n {n}",
            expected=f"{most:,} or fewer",
            fix="sample several times, each with another --seed",
        )
