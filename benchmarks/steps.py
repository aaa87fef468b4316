"""The three ways to run a step, side by side: do they give the same losses, and how fast is each?

    python benchmarks/steps.py                                   # eager and compiled, on the CPU
    python benchmarks/steps.py --device cuda vae-mnist-fc32 avb-ac-mnist-fc32 asvae-mnist-conv

Trains a recipe for some steps in each way, from the same weights, with the same batches and the same seed for every
step. Prints each way's losses over the last steps, their largest distance from the eager ones, that of the weights,
and steps a second; written to results/speed-steps.json and results/speed-steps.md. On a GPU this is the test of
captured steps: without one they are left out, and said to be.
"""

from __future__ import annotations

from typing import Any

import torch
from turns import machine, opening, parser, table, timed, where, write
from ways import trial

from advae.inductor import CompilationError
from advae.training.benchmark import Trial

RECIPES = ("vae-mnist-fc32", "avb-ac-mnist-fc32")


def measure(recipe: str, precision: str, args: Any) -> dict[str, Any]:
    """All ways in turns."""
    device = torch.device(args.device)
    ways: dict[str, Trial] = {}
    for way in ("eager", "compile", *(["cuda-graph"] if device.type == "cuda" else [])):
        try:
            ways[way] = trial(recipe, way, precision, device)
        except CompilationError as error:
            print(f"{recipe}: {error}")
    losses: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, way in ways.items():
            seconds[name].append(timed(way.run, args.steps, device))
            losses[name].append(way.step.read_metrics())
    eager = ways["eager"].step.model.state_dict()
    found = {}
    for name, way in ways.items():
        apart = [
            (way.step.model.state_dict()[k].float() - v.float()).abs().max().item() for k, v in eager.items()
        ]
        shown = {k: v for k, v in losses[name][0].items() if k.startswith("loss/")}
        worst = max(abs(v - losses["eager"][0][k]) / max(1.0, abs(v)) for k, v in shown.items())
        rate = args.steps / sorted(seconds[name])[len(seconds[name]) // 2]
        found[name] = {"losses": shown, "apart": worst, "weights apart": max(apart), "steps a second": rate}
    return {"recipe": recipe, "precision": precision, "steps": args.steps, "ways": found} | where(device)


def page(records: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = opening("Three ways to run a step", __doc__)
    for r in records:
        rows = [
            [
                way,
                ", ".join(f"{k.removeprefix('loss/')} {v:.6g}" for k, v in w["losses"].items()),
                f"{w['apart']:.1e}",
                f"{w['weights apart']:.1e}",
                f"{w['steps a second']:.1f}",
            ]
            for way, w in r["ways"].items()
        ]
        lines += [f"## {r['recipe']}, {r['precision']}", "", machine(r), ""]
        lines += table(
            (f"way, first {r['steps']} steps", "mean losses", "apart", "weights apart", "steps a second"),
            rows,
        )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    made = parser(__doc__, rounds=3, seconds=0)
    made.add_argument("recipes", nargs="*")
    made.add_argument("--steps", type=int, default=20, help="of a turn")
    made.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    args = made.parse_args()
    torch.set_num_threads(args.threads)
    for recipe in args.recipes or RECIPES:
        write(
            "steps", measure(recipe, args.precision, args), ("recipe", "precision", "device", "threads"), page
        )
    if args.device == "cpu":
        print("captured steps need a GPU: left out")


if __name__ == "__main__":
    main()
