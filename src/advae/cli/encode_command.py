"""``advae encode``: the latents of observations, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

from advae.cli.console import output_path, print_written
from advae.cli.loaded_model import load_examples, load_model_with_encoder
from advae.cli.parser import ExampleOptions, FilePath, Parser
from advae.io import write_npz

SUMMARY = "write the latents of observations to an .npz file"
EXAMPLES = """
advae encode runs/mine
advae encode runs/mine --split train --out latents.npz
advae encode runs/mine --input my_images/ --out mine.npz
"""


@dataclass(frozen=True, kw_only=True)
class EncodeOptions(ExampleOptions):
    """Write the latents of observations, in their order: z, the mean of q(z|x), [N, d]; z_sample, a sample of it,
    [N, d]; and labels [N], if there are any."""

    out: FilePath | None = None
    """Output file, .npz (default: latents.npz in the run directory)."""


def parser() -> Parser[EncodeOptions]:
    usage = "RUN [--split NAME | --input PATH] [--out FILE] [option …]"
    return Parser("encode", EncodeOptions, EXAMPLES, usage=usage)


def run(options: EncodeOptions) -> int:
    """Encode and write."""
    loaded = load_model_with_encoder("encode", options)
    path = output_path(options.out, loaded.folder, "latents", images=False)
    examples = load_examples(loaded, options)
    import torch

    from advae.random import seeded

    means, samples = [], []
    with torch.no_grad(), seeded(options.seed, loaded.model.device):
        for x in examples.batches(options.seed):
            q = loaded.model.encode(x.to(loaded.model.device))
            means.append(q.mean.cpu())
            samples.append(q.sample().cpu())
    z = torch.cat(means)
    write_npz(path, {"z": z, "z_sample": torch.cat(samples), **examples.labels()}, compress=True)
    details = {"n": len(z), "latent_dim": z.shape[1], "data": examples.source, "split": examples.split.name}
    return print_written(options, path, **details)
