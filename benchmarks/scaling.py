"""Time of a training step against model size and number of processes.

    python benchmarks/scaling.py                    # sizes, and one and two processes on this machine
    python benchmarks/scaling.py --device cuda --processes 1 2 4 8

Sizes: a step of the fully connected networks at several batch sizes, latent dimensions, image sizes and lengths of a
planar flow, relative to the first of each row. Processes: the same batch size for each, started by torchrun, with the
bytes that a step exchanges, and an estimate of the time that those bytes take on 8 and 64 GPUs. Written to
results/speed-scaling.json and results/speed-scaling.md.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from timing import (
    Record,
    describe_machine,
    machine_record,
    make_parser,
    markdown_table,
    page_head,
    time_work,
    write_results,
)

from advae import resolve
from advae.training.benchmark import StepBenchmark
from advae.training.distributed import broadcast_model, destroy_process_group

SIZES: dict[str, list[tuple[str, str, dict[str, Any], int]]] = {  # label, recipe, overrides, image size
    "batch size": [(str(b), "vae-mnist-fc32", {"train.batch_size": b}, 28) for b in (128, 256, 512, 1024)],
    "latent dimension": [(str(d), "vae-mnist-fc32", {"model.latent_dim": d}, 28) for d in (8, 32, 128)],
    "image size": [(str(n), "vae-mnist-fc32", {}, n) for n in (14, 28, 56)],
    "planar layers": [
        (str(k), "vae-planar-mnist-fc32", {"model.posterior.num_layers": k}, 28) for k in (4, 16, 80)
    ],
}
RECIPES = ("vae-mnist-fc32", "avb-ac-mnist-fc32")
# Bytes per second of the slowest link (assumed). In a ring all-reduce, each GPU sends 2 (n − 1)/n of the bytes.
LINKS = {8: ("NVLink, one machine", 350e9), 64: ("8 machines, 400 Gb/s per GPU", 40e9)}
NOTES = (
    "Efficiency: time on one process divided by time on several, each with its own batch; processes on one machine"
    " share memory and caches. The last two columns are estimates, not measurements: a ring all-reduce sends"
    " 2 (n − 1)/n of the bytes over each GPU's link, assumed to carry "
    + " and ".join(f"{rate / 1e9:.0f} GB/s ({text})" for text, rate in LINKS.values())
    + ", without overlap with computation."
)


def step_milliseconds(benchmark: StepBenchmark, rounds: int, seconds: float) -> float:
    """Return the median time of a step; with ``seconds`` 0, of five steps per turn, equal in all processes."""
    run, device = benchmark.run, benchmark.device
    benchmark.warm_up()
    n = 5 if seconds == 0 else max(1, round(seconds / (time_work(run, 3, device) / 3)))
    return 1000 * statistics.median(time_work(run, n, device) / n for _ in range(rounds))


def measure_sizes(args: Any) -> dict[str, dict[str, float]]:
    """Return the milliseconds of a step at every size; on a GPU of a CUDA graph."""
    device = torch.device(args.device)
    backend = "cuda-graph" if device.type == "cuda" else "eager"
    results: dict[str, dict[str, float]] = {}
    for row, cases in SIZES.items():
        for label, recipe, overrides, image_size in cases:
            config = resolve(recipe, {"train.precision": "fp32"} | overrides)
            benchmark = StepBenchmark.on_noise(config, (1, image_size, image_size), device, backend)
            results.setdefault(row, {})[label] = step_milliseconds(benchmark, args.rounds, args.seconds)
    return results


def measure_processes(args: Any) -> dict[str, dict[str, Any]]:
    """Return the milliseconds of a step on several processes and the bytes that it exchanges, by recipe."""
    results: dict[str, dict[str, Any]] = {recipe: {"ms": {}} for recipe in RECIPES}
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    for count in args.processes:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        script = [str(Path(__file__)), "--worker", "--device", args.device, "--rounds", str(args.rounds)]
        job = subprocess.run(
            [sys.executable, *torchrun, *script], check=True, capture_output=True, text=True, env=environment
        )
        for recipe, (ms, num_bytes) in json.loads(job.stdout.strip().splitlines()[-1]).items():
            results[recipe]["ms"][str(count)] = ms
            results[recipe]["bytes"] = num_bytes
    return results


def run_worker(args: Any) -> None:
    """Run one process's steps; the first process prints the results."""
    device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if args.device == "cuda" else "cpu")
    results = {}
    for recipe in RECIPES:
        config = resolve(recipe, {"train.precision": "fp32"})
        benchmark = StepBenchmark.on_noise(config, (1, 28, 28), device, "eager")
        step = benchmark.step
        broadcast_model(step.fabric, step.model)
        optimizers = [step.optimizers[player] for players in step.updates for player in players]
        num_bytes = 4 * sum(p.numel() for optimizer in optimizers for p in optimizer.parameters)
        results[recipe] = (step_milliseconds(benchmark, args.rounds, 0), num_bytes)
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(results), flush=True)
    destroy_process_group()


def page(records: list[Record]) -> str:
    """Return the results as Markdown."""
    lines = page_head("Step time against size and number of processes", __doc__)
    for r in records:
        rows = []
        for row, times in r["sizes"].items():
            first = next(iter(times.values()))
            cells = [f"{label}: {ms:.1f} ms (× {ms / first:.1f})" for label, ms in times.items()]
            rows.append([row, "; ".join(cells)])
        lines += [describe_machine(r), "", *markdown_table(("size", "time per step"), rows), ""]
        columns = (
            *("recipe", "time per step by number of processes", "efficiency", "exchanged"),
            *(f"{n} GPUs (estimate)" for n in LINKS),
        )
        rows = [process_row(recipe, result) for recipe, result in r["processes"].items()]
        lines += [*markdown_table(columns, rows), "", NOTES, ""]
    return "\n".join(lines)


def process_row(recipe: str, result: dict[str, Any]) -> list[str]:
    """Return a recipe's row of the second table."""
    times, num_bytes = result["ms"], result["bytes"]
    several = {n: ms for n, ms in times.items() if n != "1"}
    efficiency = "; ".join(f"{n}: {times['1'] / ms:.2f}" for n, ms in several.items()) if "1" in times else ""
    estimates = [f"{2e6 * (n - 1) / n * num_bytes / rate:.0f} µs" for n, (_, rate) in LINKS.items()]
    text = "; ".join(f"{n}: {ms:.1f} ms" for n, ms in times.items())
    return [recipe, text, efficiency, f"{num_bytes / 1e6:.1f} MB", *estimates]


def main() -> None:
    parser = make_parser(__doc__, rounds=5, seconds=0.3)
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--worker", action="store_true", help="used by torchrun")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.worker:
        run_worker(args)
        return
    record = {"sizes": measure_sizes(args), "processes": measure_processes(args)}
    write_results(
        "scaling", [record | machine_record(torch.device(args.device))], ("device", "threads"), page
    )


if __name__ == "__main__":
    main()
