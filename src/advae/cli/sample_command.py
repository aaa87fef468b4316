"""``advae sample``: observations from a model, as a sheet of images or as arrays."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence

from advae.cli.console import target, write_npz, write_sheet, written
from advae.cli.loaded_model import open_subject
from advae.cli.parser import Parser, add_model, add_out, add_output, add_run, count
from advae.errors import ConfigError

COPIES = 4  # of every number: as drawn, joined, in grey levels, and as they are written

EXAMPLES = """\
  advae sample runs/mine
  advae sample runs/mine -n 10000 --out samples.npz
  advae sample runs/mine --seed 7 --out sheet.png"""


def parser() -> Parser:
    """Its arguments."""
    made = Parser(
        "sample",
        "Draw codes from the prior and decode them; of a model without codes, draw from p(x). A .png is a sheet of"
        " images; an .npz holds x (as the model sees observations), values (the same in grey levels or the data's"
        " units) and the seed.",
        EXAMPLES,
        usage="RUN [-n N] [--out FILE] [option …]",
    )
    add_run(made, "a run directory, a saved model, or a hub id")
    made.add_argument("-n", metavar="N", type=count, default=64, help="how many (default: 64)")
    made.add_argument("--draw", action="store_true", help="draw from p(x|z) instead of showing its mean")
    add_out(made, "samples")
    add_model(made, data=False)
    add_output(made)
    return made


def _fits(n: int, shape: Sequence[int]) -> None:
    """See that so many observations can be held at once.

    Raises:
        ConfigError: they cannot.
    """
    if not hasattr(os, "sysconf"):  # a system that does not say
        return
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    most = memory // (COPIES * 4 * math.prod(shape))
    if n > most:
        raise ConfigError(
            "so many samples cannot be held in memory",
            given=f"-n {n}",
            expected=f"{most:,} or fewer",
            remedy="draw them in parts, each with a --seed of its own",
        )


def run(args: argparse.Namespace) -> int:
    """Sample and write."""
    subject = open_subject(args)
    _fits(args.n, subject.model.x_shape)
    path = target(args, subject.folder, "samples", images=subject.images)
    mean = subject.model.latent > 0 and not args.draw  # without codes p(x|z) is p(x), whose mean is no sample
    x = subject.model.sample(args.n, seed=args.seed, mean=mean).cpu()
    values = subject.protocol.to_grey(x)
    if path.suffix == ".npz":
        write_npz(path, x=x, values=values, seed=args.seed)
    else:
        from advae.report.figures.image_grid import image_grid

        write_sheet(path, image_grid(values.numpy(), columns=math.ceil(math.sqrt(args.n))))
    return written(args, path, n=args.n, shape=list(x.shape))
