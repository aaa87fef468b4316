"""Four observations and a two-dimensional latent (the synthetic example of AVB): do the posteriors tile the prior?

    x_i            the observations, each a quarter of the data          [4, 4]
    q_i = q(z|x_i) the encoder's posteriors; their mean over i is q(z)
    p_i = p(z|x_i) the decoder's posteriors

A VAE with a normal posterior and AVB with an implicit one are trained on the four one-hot vectors. All results are sums
over a grid in float64 (`grid.py`); the implicit q_i is known by samples.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from four_points.grid import (
    BINS,
    GRID_HALF_WIDTH,
    NUM_DECODED,
    NUM_OBSERVATIONS,
    NUM_SAMPLES,
    SQUARE_BINS,
    measure,
    observations,
    posteriors_on_grid,
)
from four_points.page import Panels, make_figure, make_page

from advae.config import resolve
from advae.io import write_atomically, write_json
from advae.run import Run
from advae.training.train import train_or_resume

RECIPES = Path(__file__).with_name("recipes.yaml")
FIGURE_SEED = 1  # the settings were chosen with seed 0, so the figure shows the next one
COPIES_PER_OBSERVATION = 64  # in every split
DOTS_PER_POSTERIOR = 1200  # in the figure
PROTOCOL = {
    "half_width": GRID_HALF_WIDTH,
    "bins": BINS,
    "square_bins": SQUARE_BINS,
    "samples": NUM_SAMPLES,
    "decoded": NUM_DECODED,
}


def write_data(folder: Path) -> Path:
    """Write the observations as a file, unless it exists; each split is one batch."""
    path = folder / "four-points.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        x = np.repeat(255 * np.eye(NUM_OBSERVATIONS, dtype=np.uint8), COPIES_PER_OBSERVATION, axis=0)
        np.savez(path, train=x, validation=x, test=x)
    return path


def train_and_measure(recipe: dict[str, Any], seed: int, steps: int | None, runs: Path) -> dict[str, Any]:
    """Train a recipe with a seed, unless that is done, and measure the model; the result is cached in the run."""
    overrides: dict[str, Any] = {"seed": seed, "data.source": str(write_data(runs))}
    if steps is not None:
        overrides |= {"train.steps": steps, "train.validate_every": steps}
    config = resolve(recipe, overrides)
    run = train_or_resume(
        config.to_dict(), out=runs / recipe["recipe"] / f"{config.train.steps}-steps" / f"s{seed}", quiet=True
    )
    path = run.path / "four_points.json"
    cached = json.loads(path.read_text()) if path.exists() else {}
    if cached.get("protocol") != PROTOCOL:
        cached = {"protocol": PROTOCOL, "values": measure(run.model())}
        write_json(path, cached)
    seconds = [row for row in run.metrics() if row["split"] == "train"][-1]["time"]
    return {"seed": seed, "run": str(run.path), "seconds": seconds, **cached["values"]}


def write_results(results: dict[str, list[dict[str, Any]]], out: Path) -> None:
    """Write toy.json, toy.md and toy.png; ``results`` are the values of all runs by method."""
    seeds = {result["seed"] for values in results.values() for result in values}
    shown = FIGURE_SEED if FIGURE_SEED in seeds else min(seeds)
    panels = {
        name: figure_panels(Run(Path(result["run"])))
        for name, values in results.items()
        for result in values
        if result["seed"] == shown
    }
    out.mkdir(parents=True, exist_ok=True)
    record = {"best": -math.log(NUM_OBSERVATIONS), "protocol": PROTOCOL, "results": results}
    write_json(out / "toy.json", record)
    write_atomically(out / "toy.md", make_page(results, shown))
    write_atomically(out / "toy.png", make_figure(panels, GRID_HALF_WIDTH))


@torch.no_grad()
def figure_panels(run: Run) -> Panels:
    """Return samples of q_i ``[4, S, 2]`` and masses of p_i ``[4, bins, bins]`` for the figure."""
    model = run.model()
    torch.manual_seed(3)
    z = model.encode(observations(model)).sample((DOTS_PER_POSTERIOR,))
    return {"samples": z.transpose(0, 1).numpy(), "exact": posteriors_on_grid(model)[1].numpy()}


def main(argv: Sequence[str] | None = None) -> None:
    """Train, measure and write all results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="instead of the recipes'")
    parser.add_argument("--runs", type=Path, default=Path("runs/four-points"))
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args(argv)
    recipes = yaml.safe_load(RECIPES.read_text())
    del recipes["base"]
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in recipes}
    for seed in options.seeds:
        for name, recipe in recipes.items():
            results[name].append(train_and_measure(recipe, seed, options.steps, options.runs))
            write_results({key: values for key, values in results.items() if values}, options.out)


if __name__ == "__main__":
    main()
