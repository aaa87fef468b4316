"""A first model of data that no recipe was made for: `advae train --data.source PATH`, and nothing else.

    python benchmarks/own_data.py PATH … --time 4m --out runs/own-data

Every path (a folder of images, a table) is trained by the recipe that the command chooses, for the given time on one
thread, and evaluated; a run that exists is not trained again. The baselines are PCA with as many components as there
are latents, and the mean example, all on test examples: RMSE in gray levels, or in standard deviations for tables.
RMSE is that of a latent sampled from q(z|x); PCA compares with that of the mean of q(z|x).
KL(q(z|x) ‖ p(z)) is the mean over test examples; a latent dimension is active with at least 0.1 nats. Training time
does not include evaluation. Written to results/own-data.json and results/own-data.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from timing import RESULTS, markdown_table, page_head

import advae
from advae.data import load_data
from advae.data.data_options import DataOptions
from advae.devices import describe_device
from advae.run import Run

ACTIVE_NATS = 0.1


def train(path: Path, time: str, folder: Path) -> None:
    """Train as a user would, unless the run exists."""
    if not (folder / "eval" / "estimates.json").exists():
        command = [sys.executable, "-m", "advae", "train", "--data.source", str(path), "--time", time]
        subprocess.run(
            [*command, "--out", str(folder)], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )


def measure(run: Run) -> dict[str, Any]:
    """Return what the run's evaluation says of reconstructions, and the KL of its posterior."""
    data, model = load_data(DataOptions(**run.config["data"])), run.model()
    estimates = json.loads((run.path / "eval" / "estimates.json").read_text())
    rmse = {
        e["variant"].partition("-")[0]: e["value"] for e in estimates["estimates"] if e["metric"] == "rmse"
    }
    raw = data.test.raw(range(len(data.test)))
    x = data.preprocessing.apply(raw, torch.Generator().manual_seed(0))
    with torch.no_grad():
        kl = torch.cat([model.encode(part).kl_to_standard() for part in x.split(256)]).mean(0)
    seconds = [line["time"] for line in run.metrics() if "time" in line]
    return {
        "data": data.name,
        "shape": "×".join(map(str, data.x_shape)),
        "train": len(data.train),
        "recipe": run.config["recipe"],
        "steps": run.config["train"]["steps"],
        "seconds": max(seconds),
        "latents": model.latent_dim,
        "rmse": rmse[""],
        "of mean latents": next(
            e["value"] for e in estimates["estimates"] if e["metric"] == "rmse-mean-latent"
        ),
        "PCA": rmse["PCA"],
        "mean": rmse["mean example"],
        "KL": float(kl.sum()),
        "active": int((kl >= ACTIVE_NATS).sum()),
        "warnings": sum(remark["warning"] for remark in estimates["remarks"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", type=Path, nargs="+", help="folders of images, tables")
    parser.add_argument("--time", default="4m", help="of each training")
    parser.add_argument("--out", type=Path, default=Path("runs/own-data"), help="folder of the runs")
    options = parser.parse_args()
    rows = []
    for path in options.paths:
        folder = options.out / path.stem
        train(path, options.time, folder)
        rows.append(measure(advae.Run.open(folder)))
    (RESULTS / "own-data.json").write_text(json.dumps(rows, indent=1) + "\n")
    header = [
        "data",
        "shape",
        "train",
        "recipe",
        "steps",
        "time",
        "latents",
        "RMSE",
        "PCA",
        "mean",
        "KL",
        "active",
    ]
    cells = [
        [
            *(str(row[key]) for key in ("data", "shape", "train", "recipe", "steps")),
            f"{row['seconds']:.0f} s",
            str(row["latents"]),
            *(f"{row[key]:.3g}" for key in ("rmse", "of mean latents", "PCA", "mean", "KL")),
            str(row["active"]),
        ]
        for row in rows
    ]
    machine = f"{describe_device(torch.device('cpu'))}, torch {torch.__version__}."
    page = [*page_head("A first model of own data", __doc__), machine, ""]
    (RESULTS / "own-data.md").write_text("\n".join([*page, *markdown_table(header, cells)]) + "\n")


if __name__ == "__main__":
    main()
