"""Time of a training step of every recipe, on this machine.

    python benchmarks/recipes.py                            # every recipe, on the CPU, one thread
    python benchmarks/recipes.py --device cuda
    python benchmarks/recipes.py asvae-mnist-conv vae-mnist-conv

A recipe's own networks, batch and precision, on noise of its data's shape: no data set is needed, and none is read.
A step is what training does, all players and the average of the weights, without validation or writing. Recipes
take turns, a step each; a recipe that has had its seconds sits out. Medians are written to
results/speed-recipes.json and, from it, results/speed-recipes.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import advae
from advae import build_model, resolve
from advae.data.protocol import protocol_class
from advae.methods import METHODS
from advae.model import LatentModel, seeded
from advae.training.environment import describe_device, find_device, find_precision
from advae.training.processes import make_fabric
from advae.training.step import Step

RESULTS = Path(__file__).parents[1] / "results" / "speed-recipes.json"
GROUP = 6  # recipes held in memory at a time
SHAPES = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "imagenet": (3, 64, 64),
    "celeba": (3, 64, 64),
}


class Bench:
    """A recipe's step, ready to be taken and timed.

    Args:
        name: of the recipe.
        device: where.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name, self.device, self.config = name, device, resolve(name)
        self.shape = SHAPES[self.config.data.source]
        method, train = METHODS.build(self.config.method), self.config.train
        fabric = make_fabric(device, find_precision(train.precision, device))
        with seeded(0, device):
            model = build_model(self.config.model, self.shape, method.critics).to(device)
        self.weights = sum(weights(model).values())
        self.step, self.done = Step(fabric, model, method, train), 0
        self.x = observations(self.config.data.protocol, (train.batch, *self.shape), device)
        self.seconds: list[float] = []
        self._take()  # warms up

    def _take(self) -> float:
        self._wait()
        began = time.perf_counter()
        self.step(self.done, lambda i: self.x)
        self._wait()
        self.done += 1
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def turn(self, cap: float) -> bool:
        """One step, timed, unless its seconds are spent; whether it was taken."""
        if sum(self.seconds) > cap:
            return False
        self.seconds.append(self._take())
        return True

    def record(self) -> dict[str, Any]:
        """What was found."""
        step = statistics.median(self.seconds)
        return {
            "recipe": self.name,
            "device": describe_device(self.device),
            "torch": torch.__version__,
            "method": self.config.method["name"],
            "shape": self.shape,
            "batch": self.config.train.batch,
            "weights": self.weights,
            "steps timed": len(self.seconds),
            "seconds a step": step,
            "images a second": self.config.train.batch * self.step.batches / step,
            "hours for all its steps": step * self.config.train.steps / 3600,
        }


def weights(model: LatentModel) -> dict[str, int]:
    """Numbers of weights by network."""
    networks = {"encoder": model.encoder, "decoder": model.decoder, "critics": model.critics}
    return {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}


def observations(protocol: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Noise with the values that a protocol gives."""
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device)
    return noise.round() if protocol_class(protocol).support == "binary" else noise


def measure(names: list[str], device: torch.device, rounds: int, cap: float) -> list[dict[str, Any]]:
    """All recipes, in turns. Groups of a few are held at a time, for the memory's sake."""
    found = []
    for start in range(0, len(names), GROUP):
        benches = [Bench(name, device) for name in names[start : start + GROUP]]
        for _ in range(rounds):
            taken = [bench.turn(cap) for bench in benches]
            if not any(taken):
                break
        found += [bench.record() for bench in benches]
        for r in found[-len(benches) :]:
            print(f"{r['recipe']:32} {r['seconds a step']:.3f} s  ({r['steps timed']} steps)", flush=True)
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
    for device in sorted({r["device"] for r in records}):
        mine = sorted((r for r in records if r["device"] == device), key=lambda r: r["recipe"])
        lines += ["", f"## {device}", "", *HEADER, *[row(r) for r in mine]]
    return "\n".join([*lines, ""])


HEADER = [
    "| recipe | data | batch | weights | ms a step | images a second | hours for all its steps |",
    "| --- | --- | --- | --- | --- | --- | --- |",
]


def row(r: dict[str, Any]) -> str:
    """A recipe's line of the table."""
    shape = " × ".join(str(n) for n in r["shape"])
    return (
        f"| {r['recipe']} | {shape} | {r['batch']} | {r['weights']:,} | {1000 * r['seconds a step']:.1f} |"
        f" {r['images a second']:,.0f} | {r['hours for all its steps']:,.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="*", help="all without a name")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7, help="steps of each recipe")
    parser.add_argument(
        "--cap", type=float, default=10.0, help="seconds after which a recipe takes no step more"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found = measure(args.recipes or advae.recipes(), find_device(args.device), args.rounds, args.cap)
    before = json.loads(args.out.read_text()) if args.out.exists() else []
    records = kept(before, found) + found
    args.out.write_text(json.dumps(records, indent=1) + "\n")
    args.out.with_suffix(".md").write_text(page(records))


def kept(before: list[dict[str, Any]], found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Earlier records that none of these replaces, of recipes that still ship."""
    new, shipped = {(r["recipe"], r["device"]) for r in found}, set(advae.recipes())
    return [r for r in before if r["recipe"] in shipped and (r["recipe"], r["device"]) not in new]


if __name__ == "__main__":
    main()
