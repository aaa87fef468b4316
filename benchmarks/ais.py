"""Annealed importance sampling against the bare rate of the decoder it runs on.

    python benchmarks/ais.py                       # 128 images × 16 chains on this machine's CPU, one thread
    python benchmarks/ais.py --device cuda --images 2048

One leapfrog step of one chain of one image needs the decoder forward, its likelihood, and backward to the code. The
bare loop does just that, with the same weights, batch and precision, as one would write it: eagerly, by torch's own
products. Annealing runs as in an evaluation of some length: on a CPU compiled, by the faster of torch's libraries. All
alternate in one run; medians of the rounds are written to results/speed-ais.json and, from it, results/speed-ais.md.
The decoder is that of table 3a of AVB, untrained: rates do not depend on its weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advae import build_model, resolve
from advae.devices import describe_device
from advae.evaluation.likelihood.ais import AISConfig, Joint, frozen, paths
from advae.evaluation.likelihood.annealing import anneal, temperatures

RESULTS = Path(__file__).parents[1] / "results"
SHAPE = (1, 28, 28)
LONG = 10**9  # gradients to come, so that compiling pays


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """How long ``work`` takes, to the end of what it has started."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def rounds(
    works: dict[str, tuple[Callable[[], object], int]], device: torch.device, n: int
) -> dict[str, float]:
    """Median rate of each, ``count`` / seconds, taken in turns; the first turn warms up."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(n + 1):
        for name, (work, count) in works.items():
            took = seconds(work, device)
            if turn:
                found[name].append(count / took)
    return {name: statistics.median(rates) for name, rates in found.items()}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Rates in chain × leapfrog a second."""
    device = torch.device(args.device)
    torch.manual_seed(0)
    spec = resolve("vae-mnist-fc32").model
    model = frozen(build_model(spec, SHAPE).to(device))
    x = (torch.rand(args.images, *SHAPE, device=device) < 0.2).float()
    options = AISConfig(args.chains, args.temperatures)
    chains = args.images * args.chains
    path = paths(Joint(model, False), x, "diagonal", often=LONG)(args.chains, args.temperatures)
    betas = temperatures(args.temperatures, options.schedule)
    step, many = torch.full((chains, 1), 0.1, device=device), x.repeat(args.chains, 1, 1, 1)
    leapfrogs = options.leapfrogs * (args.temperatures - 1)

    def annealing() -> None:
        with torch.no_grad():
            anneal(path, path.first(), betas, lambda beta: step, options.leapfrogs)

    def bare() -> None:
        for _ in range(leapfrogs):
            backward(lambda z: model.decode(z).log_prob(many))

    def network() -> None:
        for _ in range(leapfrogs):
            backward(lambda z: model.decoder.network(z).flatten(1).sum(1))

    def backward(value: Callable[[Tensor], Tensor]) -> None:
        z = torch.randn(chains, model.latent_dim, device=device, requires_grad=True)
        torch.autograd.grad(value(z).sum(), z)

    works = {
        "annealing": (annealing, chains * leapfrogs),
        "decoder, likelihood, backward": (bare, chains * leapfrogs),
        "network alone, backward": (network, chains * leapfrogs),
        "matrix product, FLOP": matrix_product(chains, device),
    }
    rates = rounds(works, device, args.rounds)
    linear = [m for m in model.decoder.network.modules() if isinstance(m, torch.nn.Linear)]
    flops = 4 * sum(m.in_features * m.out_features for m in linear)  # forward, and backward to the inputs
    whole = 10_000 * options.chains * 1000 * options.leapfrogs / rates["annealing"]
    return {
        "device": describe_device(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "images": args.images,
        "chains": args.chains,
        "rates": rates,
        "share of bare": rates["annealing"] / rates["decoder, likelihood, backward"],
        "share of network": rates["annealing"] / rates["network alone, backward"],
        "share of peak": rates["annealing"] * flops / rates["matrix product, FLOP"],
        "hours for 10,000 images, 16 chains, 1,000 temperatures": whole / 3600,
    }


def matrix_product(n: int, device: torch.device) -> tuple[Callable[[], object], int]:
    """The decoder's largest product, 50 times: the machine's peak at this shape, in FLOP."""
    a, b = torch.randn(n, 300, device=device), torch.randn(300, 784, device=device)

    def work() -> None:
        for _ in range(50):
            torch.mm(a, b)

    return work, 50 * 2 * n * 300 * 784


def page(records: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        "# Speed of annealed importance sampling",
        "",
        "The decoder of table 3a of AVB (32-300-300-784), float32. A rate is chains × leapfrog steps a second;"
        " medians of rounds in which all take turns. *Bare*: the decoder forward, its likelihood, backward to the"
        " code, and nothing else, eagerly by torch's own products; on a CPU annealing is compiled and takes the faster"
        " library.",
        "",
        "| device | images × chains | annealing | bare | share of bare | network alone | share of peak FLOPs |"
        " 10,000 images, 16 chains, 1,000 temperatures |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in records:
        rate, hours = r["rates"], r["hours for 10,000 images, 16 chains, 1,000 temperatures"]
        lines.append(
            f"| {r['device']} | {r['images']} × {r['chains']} | {rate['annealing']:,.0f} |"
            f" {rate['decoder, likelihood, backward']:,.0f} | {r['share of bare']:.2f} |"
            f" {rate['network alone, backward']:,.0f} | {r['share of peak']:.2f} | {hours:.2f} h |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--chains", type=int, default=16)
    parser.add_argument("--temperatures", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    record, path = measure(args), RESULTS / "speed-ais.json"
    before = json.loads(path.read_text()) if path.exists() else []
    key = ("device", "threads", "images", "chains")
    records = [r for r in before if any(r[k] != record[k] for k in key)] + [record]
    path.write_text(json.dumps(records, indent=1) + "\n")
    path.with_suffix(".md").write_text(page(records))
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
