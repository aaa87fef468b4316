"""``advae sample``: observations from a model, as a sheet of images or as arrays."""

from __future__ import annotations

import argparse
import math

from advae.cli.base import Parser, add_model, add_output, count, seed
from advae.cli.output import target, write_npz, write_sheet, written
from advae.cli.subject import open_subject

EXAMPLES = """\
  advae sample runs/mine
  advae sample runs/mine -n 10000 --out samples.npz
  advae sample runs/mine --seed 7 --out sheet.png"""


def parser() -> Parser:
    """Its arguments."""
    made = Parser(
        "sample",
        "Draw codes from the prior and decode them. A .png is a sheet of images; an .npz holds x (as the model\n"
        "sees observations), values (the same in grey levels or the data's units) and seed.",
        EXAMPLES,
    )
    made.add_argument("run", metavar="RUN", help="a run directory, a saved model, or a hub id")
    made.add_argument("-n", metavar="N", type=count, default=64, help="how many (default: 64)")
    made.add_argument("--draw", action="store_true", help="draw from p(x|z) instead of showing its mean")
    made.add_argument("--out", metavar="FILE", help=".png or .npz (default: samples.png in the run's folder)")
    made.add_argument("--seed", metavar="N", type=seed, default=0, help="the same seed, the same samples")
    add_model(made, data=False)
    add_output(made)
    return made


def run(args: argparse.Namespace) -> int:
    """Sample and write."""
    subject = open_subject(args)
    path = target(args, subject.folder, "samples", images=subject.images)
    x = subject.model.sample(args.n, seed=args.seed, mean=not args.draw).cpu()
    values = subject.protocol.to_grey(x)
    if path.suffix == ".npz":
        write_npz(path, x=x, values=values, seed=args.seed)
    else:
        from advae.report.sheets import image_grid

        write_sheet(path, image_grid(values.numpy(), columns=math.ceil(math.sqrt(args.n))))
    return written(args, path, n=args.n, shape=list(x.shape))
