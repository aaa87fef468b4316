"""Training throughput: advae against pythae, hand-written loops, and the machine's peak.

    python benchmarks/training_speed.py                         # every case but the large convolutions, on the CPU
    python benchmarks/training_speed.py vae avb --device cuda
    python benchmarks/training_speed.py vae --batch 1024

MNIST-shaped noise; within a case the same networks, batch size and precision. advae runs its whole step, as in
training: batches, binarization, all players, gradient norms, checks, metrics and the moving average; eagerly, compiled,
and on a GPU as a CUDA graph. The hand-written loops have no checks, metrics and averages. All take turns in one
process; medians are written to results/speed-training.json and, from it, results/speed-training.md.

On a CPU, glibc's environment variables of docs/reference/speed.md (MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_MAX_) apply to
all contenders; they must be set before the process starts.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any

import torch
import training_baselines as baselines
from timing import (
    Contender,
    Record,
    backends_of,
    describe_machine,
    machine_record,
    make_parser,
    markdown_table,
    matrix_product,
    measure_rates,
    page_head,
    recipe_benchmark,
    write_results,
)

from advae.devices import allow_tf32
from advae.inductor import CompilationError
from advae.training.backends.select import BACKENDS
from advae.training.benchmark import StepBenchmark, flop_per_image

CASES: dict[str, tuple[str, str, str]] = {  # recipe, hand-written loop, model of pythae
    "vae": ("vae-mnist-fc32", "vae", "vae"),
    "avb": ("avb-ac-mnist-fc32", "avb", ""),
    "iaf": ("vae-iaf-mnist-fc32", "", "iaf"),
    "planar": ("vae-planar-mnist-fc32", "", ""),
    "auxiliary": ("vae-aux-mnist-fc32", "", ""),
    "ali": ("ali-digits", "", ""),
    "asvae": ("asvae-digits", "", ""),
    "bavae": ("bavae-digits", "", ""),
    "mnist-conv": ("asvae-mnist-conv", "", ""),
    "cifar10-conv": ("asvae-cifar10-conv", "", ""),
    "imagenet64-conv": ("asvae-imagenet64-conv", "", ""),
}
NUM_IMAGES = 4096


def advae_steps(recipe: str, args: Any, precision: str, device: torch.device) -> dict[str, StepBenchmark]:
    """Return advae's step with every backend that runs here."""
    steps = {}
    for backend in args.backends or backends_of(device):
        try:
            steps[f"advae, {backend}"] = recipe_benchmark(recipe, backend, precision, device, args.batch)
        except CompilationError as error:
            print(error)
    return steps


def measure(name: str, args: Any, bf16: bool) -> Record:
    """Return the rates of a case in images per second."""
    recipe, hand_written, pythae_model = CASES[name]
    device, precision = torch.device(args.device), "bf16" if bf16 else "fp32"
    torch.manual_seed(0)
    steps = advae_steps(recipe, args, precision, device)
    first = next(iter(steps.values())).step
    batch, shape = first.options.batch_size, first.model.x_shape
    images = (255 * (torch.rand(NUM_IMAGES, *shape) < 0.2)).to(torch.uint8).to(device)
    loops: dict[str, baselines.Loop] = {key: step.run for key, step in steps.items()}
    bare = {"vae": baselines.bare_vae, "avb": baselines.bare_avb}.get(hand_written)
    loops["loop by hand"] = (
        bare(images, batch, bf16)
        if bare
        else baselines.plain_loop(recipe, next(iter(steps.values())), images, bf16)
    )
    if hand_written == "vae" and device.type == "cuda":
        loops["captured by hand"] = baselines.captured_vae(images, batch, bf16)
    contenders = {key: Contender(loop, batch * len(first.updates)) for key, loop in loops.items()}
    if pythae_model and not bf16:
        pythae = baselines.pythae_loop(pythae_model, images[:2048], batch)
        if pythae is not None:
            contenders["pythae"] = Contender(pythae, pythae.images)  # type: ignore[attr-defined]
    dtype = torch.bfloat16 if bf16 else torch.float32
    # Products of 1024 × 1024 matrices are too short to saturate a GPU.
    contenders["matrix product"] = matrix_product(1024 if device.type == "cpu" else 8192, device, dtype)
    with allow_tf32() if device.type == "cuda" else nullcontext():  # for all contenders
        rates = measure_rates(contenders, args.rounds, args.seconds, device)
    malloc = " ".join(f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith("MALLOC_"))
    record = {"case": name, "recipe": recipe, "batch": batch, "precision": precision, "malloc": malloc}
    record |= machine_record(device) | {"peak": rates.pop("matrix product"), "images a second": rates}
    if name == "vae":
        record["FLOP an image"] = flop_per_image(first.model)
    return record


COLUMNS = (
    "case", "batch", "precision", "advae eager", "compiled", "CUDA graph", "by hand", "CUDA graph by hand", "pythae",
    "fastest / by hand", "fastest / pythae", "fraction of peak",
)  # fmt: skip


def page(records: list[Record]) -> str:
    """Return the results as Markdown."""
    lines = page_head("Training throughput", __doc__)
    lines += [
        "Images per second. *Fastest* is advae's fastest backend. The peak is that of products of square matrices"
        " (1024, on a GPU 8192) in the same precision, measured in the same turns. The hand-written loops of"
        " vae and avb are in benchmarks/training_baselines.py; the others are the README's loop around the method's own"
        " losses. pythae computes in float32, from images that are binarized once; its flow has the same width and"
        " depth but no context of the image.",
    ]
    for device in sorted({r["device"] for r in records}):
        rows = sorted(
            (r for r in records if r["device"] == device),
            key=lambda r: (list(CASES).index(r["case"]), r["batch"]),
        )
        loads = [r["load"] for r in rows]
        lines += ["", f"## {device}", "", describe_machine(rows[0] | {"load": ""})]
        lines += [f"Load average {min(loads)} to {max(loads)} (1 is this benchmark alone).", ""]
        lines += markdown_table(COLUMNS, [row(r) for r in rows])
    return "\n".join([*lines, ""])


def row(r: Record) -> list[str]:
    """Return a case's row."""
    rates = r["images a second"]
    fastest = max(value for key, value in rates.items() if key.startswith("advae"))
    columns = (
        "advae, eager",
        "advae, compile",
        "advae, cuda-graph",
        "loop by hand",
        "captured by hand",
        "pythae",
    )
    numbers = [f"{rates[key]:,.0f}" if key in rates else "" for key in columns]
    ratios = [f"{fastest / rates[key]:.2f}" if key in rates else "" for key in ("loop by hand", "pythae")]
    fraction = f"{fastest * r['FLOP an image'] / r['peak']:.2f}" if "FLOP an image" in r else ""
    return [r["recipe"], str(r["batch"]), r["precision"], *numbers, *ratios, fraction]


def main() -> None:
    parser = make_parser(__doc__, rounds=7, seconds=0.5)
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], help="default: all but …-conv")
    parser.add_argument("--batch", type=int, help="instead of the recipe's")
    parser.add_argument("--precision", choices=("fp32", "bf16", "both"), default="both")
    parser.add_argument("--backends", nargs="*", choices=BACKENDS, help="default: all that run on the device")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in args.cases or [name for name in CASES if not name.endswith("conv")]:
        for bf16 in (False, True):
            if args.precision in ("both", "bf16" if bf16 else "fp32"):
                keys = ("case", "device", "threads", "batch", "precision")
                write_results("training", [measure(name, args, bf16)], keys, page)


if __name__ == "__main__":
    main()
