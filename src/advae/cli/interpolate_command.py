"""``advae interpolate``: decoded paths between the latents of pairs of observations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from advae.cli.console import print_written, write_csv, write_figure
from advae.cli.loaded_model import Examples, open_examples
from advae.cli.parser import Count, ExampleOptions, Parser
from advae.errors import DataError
from advae.io import write_npz

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SUMMARY = "decode paths between the latents of pairs of observations"
EXAMPLES = """
advae interpolate runs/mine
advae interpolate runs/mine --pairs 12 --steps 14 --seed 3 --out paths.png
advae interpolate runs/mine --out paths.npz
"""


@dataclass(frozen=True, kw_only=True)
class InterpolateOptions(ExampleOptions):
    """Decode the arcs between the latents of pairs of observations, of different classes if there are labels. A
    .png has one path per row, between its two observations; a .csv one point of a path per row, in the units of the
    data; an .npz holds paths and ends (preprocessed), values and end_values (in gray levels or the data's units) and
    index."""

    pairs: Count = 8
    """Number of pairs."""
    steps: Count = 10
    """Number of points per path."""


def parser() -> Parser[InterpolateOptions]:
    usage = "RUN [PATH] [--pairs N] [--steps N] [--out FILE] [option …]"
    return Parser("interpolate", InterpolateOptions, EXAMPLES, usage=usage)


def run(options: InterpolateOptions) -> int:
    """Interpolate and write."""
    loaded, examples, path = open_examples("interpolate", options, "interpolations")
    import torch

    from advae.random import seeded

    index = sample_pairs(examples, options.pairs, options.seed)
    ends = examples.observations(index.reshape(-1).tolist(), options.seed).unflatten(0, (-1, 2))
    with seeded(options.seed, loaded.model.device):
        paths = torch.stack([loaded.model.interpolate(a, b, options.steps).cpu() for a, b in ends])
    to_gray = examples.preprocessing.to_gray
    values, end_values = (to_gray(x.flatten(0, 1)).reshape(x.shape) for x in (paths, ends))
    if path.suffix == ".npz":
        arrays = {"paths": paths, "ends": ends, "values": values, "end_values": end_values, "index": index}
        write_npz(path, arrays, compress=True)
    elif path.suffix == ".csv":
        pair, step = (t.flatten() for t in torch.meshgrid(*map(torch.arange, paths.shape[:2]), indexing="ij"))
        write_csv(path, {"pair": pair, "step": step, **loaded.to_columns(paths.flatten(0, 1))})
    else:
        from advae.report.figures.image_grid import interpolation_rows

        write_figure(path, interpolation_rows(values.numpy(), end_values.numpy()))
    return print_written(options, path, pairs=len(index), steps=options.steps, data=examples.source)


def sample_pairs(examples: Examples, count: int, seed: int) -> NDArray[np.int64]:
    """Sample pairs of indices ``[count, 2]``, first those of different classes; fewer if there are not enough."""
    indices = examples.sample_indices(4 * count, seed)
    pairs = indices[: len(indices) // 2 * 2].reshape(-1, 2)
    if len(pairs) == 0:
        raise DataError("A path needs two observations.", given=f"{len(indices)} in {examples.source}")
    labels = examples.labels().get("labels")
    same_class = [labels is not None and bool(labels[a] == labels[b]) for a, b in pairs]
    order = sorted(range(len(pairs)), key=same_class.__getitem__)
    return pairs[order][:count]
