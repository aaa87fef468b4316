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

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from toy_grid import BINS, DECODED, DRAWS, OBSERVED, REACH, SQUARE, measure, observations, on_grid
from toy_page import figure, page

import advae
from advae.errors import AdvaeError
from advae.files import read_json, write_atomically, write_json
from advae.training.config import merge

NAME = "toy"
RESULTS = Path(__file__).parents[1] / "results"
SEEDS = range(3)
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


def trained(choice: str, seed: int, folder: Path, steps: int | None) -> Any:
    """The run of a method and a seed: found if it is finished, gone on with if it was stopped, else trained."""
    out = folder / choice / f"s{seed}"
    if not (out / "config.yaml").exists():
        tree = merge(merge(BASE, {"data": {"source": str(made(folder))}}), CHOICES[choice][1])
        options = {"seed": seed} | ({"train.steps": steps} if steps else {})
        return advae.train(tree, options=options, out=out, quiet=True)
    run = advae.Run.open(out)
    if run.model().info["step"] < run.config["train"]["steps"]:
        run = advae.resume(out, quiet=True)
    return run


def one(choice: str, seed: int, folder: Path, steps: int | None, again: bool) -> dict[str, Any]:
    """Train (or find) one run and measure it; ``measured.json`` in its folder keeps the result."""
    kept = folder / choice / f"s{seed}" / "measured.json"
    if kept.exists() and not again:
        return read_json(kept)
    result: dict[str, Any] = {"method": choice, "seed": seed}
    try:
        run = trained(choice, seed, folder, steps)
        result |= described(run) | measure(run)
    except AdvaeError as error:  # a run that failed is a result as well
        result |= {"error": str(error)}
    write_json(kept, result)
    return result


def described(run: Any) -> dict[str, Any]:
    """How a run was trained and on what."""
    config, env = run.config, run.env
    last = [row for row in run.metrics() if row["split"] == "train"][-1]
    config["data"].pop("source")  # where it lies; the checksum says what it is
    return {
        "steps": last["step"],
        "seconds": last["time"],
        "config": {key: config[key] for key in ("data", "model", "method", "train")},
        "device": env["device"],
        "versions": env["versions"],
        "checksum": env["data"]["checksum"],
    }


# --- results ------------------------------------------------------------------------------------------------


def found_in(folder: Path) -> list[dict[str, Any]]:
    """What is measured of all runs so far, in the order of ``CHOICES``."""
    kept = [folder / choice / f"s{seed}" / "measured.json" for choice in CHOICES for seed in SEEDS]
    return [read_json(path) for path in kept if path.exists()]


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
    runs = found_in(folder)
    by = {name: [r for r in runs if r["method"] == choice] for choice, (name, _) in CHOICES.items()}
    by = {name: mine for name, mine in by.items() if mine}
    protocol = {"reach": REACH, "bins": BINS, "square": SQUARE, "draws": DRAWS, "decoded": DECODED}
    about = {"best": -math.log(OBSERVED), "protocol": protocol, "runs": runs}
    RESULTS.mkdir(exist_ok=True)
    write_atomically(RESULTS / f"{NAME}.json", json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    write_atomically(RESULTS / f"{NAME}.md", page(by, SHOWN))
    write_atomically(RESULTS / f"{NAME}.png", figure(shown(folder), REACH))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs") / NAME)
    parser.add_argument("--methods", nargs="*", choices=list(CHOICES), default=list(CHOICES))
    parser.add_argument("--seeds", nargs="*", type=int, choices=SEEDS, default=list(SEEDS))
    parser.add_argument("--steps", type=int, help=f"instead of {BASE['train']['steps']}")
    parser.add_argument("--again", action="store_true", help="measure finished runs again")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for seed in args.seeds:
        for choice in args.methods:
            r = one(choice, seed, args.out, args.steps, args.again)
            print(choice, seed, r.get("error") or (r["elbo"], r["evidence"], r["marginal"]), flush=True)
    publish(args.out)


if __name__ == "__main__":
    main()
