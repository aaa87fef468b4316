"""Sampling throughput: AS-VAE's decoder in one pass against PixelCNN++, pixel by pixel with a cache.

    python benchmarks/sampling_speed.py
    python benchmarks/sampling_speed.py --device cuda --images 512

Both have random weights, which do not affect the speed, and the recipes' sizes. The paper (Pu et al. 2017) reports
0.01 s per image for AS-VAE and 52 s for PixelCNN++. Written to results/speed-sampling.json and
results/speed-sampling.md.
"""

from __future__ import annotations

import statistics
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
from advae.model import build_model
from advae.random import seeded
from advae.training.benchmark import DATA_SHAPES

RECIPES = {  # AS-VAE, PixelCNN++
    "digits": ("asvae-digits", "mle-digits-pixelcnn"),
    "mnist": ("asvae-mnist-conv", "mle-mnist-pixelcnn"),
    "cifar10": ("asvae-cifar10-conv", "mle-cifar10-pixelcnn"),
    "imagenet": ("asvae-imagenet64-conv", "mle-imagenet64-pixelcnn"),
}
DEFAULT_DATA = ["digits", "mnist"]  # PixelCNN++ takes minutes per larger image on a CPU


def sampling_rate(recipe: str, images: int, device: torch.device, rounds: int) -> float:
    """Return the median number of images per second."""
    config = resolve(recipe)
    with seeded(0, device):
        model = build_model(config.model, DATA_SHAPES[config.data.source]).to(device).eval()
    if rounds > 1:
        model.sample(images, seed=0)  # warm-up
    times = [time_work(lambda n: model.sample(images, seed=n), 1, device) for _ in range(rounds)]
    return images / statistics.median(times)


def measure(args: Any) -> Record:
    """Return the rates of both models on each data set."""
    device, rates = torch.device(args.device), {}
    for data in args.data:
        asvae, pixelcnn = RECIPES[data]
        fewer_images = max(1, args.images // args.fewer)
        rates[data] = {
            asvae: sampling_rate(asvae, args.images, device, args.rounds),
            pixelcnn: sampling_rate(pixelcnn, fewer_images, device, 1),
        }
    record = {"images": args.images, "fewer": args.fewer, "images a second": rates}
    return record | machine_record(device)


def page(records: list[Record]) -> str:
    """Return the results as Markdown."""
    lines = page_head("Sampling throughput", __doc__)
    columns = ("data", "AS-VAE, images per second", "per image", "PixelCNN++", "per image", "ratio")
    for r in records:
        rows = []
        for data, rates in r["images a second"].items():
            a, p = rates.values()
            rows.append([data, f"{a:,.0f}", f"{1 / a:.2g} s", f"{p:.3g}", f"{1 / p:.2g} s", f"{a / p:,.0f}"])
        fewer = max(1, r["images"] // r.get("fewer", 32))
        lines += [f"{describe_machine(r)} Batches of {r['images']} images, of PixelCNN++ {fewer}.", ""]
        lines += [*markdown_table(columns, rows), ""]
    return "\n".join(lines)


def main() -> None:
    parser = make_parser(__doc__, rounds=5, seconds=0)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--fewer", type=int, default=32, help="images of AS-VAE per image of PixelCNN++")
    parser.add_argument("--data", nargs="*", default=DEFAULT_DATA, choices=list(RECIPES))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    write_results("sampling", [measure(args)], ("device", "threads", "images"), page)


if __name__ == "__main__":
    main()
