"""``advae encode``: the latents of observations, as arrays or as a table."""

from __future__ import annotations

from dataclasses import dataclass

from advae.cli.console import print_written, write_csv
from advae.cli.loaded_model import open_examples
from advae.cli.parser import ExampleOptions, FilePath, Parser
from advae.io import write_npz

SUMMARY = "write the latents of observations to an .npz or .csv file"
EXAMPLES = """
advae encode runs/mine
advae encode runs/mine image.png
advae encode runs/mine table.csv --out latents.csv
advae encode runs/mine --split train --out latents.npz
"""


@dataclass(frozen=True, kw_only=True)
class EncodeOptions(ExampleOptions):
    """Write the latents of observations, in their order: z, the mean of q(z|x), [N, d]; z_sample, a sample of it,
    [N, d]; and labels [N], if there are any. A .csv has the columns z1, z2, … of the mean, and label."""

    out: FilePath | None = None
    """Output file, .npz or .csv (default: latents.npz, for tables latents.csv, in the run directory)."""


def parser() -> Parser[EncodeOptions]:
    return Parser(
        "encode", EncodeOptions, EXAMPLES, usage="RUN [PATH | --split NAME] [--out FILE] [option …]"
    )


def run(options: EncodeOptions) -> int:
    """Encode and write."""
    loaded, examples, path = open_examples("encode", options, "latents", (".npz", ".csv"))
    import torch

    from advae.random import seeded

    means, samples = [], []
    with torch.no_grad(), seeded(options.seed, loaded.model.device):
        for x in examples.batches(options.seed):
            q = loaded.model.encode(x.to(loaded.model.device))
            means.append(q.mean.cpu())
            samples.append(q.sample().cpu())
    z = torch.cat(means)
    if path.suffix == ".csv":
        write_csv(path, {f"z{i + 1}": values for i, values in enumerate(z.T)} | examples.label_column())
    else:
        write_npz(path, {"z": z, "z_sample": torch.cat(samples), **examples.labels()}, compress=True)
    details = {"n": len(z), "latent_dim": z.shape[1], "data": examples.source, "split": examples.split.name}
    return print_written(options, path, **details)
