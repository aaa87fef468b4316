"""Images sampled a second: AS-VAE's decoder in one pass against PixelCNN++, pixel by pixel with a cache.

    python benchmarks/sampling.py
    python benchmarks/sampling.py --device cuda --images 512

Both with random weights, on which rates do not depend, of the recipes' sizes. The paper (Pu et al. 2017) gives 0.01 s
an image for AS-VAE and 52 s for PixelCNN++. Written to results/speed-sampling.json and results/speed-sampling.md.
"""

from __future__ import annotations

from typing import Any

import torch
from turns import machine, opening, parser, table, timed, where, write

from advae import resolve
from advae.model import build_model
from advae.random import seeded
from advae.training.benchmark import SHAPES

PAIRS = {
    "digits": ("asvae-digits", "mle-digits-pixelcnn"),
    "mnist": ("asvae-mnist-conv", "mle-mnist-pixelcnn"),
    "cifar10": ("asvae-cifar10-conv", "mle-cifar10-pixelcnn"),
    "imagenet": ("asvae-imagenet64-conv", "mle-imagenet64-pixelcnn"),
}
ON_CPU = ["digits", "mnist"]  # PixelCNN++ takes minutes for one of the larger images


def rate(recipe: str, images: int, device: torch.device, rounds: int) -> float:
    """Images a second, the median of some rounds."""
    config = resolve(recipe)
    with seeded(0, device):
        model = build_model(config.model, SHAPES[config.data.source]).to(device).eval()
    if rounds > 1:
        model.sample(images, seed=0)  # warms up
    took = sorted(timed(lambda n: model.sample(images, seed=n), 1, device) for _ in range(rounds))
    return images / took[len(took) // 2]


def measure(args: Any) -> dict[str, Any]:
    """Rates of both on each data set."""
    device, found = torch.device(args.device), {}
    for data in args.data:
        fast, slow = PAIRS[data]
        found[data] = {
            fast: rate(fast, args.images, device, args.rounds),
            slow: rate(slow, max(1, args.images // args.fewer), device, 1),
        }
    return {"images": args.images, "fewer": args.fewer, "images a second": found} | where(device)


def page(records: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = opening("Speed of sampling", __doc__)
    for r in records:
        rows = []
        for data, rates in r["images a second"].items():
            (_, a), (_, p) = rates.items()
            rows.append([data, f"{a:,.0f}", f"{1 / a:.2g} s", f"{p:.3g}", f"{1 / p:.2g} s", f"{a / p:,.0f}"])
        fewer = max(1, r["images"] // r.get("fewer", 32))
        lines += [f"{machine(r)} A batch of {r['images']} images, of PixelCNN++ of {fewer}.", ""]
        columns = ("data", "AS-VAE, images a second", "an image", "PixelCNN++", "an image", "times as many")
        lines += [*table(columns, rows), ""]
    return "\n".join(lines)


def main() -> None:
    made = parser(__doc__, rounds=5, seconds=0)
    made.add_argument("--images", type=int, default=256)
    made.add_argument("--fewer", type=int, default=32, help="PixelCNN++ makes one for so many of AS-VAE's")
    made.add_argument("--data", nargs="*", default=ON_CPU, choices=list(PAIRS))
    args = made.parse_args()
    torch.set_num_threads(args.threads)
    write("sampling", measure(args), ("device", "threads", "images"), page)


if __name__ == "__main__":
    main()
