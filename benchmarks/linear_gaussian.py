"""Every method trained from scratch on data whose evidence and posteriors are known, seeds 0 to 4.

    python benchmarks/linear_gaussian.py [option of advae reproduce …]

Trains each method with each seed (a finished run is not trained again), measures how far encoder and decoder are from
the exact posterior and evidence (``known_gaussian.py``), and writes results/linear-gaussian.json, .md and .png. It is
a table as ``advae reproduce`` knows them, which is judged and shown in a way of its own.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from known_gaussian import CODES, DRAWS, IMAGES, REPEATS, D, N, made, measure, truth
from linear_gaussian_page import figure, page

from advae.cli.reproduce_command import parser, reproduce
from advae.config import merge
from advae.io import sha256, write_atomically
from advae.reproduce.jobs import Job, Plan, Record, Stage, Study
from advae.reproduce.table_spec import Row, Table
from advae.run import Run

NAME = "linear-gaussian"
TUNED, SHOWN = 0, 1  # settings were chosen on the first seed, so the figure shows the next

BASE: dict[str, Any] = {
    "device": "cpu",
    "data": {"source": NAME, "preprocessing": "standardize", "validation": 10_000, "test": 10_000},
    "model": {
        "latent_dim": D,
        "encoder": {"name": "mlp", "hidden": [64, 64]},
        "posterior": {"name": "normal"},
        "decoder": {"name": "mlp", "hidden": []},
        "likelihood": {"name": "normal", "variance": "shared"},
        "critic": {"name": "concat", "hidden": [128, 128], "zero_init": True},
    },
    "train": {
        "steps": 6000,
        "batch_size": 512,
        "lr": 2e-3,
        "critic_lr": 4e-3,
        "lr_schedule": "cosine",
        "samples_every": 0,
        "validate_every": 6000,
    },
}
IMPLICIT = {"name": "implicit", "noise_dim": 8}
BASIS = {"name": "noise-basis", "num_basis": 4, "noise_dim": 8, "hidden": [32]}
AVB = {"name": "avb", "critic_steps": 2}

CHOICES: dict[str, tuple[str, dict[str, Any]]] = {
    "vae": ("VAE", {"method": {"name": "vae"}, "train": {"lr": 5e-3}}),
    "avb": ("AVB", {"method": AVB, "model": {"posterior": IMPLICIT}, "train": {"lr": 1e-3}}),
    "avb-ac": ("AVB + AC", {"method": AVB | {"contrast": "diagonal"}, "model": {"posterior": BASIS}}),
    "avb-ac-full": ("AVB + AC, full", {"method": AVB | {"contrast": "full"}, "model": {"posterior": BASIS}}),
    "asvae": ("AS-VAE", {"method": {"name": "asvae", "critic_steps": 2}}),
    "ali": ("ALI", {"method": {"name": "ali", "critic_steps": 2}}),
    "bavae": (
        "BAVAE",
        {
            "method": {"name": "bavae", "critic_steps": 2},
            # As many noise numbers as features: the linear decoder can then have any covariance.
            "model": {"posterior": IMPLICIT, "likelihood": {"name": "implicit", "noise_dim": N}},
        },
    ),
}
# Of standard deviations (a share) and of evidence (nats), in the median over seeds.
TARGETS = {"avb-ac": (0.03, 0.02), "avb": (0.05, 0.05)}


PROTOCOL = {"images": IMAGES, "codes": CODES, "repeats": REPEATS}


# --- results ------------------------------------------------------------------------------------------------


def reached(choice: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """A target beside the medians: standard deviations against both references, the worse of them counts."""
    std, evidence = TARGETS[choice]
    found = max(float(np.median([r[which]["std"] for r in runs])) for which in ("own", "true"))
    gap = float(np.median([r["evidence_gap"] for r in runs]))
    met = found <= std and gap <= evidence
    return {"method": CHOICES[choice][0], "std": [std, found], "evidence": [evidence, gap], "met": met}


def publish(plan: Plan, records: Sequence[Record], out: Path) -> list[Path]:
    """Write the three files of results from all runs so far."""
    exact, data = truth()[0], made(plan.wanted.runs)
    good = {name: [r for r in records if r["recipe"] == name and "error" not in r] for name in CHOICES}
    targets = [reached(name, good[name]) for name in TARGETS if good[name]]
    about = {
        "data": {
            "draws": DRAWS,
            "W": exact.W.tolist(),
            "noise_variance": float(exact.S[0, 0]),
            "posterior_covariance": exact.C.tolist(),
            "sha256": sha256(data),
        },
        "protocol": PROTOCOL,
        "targets": targets,
        "runs": list(records),
    }
    by = {label: [r for r in records if r["recipe"] == name] for name, (label, _) in CHOICES.items()}
    by = {label: runs for label, runs in by.items() if runs}
    shown = {
        CHOICES[name][0]: Path(r["run"]) for name, runs in good.items() for r in runs if r["seed"] == SHOWN
    }
    paths = [out / f"{NAME}.{ending}" for ending in ("json", "md", "png")]
    write_atomically(paths[0], json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    write_atomically(paths[1], page(by, targets, SHOWN))
    write_atomically(paths[2], figure(shown))
    return paths


def judged(plan: Plan, job: Job, run: Run, stage: Stage) -> Record:
    """What is measured of a run."""
    with stage("measuring", 1) as tick:
        found = measure(run)
        tick(1)
    return found


TABLE = Table(
    name=NAME,
    title="Trained on a linear-Gaussian model",
    source="",
    rows=tuple(
        Row(label, {"recipe": name} | merge(BASE, options)) for name, (label, options) in CHOICES.items()
    ),
    seeds=tuple(range(5)),
)
STUDY = Study(lambda plan, job: PROTOCOL, judged, publish, lambda folder: {NAME: str(made(folder))})


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = parser().parse([NAME, *sys.argv[1:]])
    given.command = shlex.join(["python", *sys.argv])
    sys.exit(reproduce(TABLE, STUDY, given))
