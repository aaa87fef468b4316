"""Data loading throughput: streamed and resident images against the training step that uses them.

    python benchmarks/data_loading_speed.py
    python benchmarks/data_loading_speed.py --device cuda --workers 8

Color images of 64 × 64 pixels as PNG files, read by worker processes; the same images resident in memory; and the
images per second of a training step of RECIPE. Streaming is the bottleneck only if the first is below the
last. Written to results/speed-streaming.json and results/speed-streaming.md.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
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

from advae import DataOptions, load_data, resolve
from advae.data import BatchLoader
from advae.training.benchmark import StepBenchmark

IMAGE_SIZE, RECIPE = 64, "asvae-images"


def write_images(folder: Path, count: int) -> None:
    """Write PNG files of smooth noise, which compress by half, as photographs do."""
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = rng.integers(0, 256, (IMAGE_SIZE // 4, IMAGE_SIZE // 4, 3), dtype=np.uint8)
        resized = Image.fromarray(coarse).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
        noisy = np.asarray(resized, dtype=np.int16) + rng.integers(-8, 9, (IMAGE_SIZE, IMAGE_SIZE, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{i:05d}.png")


def loading_rate(options: dict[str, Any], batch: int, device: torch.device, num_batches: int) -> float:
    """Return the images per second that reach the device once the workers run."""
    data = load_data(DataOptions(**options))
    batches = BatchLoader(data.train, batch, seed=0, device=device, workers=options["workers"]).stream(0)

    def work(n: int) -> None:
        for _ in range(n):
            next(batches)

    work(8)  # starts the workers and uses their prefetched batches
    return batch * num_batches / time_work(work, num_batches, device)


def step_rate(batch: int, device: torch.device, steps: int) -> float:
    """Return the images per second of a training step."""
    config = resolve(RECIPE, {"train.batch_size": batch, "train.precision": "fp32"})
    benchmark = StepBenchmark.on_noise(config, (3, IMAGE_SIZE, IMAGE_SIZE), device, "eager")
    benchmark.warm_up()
    return batch * steps / time_work(benchmark.run, steps, device)


def measure(args: Any) -> Record:
    """Return the rates of loading and of the step."""
    device, rates = torch.device(args.device), {}
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), args.images)
        options = {"source": folder, "preprocessing": "dequantize", "image_size": IMAGE_SIZE}
        for n in sorted({0, args.workers}):
            stream = options | {"storage": "stream", "workers": n}
            rates[f"streamed, {n} workers"] = loading_rate(stream, args.batch, device, args.batches)
        resident = options | {"storage": "resident", "workers": 0}
        rates["resident"] = loading_rate(resident, args.batch, device, 10 * args.batches)
    rates[f"a step of {RECIPE}"] = step_rate(args.batch, device, args.steps)
    record = {"batch": args.batch, "workers": args.workers, "images a second": rates}
    return record | machine_record(device)


def page(records: list[Record]) -> str:
    """Return the results as Markdown."""
    lines = page_head("Data loading throughput", __doc__)
    for r in records:
        rows = [[name, f"{value:,.0f}"] for name, value in r["images a second"].items()]
        columns = ("source", f"images per second, batch size {r['batch']}")
        lines += [describe_machine(r), "", *markdown_table(columns, rows), ""]
    return "\n".join(lines)


def main() -> None:
    parser = make_parser(__doc__, rounds=1, seconds=0)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--batches", type=int, default=40, help="to load per measurement")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    write_results("streaming", [measure(args)], ("device", "threads", "batch", "workers"), page)


if __name__ == "__main__":
    main()
