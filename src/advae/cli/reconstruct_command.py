"""``advae reconstruct``: observations beside what their codes decode to."""

from __future__ import annotations

import argparse

from advae.cli.console import target, write_npz, write_sheet, written
from advae.cli.loaded_model import open_encoding, open_examples
from advae.cli.parser import Parser, add_examples, add_model, add_out, add_output, add_run, count

EXAMPLES = """\
  advae reconstruct runs/mine
  advae reconstruct runs/mine --split train -n 100 --out train.png
  advae reconstruct runs/mine --input my_images/ --out mine.npz"""


def parser() -> Parser:
    """Its arguments."""
    made = Parser(
        "reconstruct",
        "Encode observations and decode the means of their codes. A .png shows pairs, originals above; an"
        " .npz holds x and reconstruction (as the model sees them), values and reconstruction_values (in grey"
        " levels or the data's units), index (their places in the split) and labels.",
        EXAMPLES,
        usage="RUN [-n N] [--split NAME | --input PATH] [--out FILE] [option …]",
    )
    add_run(made, "a run directory; with --input also a saved model or a hub id")
    made.add_argument("-n", metavar="N", type=count, default=32, help="how many (default: 32)")
    add_examples(made)
    made.add_argument("--draw", action="store_true", help="decode a draw from q(z|x) instead of its mean")
    add_out(made, "reconstructions")
    add_model(made)
    add_output(made)
    return made


def run(args: argparse.Namespace) -> int:
    """Reconstruct and write."""
    subject = open_encoding(args, "reconstruct")
    path = target(args, subject.folder, "reconstructions", images=subject.images)
    examples = open_examples(subject, args)
    index = examples.chosen(args.n, args.seed)
    x = examples.observed(index.tolist(), args.seed)
    back = subject.model.reconstruct(x, mean=not args.draw, seed=args.seed).cpu()
    values, back_values = (examples.protocol.to_grey(v) for v in (x, back))
    if path.suffix == ".npz":
        arrays = {"values": values, "reconstruction_values": back_values, "index": index}
        write_npz(path, x=x, reconstruction=back, **arrays, **examples.labels(index))
    else:
        from advae.report.figures.image_grid import reconstruction_pairs

        write_sheet(path, reconstruction_pairs(values.numpy(), back_values.numpy()))
    return written(args, path, n=len(x), data=examples.source, split=examples.split.name)
