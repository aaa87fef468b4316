"""Four observations and a code of two dimensions (the synthetic example of AVB): do the four posteriors tile the prior?

    x_i            the observations, each a quarter of the data         [4, 4]
    q_i = q(z|x_i) what the encoder says, mean over i: q(z)
    p_i = p(z|x_i) what the decoder says

A VAE with a normal posterior and AVB with an implicit one are trained on the four one-hot vectors. Everything that is
said of them is a sum over a grid in float64 (``toy_grid.py``); the implicit q_i is known there by draws.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from advae.io import write_atomically
from advae.reproduce.jobs import Job, Plan, Record, Stage
from advae.reproduce.markdown_report import failures, steps_notice
from advae.reproduce.toy_grid import (
    BINS,
    DECODED,
    DRAWS,
    OBSERVED,
    REACH,
    SQUARE,
    measure,
    observations,
    on_grid,
)
from advae.reproduce.toy_page import Panels, figure, page
from advae.run import Run

SHOWN = 1  # settings were chosen on seed 0, so the figure shows the next, where there is one
COPIES = 64  # of each observation in every split
DOTS = 1200  # of each q_i in the figure
PROTOCOL = {"reach": REACH, "bins": BINS, "square": SQUARE, "draws": DRAWS, "decoded": DECODED}


def sources(folder: Path) -> Mapping[str, str]:
    """The observations as a file, written if it is not there: each split is one batch."""
    path = folder / "four-points.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        four = np.repeat(255 * np.eye(OBSERVED, dtype=np.uint8), COPIES, axis=0)
        np.savez(path, train=four, validation=four, test=four)
    return {"four-points": str(path)}


def question(plan: Plan, job: Job) -> Mapping[str, float]:
    """What the measurements depend on besides the weights."""
    return PROTOCOL


def judged(plan: Plan, job: Job, run: Run, stage: Stage) -> Record:
    """What is measured of a run."""
    with stage("measuring", 1) as tick:
        found = measure(run)
        tick(1)
    return found


def publish(plan: Plan, records: Sequence[Record], out: Path) -> list[Path]:
    """Write toy.json, .md and .png from all runs so far."""
    by = {row.label: [r for r in records if r["recipe"] == row.name] for row in plan.table.rows}
    by = {name: runs for name, runs in by.items() if runs}
    good = [record for record in records if "error" not in record]
    seeds = [record["seed"] for record in good]
    shown = SHOWN if SHOWN in seeds else min(seeds, default=0)
    panels = {
        name: panel(Run(Path(r["run"])))
        for name, runs in by.items()
        for r in runs
        if r in good and r["seed"] == shown
    }
    about = {"best": -math.log(OBSERVED), "protocol": PROTOCOL, "runs": list(records)}
    paths = [out / f"{plan.table.name}.{ending}" for ending in ("json", "md", "png")]
    write_atomically(paths[0], json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    said = [*steps_notice(records, plan.wanted.budget), *failures([{"runs": records}])]
    write_atomically(paths[1], page(by, shown, said))
    write_atomically(paths[2], figure(panels, REACH))
    return paths


@torch.no_grad()
def panel(run: Run) -> Panels:
    """For the figure: draws of q_i ``[4, S, 2]`` and masses of p_i ``[4, bins, bins]``."""
    model = run.model()
    torch.manual_seed(3)
    z = model.encode(observations(model)).sample((DOTS,))
    return {"draws": z.transpose(0, 1).numpy(), "true": on_grid(model)[1].numpy()}
