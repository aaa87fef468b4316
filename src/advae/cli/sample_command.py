"""``advae sample``: samples from a model, as an image grid or as arrays."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from advae.cli.console import output_path, print_written, write_figure
from advae.cli.loaded_model import load_model
from advae.cli.parser import Count, FilePath, ModelOptions, Parser, RunPath, Seed
from advae.errors import ConfigError
from advae.io import write_npz

SUMMARY = "sample observations from a model"
EXAMPLES = """
advae sample runs/mine
advae sample runs/mine -n 10000 --out samples.npz
advae sample runs/mine --seed 7 --out grid.png
"""
COPIES_IN_MEMORY = 4  # of every sample: per batch, concatenated, in gray levels, and as written
BYTES_PER_VALUE = 4


@dataclass(frozen=True, kw_only=True)
class SampleOptions(ModelOptions):
    """Decode latents sampled from the prior; from a model without latents, sample p(x). A .png is a grid of images; an
    .npz holds x (preprocessed, as the model sees observations), values (the same in gray levels or the data's units)
    and the seed."""

    run: RunPath
    """Run directory, saved model, or hub id."""
    n: Count = 64
    """Number of samples."""
    stochastic: bool = False
    """Sample p(x|z) instead of showing its mean."""
    out: FilePath | None = None
    """Output file, .png or .npz (default: samples.png in the run directory)."""
    seed: Seed = 0
    """Seed of all random choices."""


def parser() -> Parser[SampleOptions]:
    return Parser("sample", SampleOptions, EXAMPLES, usage="RUN [-n N] [--out FILE] [option …]")


def run(options: SampleOptions) -> int:
    """Sample and write."""
    loaded = load_model(options.run, options)
    _check_fits_in_memory(options.n, loaded.model.x_shape)
    path = output_path(options.out, loaded.folder, "samples", images=loaded.has_images)
    # Without latents p(x|z) is p(x), whose mean is not a sample.
    mean = loaded.model.latent_dim > 0 and not options.stochastic
    x = loaded.model.sample(options.n, seed=options.seed, mean=mean).cpu()
    values = loaded.preprocessing.to_gray(x)
    if path.suffix == ".npz":
        write_npz(path, {"x": x, "values": values, "seed": options.seed}, compress=True)
    else:
        from advae.report.figures.image_grid import image_grid

        write_figure(path, image_grid(values.numpy(), columns=math.ceil(math.sqrt(options.n))))
    return print_written(options, path, n=options.n, shape=list(x.shape))


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
