"""Every method trained from scratch on data whose evidence and posteriors are known, seeds 0 to 4.

    python benchmarks/linear_gaussian.py --out runs/linear-gaussian

Trains each method with each seed (a finished run is not trained again), measures how far encoder and decoder are from
the exact posterior and evidence (``known_gaussian.py``), and writes results/linear-gaussian.json, .md and .png from
all runs found in --out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from known_gaussian import CODES, DRAWS, IMAGES, REPEATS, D, N, made, measure, truth
from linear_gaussian_page import figure, page

import advae
from advae.errors import AdvaeError
from advae.files import read_json, write_atomically, write_json
from advae.training.config import merge

NAME = "linear-gaussian"
RESULTS = Path(__file__).parents[1] / "results"
SEEDS = range(5)
TUNED, SHOWN = 0, 1  # settings were chosen on the first seed, so the figure shows the next

BASE: dict[str, Any] = {
    "recipe": NAME,
    "device": "cpu",
    "data": {"protocol": "standardise", "validation": 10_000, "test": 10_000},
    "model": {
        "latent": D,
        "encoder": {"name": "mlp", "hidden": [64, 64]},
        "posterior": {"name": "normal"},
        "decoder": {"name": "mlp", "hidden": []},
        "likelihood": {"name": "normal", "variance": "shared"},
        "critic": {"name": "concat", "hidden": [128, 128], "near_zero": True},
    },
    "train": {
        "steps": 6000,
        "batch": 512,
        "rate": 2e-3,
        "critic_rate": 4e-3,
        "schedule": "cosine",
        "samples_every": 0,
        "validate_every": 6000,
    },
}
IMPLICIT = {"name": "implicit", "noise": 8}
BASIS = {"name": "noise-basis", "functions": 4, "noise": 8, "hidden": [32]}
AVB = {"name": "avb", "critic_steps": 2}

CHOICES: dict[str, tuple[str, dict[str, Any]]] = {
    "vae": ("VAE", {"method": {"name": "vae"}, "train": {"rate": 5e-3}}),
    "avb": ("AVB", {"method": AVB, "model": {"posterior": IMPLICIT}, "train": {"rate": 1e-3}}),
    "avb-ac": ("AVB + AC", {"method": AVB | {"contrast": "diagonal"}, "model": {"posterior": BASIS}}),
    "avb-ac-full": ("AVB + AC, full", {"method": AVB | {"contrast": "full"}, "model": {"posterior": BASIS}}),
    "asvae": ("AS-VAE", {"method": {"name": "asvae", "critic_steps": 2}}),
    "ali": ("ALI", {"method": {"name": "ali", "critic_steps": 2}}),
    "bavae": (
        "BAVAE",
        {
            "method": {"name": "bavae", "critic_steps": 2},
            # As many noise numbers as features: the linear decoder can then have any covariance.
            "model": {"posterior": IMPLICIT, "likelihood": {"name": "implicit", "noise": N}},
        },
    ),
}
# Of standard deviations (a share) and of evidence (nats), in the median over seeds.
TARGETS = {"avb-ac": (0.03, 0.02), "avb": (0.05, 0.05)}


# --- runs ---------------------------------------------------------------------------------------------------


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


def found_in(folder: Path) -> list[dict[str, Any]]:
    """What is measured of all runs so far, in the order of ``CHOICES``."""
    kept = [folder / choice / f"s{seed}" / "measured.json" for choice in CHOICES for seed in SEEDS]
    return [read_json(path) for path in kept if path.exists()]


# --- results ------------------------------------------------------------------------------------------------


def reached(choice: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """A target beside the medians: standard deviations against both references, the worse of them counts."""
    std, evidence = TARGETS[choice]
    found = max(float(np.median([r[which]["std"] for r in runs])) for which in ("own", "true"))
    gap = float(np.median([r["evidence_gap"] for r in runs]))
    met = found <= std and gap <= evidence
    return {"method": CHOICES[choice][0], "std": [std, found], "evidence": [evidence, gap], "met": met}


def publish(folder: Path) -> None:
    """Write the three files of results from all runs so far."""
    runs, exact = found_in(folder), truth()[0]
    by = {name: [r for r in runs if r["method"] == choice] for choice, (name, _) in CHOICES.items()}
    by = {name: mine for name, mine in by.items() if mine}
    good = {c: [r for r in runs if r["method"] == c and "error" not in r] for c in TARGETS}
    targets = [reached(choice, mine) for choice, mine in good.items() if mine]
    about = {
        "data": {
            "draws": DRAWS,
            "W": exact.W.tolist(),
            "noise_variance": float(exact.S[0, 0]),
            "posterior_covariance": exact.C.tolist(),
            "sha256": hashlib.sha256((folder / "data.npy").read_bytes()).hexdigest(),
        },
        "protocol": {"images": IMAGES, "codes": CODES, "repeats": REPEATS},
        "targets": targets,
        "runs": runs,
    }
    shown = {name: folder / choice / f"s{SHOWN}" for choice, (name, _) in CHOICES.items()}
    RESULTS.mkdir(exist_ok=True)
    write_atomically(RESULTS / f"{NAME}.json", json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    write_atomically(RESULTS / f"{NAME}.md", page(by, targets, SHOWN))
    picture = figure({name: path for name, path in shown.items() if (path / "measured.json").exists()})
    write_atomically(RESULTS / f"{NAME}.png", picture)


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
            seen = r.get("error") or (r["true"]["std"], r["true"]["mean"], r["evidence_gap"])
            print(choice, seed, seen, flush=True)
    publish(args.out)


if __name__ == "__main__":
    main()
