"""Where the time of a step goes: the operations of AVB + AC and of AS-VAE, eagerly and compiled.

    python benchmarks/profile_step.py
    python benchmarks/profile_step.py --device cuda asvae-cifar10-conv

Written to results/speed-profile.json and results/speed-profile.md: the operations that take most of a step, as torch's
profiler sees them. It slows a step down, small operations most; shares are to be read, not times.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from turns import machine, opening, parser, table, where, write
from ways import trial

from advae.inductor import CompilationError
from advae.training.backends.select import WAYS

RECIPES = ("avb-ac-mnist-fc32", "asvae-digits")
SHOWN = 14


def measure(recipe: str, way: str, args: Any) -> dict[str, Any]:
    """Shares of a step's own time by operation."""
    device = torch.device(args.device)
    made = trial(recipe, way, args.precision, device)
    made.run(5)
    on = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=on) as seen:
        made.run(args.steps)
    own = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    events = sorted(seen.key_averages(), key=lambda e: -getattr(e, own))
    total = sum(getattr(e, own) for e in events)
    shares = {e.key[:70]: [getattr(e, own) / total, e.count / args.steps] for e in events[:SHOWN]}
    record = {"recipe": recipe, "way": way, "precision": args.precision, "ms": total / 1000 / args.steps}
    return record | {"calls": sum(e.count for e in events) / args.steps, "shares": shares} | where(device)


def page(records: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = opening("Where the time of a step goes", __doc__)
    for r in records:
        lines += [f"## {r['recipe']}, {r['way']}, {r['precision']}", "", machine(r), ""]
        lines += [f"{r['ms']:.1f} ms a step under the profiler, {r['calls']:.0f} operations.", ""]
        rows = [[f"`{key}`", f"{share:.1%}", f"{count:.0f}"] for key, (share, count) in r["shares"].items()]
        lines += [*table(("operation", "share of the step", "times a step"), rows), ""]
    return "\n".join(lines)


def main() -> None:
    made = parser(__doc__, rounds=1, seconds=0)
    made.add_argument("recipes", nargs="*")
    made.add_argument("--steps", type=int, default=20)
    made.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    made.add_argument("--ways", nargs="*", choices=WAYS, default=["eager", "compile"])
    args = made.parse_args()
    torch.set_num_threads(args.threads)
    for recipe in args.recipes or RECIPES:
        for way in args.ways:
            try:
                found = measure(recipe, way, args)
            except CompilationError as error:
                print(error)
                continue
            write("profile", found, ("recipe", "way", "precision", "device", "threads"), page)


if __name__ == "__main__":
    main()
