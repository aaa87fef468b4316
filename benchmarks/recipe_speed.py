"""Time of a training step of every recipe.

    python benchmarks/recipe_speed.py                            # every recipe, on the CPU, one thread
    python benchmarks/recipe_speed.py --device cuda
    python benchmarks/recipe_speed.py asvae-mnist-conv vae-mnist-conv

Each recipe's networks, batch size and method, on noise of its data's shape; no data set is read. A step includes all
players and the moving average, without validation or writing; on a GPU it is the replay of a CUDA graph if one can be
captured. Recipes take turns. Medians are written to results/speed-recipes.json and results/speed-recipes.md. Images
per second count every batch of a step: several if critics are updated more often than the model.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
from timing import Record, make_parser, markdown_table, page_head, recipe_benchmark, time_work, write_results

import advae
from advae.devices import describe_device, find_device, find_precision

GROUP_SIZE = 6  # recipes in memory at a time
MAX_STEPS_PER_TURN = 20  # several, because the first steps of a turn find cold caches


class RecipeTimer:
    """Times a recipe's step.

    Args:
        name: of the recipe.
        args: device, precision, seconds per turn.
    """

    def __init__(self, name: str, args: Any) -> None:
        self.name, self.device = name, find_device(args.device)
        backend = "cuda-graph" if self.device.type == "cuda" else "eager"
        self.benchmark = recipe_benchmark(name, backend, args.precision, self.device)
        self.precision = find_precision(args.precision, self.device)
        self.benchmark.warm_up()
        first = time_work(self.benchmark.run, 1, self.device)
        self.steps_per_turn = max(1, min(MAX_STEPS_PER_TURN, round(args.seconds / first)))
        self.times: list[float] = []

    def take_turn(self, max_seconds: float) -> None:
        """Time some steps, unless the recipe's time is used up."""
        if sum(self.times) * self.steps_per_turn <= max_seconds:
            seconds = time_work(self.benchmark.run, self.steps_per_turn, self.device)
            self.times.append(seconds / self.steps_per_turn)

    def record(self) -> Record:
        """Return the results."""
        seconds, step = statistics.median(self.times), self.benchmark.step
        return {
            "recipe": self.name,
            "device": describe_device(self.device),
            "torch": torch.__version__,
            "precision": self.precision,
            "step": self.benchmark.backend,
            "method": step.method.name,
            "shape": step.model.x_shape,
            "batch": step.options.batch_size,
            "weights": sum(p.numel() for p in step.model.parameters()),
            "steps timed": len(self.times) * self.steps_per_turn,
            "seconds a step": seconds,
            "images a second": step.options.batch_size * len(step.updates) / seconds,
            "hours for all its steps": seconds * step.options.steps / 3600,
        }


def measure(names: list[str], args: Any) -> list[Record]:
    """Time all recipes, a group at a time."""
    records = []
    for start in range(0, len(names), GROUP_SIZE):
        timers = [RecipeTimer(name, args) for name in names[start : start + GROUP_SIZE]]
        for _ in range(args.rounds):
            for timer in timers:
                timer.take_turn(args.max_seconds)
        records += [timer.record() for timer in timers]
    return records


def page(records: list[Record]) -> str:
    """Return the results as Markdown, a table for each device and precision."""
    lines = page_head("Time of a training step", __doc__)
    columns = (
        "recipe",
        "data",
        "batch size",
        "weights",
        "backend",
        "ms per step",
        "images per second",
        "hours in total",
    )
    for device, precision in sorted({(r["device"], r["precision"]) for r in records}):
        rows = [
            [
                r["recipe"],
                " × ".join(str(n) for n in r["shape"]),
                str(r["batch"]),
                f"{r['weights']:,}",
                r["step"],
                f"{1000 * r['seconds a step']:.2f}",
                f"{r['images a second']:,.0f}",
                f"{r['hours for all its steps']:,.1f}",
            ]
            for r in sorted(records, key=lambda r: r["recipe"])
            if (r["device"], r["precision"]) == (device, precision) and r["recipe"] in advae.recipes()
        ]
        lines += ["", f"## {device}, {precision}", "", *markdown_table(columns, rows)]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = make_parser(__doc__, rounds=7, seconds=0.25)
    parser.add_argument("recipes", nargs="*", help="default: all")
    parser.add_argument("--max-seconds", type=float, default=10.0, help="per recipe")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    records = measure(args.recipes or advae.recipes(), args)
    write_results("recipes", records, ("recipe", "device", "precision"), page)


if __name__ == "__main__":
    main()
