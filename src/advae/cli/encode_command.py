"""``advae encode``: the codes of observations, as arrays."""

from __future__ import annotations

import argparse

from advae.cli.console import target, write_npz, written
from advae.cli.loaded_model import open_encoding, open_examples
from advae.cli.parser import Parser, add_examples, add_model, add_out, add_output, add_run

EXAMPLES = """\
  advae encode runs/mine
  advae encode runs/mine --split train --out codes.npz
  advae encode runs/mine --input my_images/ --out mine.npz"""


def parser() -> Parser:
    """Its arguments."""
    made = Parser(
        "encode",
        "Write the codes of observations, in their order: z, the mean of q(z|x), [N, d]; z_sample, a draw"
        " from it, [N, d]; and labels [N] where there are any.",
        EXAMPLES,
        usage="RUN [--split NAME | --input PATH] [--out FILE] [option …]",
    )
    add_run(made, "a run directory; with --input also a saved model or a hub id")
    add_examples(made)
    add_out(made, "codes", ".npz")
    add_model(made)
    add_output(made)
    return made


def run(args: argparse.Namespace) -> int:
    """Encode and write."""
    subject = open_encoding(args, "encode")
    path = target(args, subject.folder, "codes", images=False)
    examples = open_examples(subject, args)
    import torch

    from advae.model import seeded

    means, draws = [], []
    with torch.no_grad(), seeded(args.seed, subject.model.device):
        for x in examples.chunks(args.seed):
            q = subject.model.encode(x.to(subject.model.device))
            means.append(q.mean.cpu())
            draws.append(q.sample().cpu())
    z = torch.cat(means)
    write_npz(path, z=z, z_sample=torch.cat(draws), **examples.labels())
    return written(args, path, n=len(z), latent=z.shape[1], data=examples.source, split=examples.split.name)
