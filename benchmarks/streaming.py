"""Images read a second by the streaming path, beside the steps that wait for them.

    python benchmarks/streaming.py
    python benchmarks/streaming.py --device cuda --workers 8

Colour images of 64 × 64 as PNG files in a folder of their own, read by some worker processes; the same images
resident; and the images a second that a training step of asvae-images-conv takes. Streaming is the bottleneck only
where the first is below the last. Written to results/speed-streaming.json and results/speed-streaming.md.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from turns import machine, opening, parser, table, timed, where, write

from advae import DataOptions, load_data, resolve
from advae.data import BatchLoader
from advae.methods import METHODS
from advae.model import build_model
from advae.training.distributed import make_fabric
from advae.training.step import TrainStep

SIDE, RECIPE = 64, "asvae-images-conv"


def folder_of(path: Path, count: int) -> None:
    """So many PNG files of smooth noise, which compress as photographs do, by about half."""
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = rng.integers(0, 256, (SIDE // 4, SIDE // 4, 3), dtype=np.uint8)
        grown = np.asarray(
            Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.int16
        )
        noisy = grown + rng.integers(-8, 9, grown.shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path / f"{i:05d}.png")


def read_rate(options: dict[str, Any], batch: int, device: torch.device, seconds_of: int) -> float:
    """Images a second that reach the device, after the workers have started."""
    data = load_data(DataOptions(**options))
    stream = BatchLoader(data.train, batch, seed=0, device=device, workers=options["workers"]).stream(0)

    def work(n: int) -> None:
        for _ in range(n):
            next(stream)

    work(8)  # starts the workers and uses up what they read ahead
    return batch * seconds_of / timed(work, seconds_of, device)


def step_rate(batch: int, device: torch.device, steps: int) -> float:
    """Images a second of a training step."""
    config = resolve(RECIPE, {"train.batch_size": batch})
    method = METHODS.build(config.method)
    model = build_model(config.model, (3, SIDE, SIDE), method.critics)
    model = model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    step, x = TrainStep(make_fabric(device, "fp32"), model, method, config.train), torch.rand(batch, 3, SIDE, SIDE)
    x = x.to(device)

    def work(n: int) -> None:
        for i in range(n):
            step(i, lambda j: x)

    timed(work, 1, device)
    return batch * steps / timed(work, steps, device)


def measure(args: Any) -> dict[str, Any]:
    """Rates of reading, and of the step."""
    device = torch.device(args.device)
    with tempfile.TemporaryDirectory() as name:
        folder_of(Path(name), args.images)
        common = {"source": name, "preprocessing": "dequantize", "image_size": SIDE}
        found = {
            f"streamed, {n} workers": read_rate(
                common | {"storage": "stream", "workers": n}, args.batch, device, args.batches
            )
            for n in sorted({0, args.workers})
        }
        found["resident"] = read_rate(
            common | {"storage": "resident", "workers": 0}, args.batch, device, 10 * args.batches
        )
    found[f"a step of {RECIPE}"] = step_rate(args.batch, device, args.steps)
    return {"batch": args.batch, "workers": args.workers, "images a second": found} | where(device)


def page(records: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = opening("Speed of the streaming path", __doc__)
    for r in records:
        rows = [[name, f"{value:,.0f}"] for name, value in r["images a second"].items()]
        lines += [machine(r), "", *table(("what", f"images a second, batch {r['batch']}"), rows), ""]
    return "\n".join(lines)


def main() -> None:
    made = parser(__doc__, rounds=1, seconds=0)
    made.add_argument("--images", type=int, default=2000)
    made.add_argument("--batch", type=int, default=64)
    made.add_argument("--batches", type=int, default=40, help="read for each figure")
    made.add_argument("--steps", type=int, default=2)
    made.add_argument("--workers", type=int, default=2)
    args = made.parse_args()
    torch.set_num_threads(args.threads)
    write("streaming", measure(args), ("device", "threads", "batch", "workers"), page)


if __name__ == "__main__":
    main()
