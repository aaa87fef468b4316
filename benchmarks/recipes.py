"""Time of a training step of every recipe, on this machine.

    python benchmarks/recipes.py                            # every recipe, on the CPU, one thread
    python benchmarks/recipes.py --device cuda
    python benchmarks/recipes.py asvae-mnist-conv vae-mnist-conv

A recipe's own networks and batch, on noise of its data's shape: no data set is needed, and none is read. A step is
what training does, all players and the average of the weights, without validation or writing; on a GPU it is a graph's
replay where one can be captured. Recipes take turns of a quarter of a second, or of one step; a recipe that has had its
seconds sits out. Medians are written to results/speed-recipes.json and, from it,
results/speed-recipes.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from turns import timed
from ways import trial

import advae
from advae.devices import describe_device, find_device, find_precision
from advae.model import LatentModel

RESULTS = Path(__file__).parents[1] / "results" / "speed-recipes.json"
GROUP = 6  # recipes held in memory at a time
# Seconds of a recipe's turn, and steps at most: the first ones of a turn find caches and heap cold.
TURN, MOST = 0.25, 20


class Bench:
    """A recipe's step, ready to be taken and timed.

    Args:
        name: of the recipe.
        device: where.
        precision: "fp32", "bf16" or "auto".
    """

    def __init__(self, name: str, device: torch.device, precision: str) -> None:
        self.name, self.device = name, device
        self.trial = trial(name, "cuda-graph" if device.type == "cuda" else "eager", precision, device)
        self.precision = find_precision(precision, device)
        self.weights = sum(weights(self.trial.step.model).values())
        self.seconds: list[float] = []
        self.trial.settle()
        self.at_once = max(1, min(MOST, round(TURN / timed(self.trial.run, 1, device))))

    def turn(self, cap: float) -> bool:
        """Some steps, timed, unless its seconds are spent; whether they were taken."""
        if sum(self.seconds) * self.at_once > cap:
            return False
        self.seconds.append(timed(self.trial.run, self.at_once, self.device) / self.at_once)
        return True

    def record(self) -> dict[str, Any]:
        """What was found."""
        took, step = statistics.median(self.seconds), self.trial.step
        return {
            "recipe": self.name,
            "device": describe_device(self.device),
            "torch": torch.__version__,
            "precision": self.precision,
            "step": self.trial.way,
            "method": step.method.name,
            "shape": step.model.x_shape,
            "batch": step.options.batch_size,
            "weights": self.weights,
            "steps timed": len(self.seconds) * self.at_once,
            "seconds a step": took,
            "images a second": step.options.batch_size * step.batches / took,
            "hours for all its steps": took * step.options.steps / 3600,
        }


def weights(model: LatentModel) -> dict[str, int]:
    """Numbers of weights by network."""
    networks = {"encoder": model.encoder, "decoder": model.decoder, "critics": model.critics}
    return {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}


def measure(
    names: list[str], device: torch.device, precision: str, rounds: int, cap: float
) -> list[dict[str, Any]]:
    """All recipes, in turns. Groups of a few are held at a time, for the memory's sake."""
    found = []
    for start in range(0, len(names), GROUP):
        benches = [Bench(name, device, precision) for name in names[start : start + GROUP]]
        for _ in range(rounds):
            taken = [bench.turn(cap) for bench in benches]
            if not any(taken):
                break
        found += [bench.record() for bench in benches]
        for r in found[-len(benches) :]:
            print(f"{r['recipe']:32} {1000 * r['seconds a step']:.2f} ms  {r['step']}", flush=True)
    return found


def page(records: list[dict[str, Any]]) -> str:
    """The results as Markdown, a table for each device."""
    lines = [
        "# Time of a training step",
        "",
        "Made by `benchmarks/recipes.py`: every recipe's own networks, batch and method, on noise of its data's shape;"
        " all players and the average of the weights, without validation. Medians of steps taken in turns. Images a"
        " second are those that steps draw: several batches each, where critics move more often than the model.",
    ]
    for device, precision in sorted({(r["device"], r["precision"]) for r in records}):
        mine = [r for r in records if (r["device"], r["precision"]) == (device, precision)]
        lines += ["", f"## {device}, {precision}", "", *HEADER]
        lines += [row(r) for r in sorted(mine, key=lambda r: r["recipe"])]
    return "\n".join([*lines, ""])


HEADER = [
    "| recipe | data | batch | weights | step | ms a step | images a second | hours for all its steps |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
]


def row(r: dict[str, Any]) -> str:
    """A recipe's line of the table."""
    shape = " × ".join(str(n) for n in r["shape"])
    return (
        f"| {r['recipe']} | {shape} | {r['batch']} | {r['weights']:,} | {r['step']} |"
        f" {1000 * r['seconds a step']:.2f} |"
        f" {r['images a second']:,.0f} | {r['hours for all its steps']:,.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="*", help="all without a name")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each recipe")
    parser.add_argument(
        "--cap", type=float, default=10.0, help="seconds after which a recipe takes no step more"
    )
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "bf16"), default="auto", help="auto: as training"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found = measure(
        args.recipes or advae.recipes(), find_device(args.device), args.precision, args.rounds, args.cap
    )
    before = json.loads(args.out.read_text()) if args.out.exists() else []
    records = kept(before, found) + found
    args.out.write_text(json.dumps(records, indent=1) + "\n")
    args.out.with_suffix(".md").write_text(page(records))


def kept(before: list[dict[str, Any]], found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Earlier records that none of these replaces, of recipes that still ship."""
    keys, shipped = ("recipe", "device", "precision"), set(advae.recipes())
    new = {tuple(r[k] for k in keys) for r in found}
    return [r for r in before if r["recipe"] in shipped and tuple(r.get(k) for k in keys) not in new]


if __name__ == "__main__":
    main()
