"""``advae reconstruct``: observations next to their reconstructions."""

from __future__ import annotations

from dataclasses import dataclass

from advae.cli.console import print_written, write_csv, write_figure
from advae.cli.loaded_model import open_examples
from advae.cli.parser import Count, ExampleOptions, FilePath, Parser
from advae.io import write_npz

SUMMARY = "encode and decode observations"
EXAMPLES = """
advae reconstruct runs/mine
advae reconstruct runs/mine image.png --out image-and-reconstruction.png
advae reconstruct runs/mine table.csv --out reconstructed.csv
advae reconstruct runs/mine --split train -n 100 --out train.png
"""
DEFAULT_COUNT = 32


@dataclass(frozen=True, kw_only=True)
class ReconstructOptions(ExampleOptions):
    """Encode observations and decode the means of their latents. A .png shows pairs, originals above; a .csv holds the
    reconstructed rows of a table, in their order and in the units of the data; an .npz holds x and reconstruction
    (preprocessed), values and reconstruction_values (in gray levels or the data's units), index (positions in the
    split) and labels."""

    n: Count | None = None
    """Number of observations, a random choice; in a .csv the first ones (default: 32; in a .csv all)."""
    stochastic: bool = False
    """Decode a sample of q(z|x) instead of its mean."""
    out: FilePath | None = None
    """Output file, .png (images), .csv (tables) or .npz (default: in the run directory)."""


def parser() -> Parser[ReconstructOptions]:
    usage = "RUN [PATH | --split NAME] [-n N] [--out FILE] [option …]"
    return Parser("reconstruct", ReconstructOptions, EXAMPLES, usage=usage)


def run(options: ReconstructOptions) -> int:
    """Reconstruct and write."""
    loaded, examples, path = open_examples("reconstruct", options, "reconstructions")
    import numpy as np

    if path.suffix == ".csv":
        index = np.arange(len(examples.split))[: options.n]
    else:
        index = examples.sample_indices(options.n or DEFAULT_COUNT, options.seed)
    x = examples.observations(index.tolist(), options.seed)
    x_back = loaded.model.reconstruct(x, mean=not options.stochastic, seed=options.seed).cpu()
    values, values_back = (examples.preprocessing.to_gray(v) for v in (x, x_back))
    if path.suffix == ".csv":
        write_csv(path, loaded.to_columns(x_back))
    elif path.suffix == ".npz":
        arrays = {"x": x, "reconstruction": x_back, "values": values, "reconstruction_values": values_back}
        write_npz(path, {**arrays, "index": index, **examples.labels(index)}, compress=True)
    else:
        from advae.report.figures.image_grid import reconstruction_pairs

        write_figure(path, reconstruction_pairs(values.numpy(), values_back.numpy()))
    return print_written(options, path, n=len(x), data=examples.source, split=examples.split.name)
