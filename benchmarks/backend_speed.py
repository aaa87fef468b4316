"""Backends of a training step: agreement of losses and weights, and speed.

    python benchmarks/backend_speed.py                                   # eager and compiled, on the CPU
    python benchmarks/backend_speed.py --device cuda vae-mnist-fc32 avb-ac-mnist-fc32 asvae-mnist-conv

Trains a recipe for some steps with each backend, from the same weights, with the same batches and seeds. Reports mean
losses, the largest differences of losses and weights from the eager ones, and steps per second, in
results/speed-steps.json and results/speed-steps.md. On a GPU this is the test of CUDA graphs.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
from timing import (
    Record,
    backends_of,
    describe_machine,
    machine_record,
    make_parser,
    markdown_table,
    page_head,
    recipe_benchmark,
    time_work,
    write_results,
)

from advae.inductor import CompilationError
from advae.training.benchmark import StepBenchmark

RECIPES = ("vae-mnist-fc32", "avb-ac-mnist-fc32")


def measure(recipe: str, precision: str, args: Any) -> Record:
    """Run all backends in turns."""
    device = torch.device(args.device)
    steps: dict[str, StepBenchmark] = {}
    for backend in backends_of(device):
        try:
            steps[backend] = recipe_benchmark(recipe, backend, precision, device)
        except CompilationError as error:
            print(f"{recipe}: {error}")
    losses: dict[str, list[dict[str, float]]] = {name: [] for name in steps}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(args.rounds):
        for name, benchmark in steps.items():
            seconds[name].append(time_work(benchmark.run, args.steps, device))
            losses[name].append(benchmark.step.metrics.pop_means())
    eager_weights, eager_losses = steps["eager"].step.model.state_dict(), losses["eager"][0]
    results = {}
    for name, benchmark in steps.items():
        weights = benchmark.step.model.state_dict()
        differences = [(weights[k].float() - v.float()).abs().max().item() for k, v in eager_weights.items()]
        shown = {key: value for key, value in losses[name][0].items() if key.startswith("loss/")}
        results[name] = {
            "losses": shown,
            "apart": max(abs(v - eager_losses[k]) / max(1.0, abs(v)) for k, v in shown.items()),
            "weights apart": max(differences),
            "steps a second": args.steps / statistics.median(seconds[name]),
        }
    record = {"recipe": recipe, "precision": precision, "steps": args.steps, "ways": results}
    return record | machine_record(device)


def page(records: list[Record]) -> str:
    """Return the results as Markdown."""
    lines = page_head("Backends of a training step", __doc__)
    for r in records:
        rows = [
            [
                backend,
                ", ".join(f"{key.removeprefix('loss/')} {value:.6g}" for key, value in b["losses"].items()),
                f"{b['apart']:.1e}",
                f"{b['weights apart']:.1e}",
                f"{b['steps a second']:.1f}",
            ]
            for backend, b in r["ways"].items()
        ]
        columns = (
            f"backend, first {r['steps']} steps",
            "mean losses",
            "relative difference",
            "difference of weights",
            "steps per second",
        )
        lines += [f"## {r['recipe']}, {r['precision']}", "", describe_machine(r), ""]
        lines += [*markdown_table(columns, rows), ""]
    return "\n".join(lines)


def main() -> None:
    parser = make_parser(__doc__, rounds=3, seconds=0)
    parser.add_argument("recipes", nargs="*")
    parser.add_argument("--steps", type=int, default=20, help="per turn")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for recipe in args.recipes or RECIPES:
        keys = ("recipe", "precision", "device", "threads")
        write_results("steps", [measure(recipe, args.precision, args)], keys, page)


if __name__ == "__main__":
    main()
