"""Four observations and a code of two dimensions (the synthetic example of AVB): do the four posteriors tile the prior?

    python benchmarks/toy.py --out runs/toy

Trains a VAE with a normal posterior and AVB with an implicit one on the four one-hot vectors, seeds 0 to 2 (a finished
run is not trained again), and writes results/toy.json, .md and .png from all runs found in --out.

    x_i            the observations, each a quarter of the data         [4, 4]
    q_i = q(z|x_i) what the encoder says, mean over i: q(z)
    p_i = p(z|x_i) what the decoder says

Everything is a sum over a grid in float64 (``toy_grid.py``); the implicit q_i is known there by draws.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from studies import RESULTS, Study
from toy_grid import BINS, DECODED, DRAWS, OBSERVED, REACH, SQUARE, measure, observations, on_grid
from toy_page import figure, page

import advae
from advae.files import read_json, write_atomically

NAME = "toy"
TUNED, SHOWN = 0, 1  # settings were chosen on the first seed, so the figure shows the next
COPIES = 64  # of each observation: all of them are one batch, so that every step sees a quarter of each
DOTS = 1200  # of each q_i in the figure

BASE: dict[str, Any] = {
    "recipe": NAME,
    "device": "cpu",
    "data": {"protocol": "grey"},
    "model": {
        "latent": 2,
        "encoder": {"name": "mlp", "hidden": [64, 64, 64]},
        "posterior": {"name": "normal"},
        "decoder": {"name": "mlp", "hidden": [64, 64, 64]},
        "likelihood": {"name": "bernoulli"},
        "critic": {"name": "concat", "hidden": [128, 128, 128], "activation": "elu", "near_zero": True},
    },
    "train": {
        "steps": 8000,
        "batch": OBSERVED * COPIES,
        "rate": 1e-3,
        "critic_rate": 2e-3,
        "beta1": 0.5,
        "critic_beta1": 0.5,
        "schedule": "cosine",
        "samples_every": 0,
        "validate_every": 8000,
    },
}
CHOICES: dict[str, tuple[str, dict[str, Any]]] = {
    "vae": ("VAE", {"method": {"name": "vae"}}),
    "avb": (
        "AVB",
        {
            "method": {"name": "avb", "critic_steps": 2},
            "model": {"posterior": {"name": "implicit", "noise": 64}},
        },
    ),
}


# --- runs ---------------------------------------------------------------------------------------------------


def made(folder: Path) -> Path:
    """The observations as a file, written if it is not there: each split is one batch."""
    path = folder / "data.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        four = np.repeat(255 * np.eye(OBSERVED, dtype=np.uint8), COPIES, axis=0)
        np.savez(path, train=four, validation=four, test=four)
    return path


STUDY = Study(NAME, BASE, CHOICES, range(3), made, measure)


# --- results ------------------------------------------------------------------------------------------------


@torch.no_grad()
def shown(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """For the figure, by name: draws of q_i ``[4, S, 2]`` and masses of p_i ``[4, bins, bins]``."""
    panels = {}
    for choice, (name, _) in CHOICES.items():
        path = folder / choice / f"s{SHOWN}"
        if not (path / "measured.json").exists() or "error" in read_json(path / "measured.json"):
            continue
        model = advae.Run.open(path).model()
        torch.manual_seed(3)
        z = model.encode(observations(model)).sample((DOTS,))
        panels[name] = {"draws": z.transpose(0, 1).numpy(), "true": on_grid(model)[1].numpy()}
    return panels


def publish(folder: Path) -> None:
    """Write the three files of results from all runs so far."""
    runs = STUDY.found_in(folder)
    protocol = {"reach": REACH, "bins": BINS, "square": SQUARE, "draws": DRAWS, "decoded": DECODED}
    about = {"best": -math.log(OBSERVED), "protocol": protocol, "runs": runs}
    write_atomically(RESULTS / f"{NAME}.json", json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    write_atomically(RESULTS / f"{NAME}.md", page(STUDY.by_name(runs), SHOWN))
    write_atomically(RESULTS / f"{NAME}.png", figure(shown(folder), REACH))


if __name__ == "__main__":
    STUDY.main(__doc__, lambda r: (r["elbo"], r["evidence"], r["marginal"]), publish)
