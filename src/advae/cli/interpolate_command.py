"""``advae interpolate``: decoded paths between the codes of pairs of observations."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from advae.cli.console import target, write_npz, write_sheet, written
from advae.cli.loaded_model import Examples, open_encoding, open_examples
from advae.cli.parser import Parser, add_examples, add_model, add_out, add_output, add_run, count
from advae.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EXAMPLES = """\
  advae interpolate runs/mine
  advae interpolate runs/mine --pairs 12 --steps 14 --seed 3 --out paths.png
  advae interpolate runs/mine --out paths.npz"""


def parser() -> Parser:
    """Its arguments."""
    made = Parser(
        "interpolate",
        "Decode the arcs between the codes of pairs of observations, of different classes where there are"
        " labels. A .png has a path a row, between its two observations; an .npz holds paths and ends (as the"
        " model sees observations), values and end_values (in grey levels or the data's units) and index.",
        EXAMPLES,
        usage="RUN [--pairs N] [--steps N] [--out FILE] [option …]",
    )
    add_run(made, "a run directory; with --input also a saved model or a hub id")
    made.add_argument("--pairs", metavar="N", type=count, default=8, help="how many pairs (default: 8)")
    made.add_argument("--steps", metavar="N", type=count, default=10, help="points of a path (default: 10)")
    add_examples(made)
    add_out(made, "interpolations")
    add_model(made)
    add_output(made)
    return made


def run(args: argparse.Namespace) -> int:
    """Interpolate and write."""
    subject = open_encoding(args, "interpolate")
    path = target(args, subject.folder, "interpolations", images=subject.images)
    examples = open_examples(subject, args)
    import torch

    from advae.model import seeded

    index = chosen_pairs(examples, args.pairs, args.seed)
    ends = examples.observed(index.reshape(-1).tolist(), args.seed).unflatten(0, (-1, 2))
    with seeded(args.seed, subject.model.device):
        paths = torch.stack([subject.model.interpolate(a, b, args.steps).cpu() for a, b in ends])
    values, end_values = (examples.protocol.to_grey(v.flatten(0, 1)).reshape(v.shape) for v in (paths, ends))
    if path.suffix == ".npz":
        write_npz(path, paths=paths, ends=ends, values=values, end_values=end_values, index=index)
    else:
        from advae.report.figures.image_grid import interpolation_rows

        write_sheet(path, interpolation_rows(values.numpy(), end_values.numpy()))
    return written(args, path, pairs=len(index), steps=args.steps, data=examples.source)


def chosen_pairs(examples: Examples, pairs: int, seed: int) -> NDArray[np.int64]:
    """Places of pairs of examples ``[pairs, 2]``, those of different classes first; fewer if need be."""
    order = examples.chosen(4 * pairs, seed)
    found = order[: len(order) // 2 * 2].reshape(-1, 2)
    if len(found) == 0:
        raise DataError("a path needs two observations", given=f"{len(order)} in {examples.source}")
    labels = examples.labels().get("labels")
    alike = [labels is not None and labels[a] == labels[b] for a, b in found]
    found = found[sorted(range(len(found)), key=lambda i: bool(alike[i]))]
    return found[:pairs]
