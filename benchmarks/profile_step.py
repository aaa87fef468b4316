"""Profile of a training step: operations by time, eagerly and compiled.

    python benchmarks/profile_step.py
    python benchmarks/profile_step.py --device cuda asvae-cifar10-conv

The operations that take most of a step, as PyTorch's profiler sees them, are written to results/speed-profile.json and
results/speed-profile.md. The profiler slows down small operations most: read fractions, not times.
"""

from __future__ import annotations

from typing import Any

import torch
from timing import (
    Record,
    describe_machine,
    machine_record,
    make_parser,
    markdown_table,
    page_head,
    recipe_benchmark,
    write_results,
)
from torch.profiler import ProfilerActivity, profile

from advae.inductor import CompilationError
from advae.training.backends.select import BACKENDS

RECIPES = ("avb-ac-mnist-fc32", "asvae-digits")
NUM_OPERATIONS = 14


def measure(recipe: str, backend: str, args: Any) -> Record:
    """Return the fraction of a step's time by operation."""
    device = torch.device(args.device)
    benchmark = recipe_benchmark(recipe, backend, args.precision, device)
    benchmark.run(5)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as profiler:
        benchmark.run(args.steps)
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    events = sorted(profiler.key_averages(), key=lambda e: -getattr(e, key))
    total = sum(getattr(e, key) for e in events)
    shares = {e.key[:70]: [getattr(e, key) / total, e.count / args.steps] for e in events[:NUM_OPERATIONS]}
    record = {"recipe": recipe, "way": backend, "precision": args.precision, "ms": total / 1000 / args.steps}
    calls = sum(e.count for e in events) / args.steps
    return record | {"calls": calls, "shares": shares} | machine_record(device)


def page(records: list[Record]) -> str:
    """Return the results as Markdown."""
    lines = page_head("Profile of a training step", __doc__)
    for r in records:
        lines += [f"## {r['recipe']}, {r['way']}, {r['precision']}", "", describe_machine(r), ""]
        lines += [f"{r['ms']:.1f} ms per step under the profiler, {r['calls']:.0f} operations.", ""]
        rows = [[f"`{key}`", f"{share:.1%}", f"{count:.0f}"] for key, (share, count) in r["shares"].items()]
        lines += [*markdown_table(("operation", "fraction of the step", "calls per step"), rows), ""]
    return "\n".join(lines)


def main() -> None:
    parser = make_parser(__doc__, rounds=1, seconds=0)
    parser.add_argument("recipes", nargs="*")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--backends", nargs="*", choices=BACKENDS, default=["eager", "compile"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for recipe in args.recipes or RECIPES:
        for backend in args.backends:
            try:
                record = measure(recipe, backend, args)
            except CompilationError as error:
                print(error)
                continue
            write_results("profile", [record], ("recipe", "way", "precision", "device", "threads"), page)


if __name__ == "__main__":
    main()
