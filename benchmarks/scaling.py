"""Cost against size, and over processes.

    python benchmarks/scaling.py                    # sizes, and one and two processes on this machine
    python benchmarks/scaling.py --device cuda --processes 1 2 4 8

Sizes: a step of the fully connected networks at several batches, code lengths, image sides and lengths of a planar
flow; each is a multiple of the first of its row. Processes: the same batch for each, by torchrun, with the bytes that
a step exchanges. On paper: what those bytes take on 8 and 64 GPUs. Written to results/speed-scaling.json and
results/speed-scaling.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from turns import machine, opening, parser, table, timed, where, write

from advae import resolve
from advae.training.benchmark import Trial, on_noise
from advae.training.distributed import destroy_process_group, one_model

SIZES: dict[str, list[tuple[str, str, dict[str, Any], int]]] = {  # label, recipe, overrides, image side
    "batch": [(str(b), "vae-mnist-fc32", {"train.batch_size": b}, 28) for b in (128, 256, 512, 1024)],
    "code": [(str(d), "vae-mnist-fc32", {"model.latent_dim": d}, 28) for d in (8, 32, 128)],
    "image side": [(str(n), "vae-mnist-fc32", {}, n) for n in (14, 28, 56)],
    "planar layers": [
        (str(k), "vae-planar-mnist-fc32", {"model.posterior.length": k}, 28) for k in (4, 16, 80)
    ],
}
RECIPES = ("vae-mnist-fc32", "avb-ac-mnist-fc32")
# Ring all-reduce: every GPU sends and receives 2 (n − 1)/n of the bytes, at the rate of its slowest link (assumed).
LINKS = {
    8: ("NVLink, one machine", 350e9),
    64: ("8 machines, 400 Gb/s for each GPU", 40e9),
}  # bytes/s in practice


def milliseconds(trial: Trial, rounds: int, seconds: float) -> float:
    """Of a step, the median of some turns."""
    device = trial.device
    trial.settle()
    n = 5 if seconds == 0 else max(1, round(seconds / (timed(trial.run, 3, device) / 3)))
    found = sorted(timed(trial.run, n, device) / n for _ in range(rounds))
    return 1000 * found[len(found) // 2]


def sizes(args: Any) -> dict[str, dict[str, float]]:
    """Milliseconds of a step at every size, on a GPU of a captured one."""
    device, found = torch.device(args.device), {}
    way = "cuda-graph" if device.type == "cuda" else "eager"
    for row, cases in SIZES.items():
        found[row] = {}
        for label, recipe, more, side in cases:
            config = resolve(recipe, {"train.precision": "fp32"} | more)
            trial = on_noise(config, (1, side, side), device, way)
            found[row][label] = milliseconds(trial, args.rounds, args.seconds)
    return found


def processes(args: Any) -> dict[str, dict[str, Any]]:
    """Milliseconds of a step on several processes, by recipe, and the bytes that it exchanges."""
    found: dict[str, dict[str, Any]] = {recipe: {"ms": {}} for recipe in RECIPES}
    for count in args.processes:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        script = [str(Path(__file__)), "--worker", "--device", args.device, "--rounds", str(args.rounds)]
        out = subprocess.run(
            [sys.executable, *torchrun, *script],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(args.threads)},
        )
        for recipe, (ms, sent) in json.loads(out.stdout.strip().splitlines()[-1]).items():
            found[recipe]["ms"][str(count)] = ms
            found[recipe]["bytes"] = sent
    return found


def worker(args: Any) -> None:
    """One process's part: prints what the first one measured."""
    local = os.environ.get("LOCAL_RANK", "0")
    device = torch.device(f"cuda:{local}" if args.device == "cuda" else "cpu")
    found = {}
    for recipe in RECIPES:
        trial = on_noise(resolve(recipe, {"train.precision": "fp32"}), (1, 28, 28), device, "eager")
        one_model(trial.step.fabric, trial.step.model)
        players = [trial.step.players[name] for names in trial.step.moves for name in names]
        sent = 4 * sum(p.numel() for player in players for p in player.parameters)
        found[recipe] = (milliseconds(trial, args.rounds, 0), sent)
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(found), flush=True)
    destroy_process_group()


def page(records: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = opening("Cost against size, and over processes", __doc__)
    for r in records:
        rows = []
        for row, each in r["sizes"].items():
            first = next(iter(each.values()))
            rows.append([row, "; ".join(f"{k}: {v:.1f} ms (× {v / first:.1f})" for k, v in each.items())])
        lines += [machine(r), "", *table(("what grows", "a step"), rows), ""]
        rows = []
        for recipe, each in r["processes"].items():
            alone = each["ms"].get("1")
            shown = "; ".join(f"{n}: {ms:.1f} ms" for n, ms in each["ms"].items())
            many = {n: ms for n, ms in each["ms"].items() if n != "1"}
            kept = "; ".join(f"{n}: {alone / ms:.2f}" for n, ms in many.items()) if alone else ""
            rows.append([recipe, shown, kept, f"{each['bytes'] / 1e6:.1f} MB", *paper(each["bytes"])])
        columns = (
            "recipe",
            "a step on so many processes",
            "efficiency",
            "exchanged",
            *(f"{n} GPUs" for n in LINKS),
        )
        lines += [*table(columns, rows), "", PAPER, ""]
    return "\n".join(lines)


PAPER = (
    "Efficiency: time on one process over time on several, each with a batch of its own; processes on one machine share"
    " its memory and caches. The last two columns are arithmetic, not measurements: a ring all-reduce sends"
    " 2 (n − 1)/n of the bytes over each GPU's link, assumed to carry "
    + " and ".join(f"{rate / 1e9:.0f} GB/s ({text})" for text, rate in LINKS.values())
    + "; it is not overlapped with anything, and a step ten times as long keeps 0.91 of the machines busy."
)


def paper(sent: float) -> list[str]:
    """What an all-reduce of these bytes takes on many GPUs, by the links' rates alone."""
    return [f"{2e6 * (n - 1) / n * sent / rate:.0f} µs" for n, (_, rate) in LINKS.items()]


def main() -> None:
    made_parser = parser(__doc__, rounds=5, seconds=0.3)
    made_parser.add_argument("--processes", type=int, nargs="*", default=[1, 2])
    made_parser.add_argument("--worker", action="store_true", help="what torchrun starts")
    args = made_parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.worker:
        worker(args)
        return
    record = {"sizes": sizes(args), "processes": processes(args)} | where(torch.device(args.device))
    write("scaling", record, ("device", "threads"), page)


if __name__ == "__main__":
    main()
