"""``advae reconstruct``: observations next to their reconstructions."""

from __future__ import annotations

from dataclasses import dataclass

from advae.cli.console import output_path, print_written, write_figure
from advae.cli.loaded_model import load_examples, load_model_with_encoder
from advae.cli.parser import Count, ExampleOptions, Parser
from advae.io import write_npz

SUMMARY = "encode and decode observations"
EXAMPLES = """
advae reconstruct runs/mine
advae reconstruct runs/mine --split train -n 100 --out train.png
advae reconstruct runs/mine --input my_images/ --out mine.npz
"""


@dataclass(frozen=True, kw_only=True)
class ReconstructOptions(ExampleOptions):
    """Encode observations and decode the means of their latents. A .png shows pairs, originals above; an .npz holds x
    and reconstruction (preprocessed), values and reconstruction_values (in gray levels or the data's units), index
    (positions in the split) and labels."""

    n: Count = 32
    """Number of observations."""
    stochastic: bool = False
    """Decode a sample of q(z|x) instead of its mean."""


def parser() -> Parser[ReconstructOptions]:
    usage = "RUN [-n N] [--split NAME | --input PATH] [--out FILE] [option …]"
    return Parser("reconstruct", ReconstructOptions, EXAMPLES, usage=usage)


def run(options: ReconstructOptions) -> int:
    """Reconstruct and write."""
    loaded = load_model_with_encoder("reconstruct", options)
    path = output_path(options.out, loaded.folder, "reconstructions", images=loaded.has_images)
    examples = load_examples(loaded, options)
    index = examples.sample_indices(options.n, options.seed)
    x = examples.observations(index.tolist(), options.seed)
    x_back = loaded.model.reconstruct(x, mean=not options.stochastic, seed=options.seed).cpu()
    values, values_back = (examples.preprocessing.to_gray(v) for v in (x, x_back))
    if path.suffix == ".npz":
        arrays = {"x": x, "reconstruction": x_back, "values": values, "reconstruction_values": values_back}
        write_npz(path, {**arrays, "index": index, **examples.labels(index)}, compress=True)
    else:
        from advae.report.figures.image_grid import reconstruction_pairs

        write_figure(path, reconstruction_pairs(values.numpy(), values_back.numpy()))
    return print_written(options, path, n=len(x), data=examples.source, split=examples.split.name)
