"""Throughput of annealed importance sampling against the decoder it uses.

    python benchmarks/ais_speed.py                       # 128 images × 16 chains on the CPU, one thread
    python benchmarks/ais_speed.py --device cuda --images 2048

One leapfrog step of one chain of one image needs the decoder forward, its likelihood, and backward to the latent. The
bare loop does just that, eagerly, with the same weights, batch size and precision. Annealing runs as in a long
evaluation: compiled on a CPU. All take turns; medians are written to results/speed-ais.json and results/speed-ais.md.
The decoder is that of table 3a of AVB (32-300-300-784) in float32, untrained. Rates are chains × leapfrog steps per
second.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timing import (
    Contender,
    Record,
    machine_record,
    make_parser,
    markdown_table,
    measure_rates,
    page_head,
    write_results,
)
from torch import Tensor

from advae import build_model, resolve
from advae.devices import allow_tf32
from advae.evaluation.likelihood.ais import AISConfig, whitening, without_grad
from advae.evaluation.likelihood.annealing import AnnealingPath, anneal, make_temperatures
from advae.evaluation.likelihood.log_density_grad import LogDensityGrad
from advae.model import LatentModel

SHAPE = (1, 28, 28)
NUM_EVALS = 10**9  # gradients to come, so that compilation pays
WHOLE = "hours for 10,000 images, 16 chains, 1,000 temperatures"


def make_path(model: LatentModel, x: Tensor, chains: int) -> AnnealingPath:
    """Return the path of all chains of all images, with compiled gradients."""
    many = x.repeat(chains, 1, 1, 1)
    mean, scale = (value.repeat(chains, 1) for value in whitening(model, x, "diagonal"))

    def log_joint(x: Tensor, z: Tensor) -> Tensor:
        return model.decode(z).log_prob(x) + model.prior.log_prob(z)

    def log_final(u: Tensor, mean: Tensor, scale: Tensor, x: Tensor) -> Tensor:
        return AnnealingPath(mean, scale, partial(log_joint, x)).log_final(u)

    gradient = LogDensityGrad(log_final)
    return AnnealingPath(
        mean,
        scale,
        partial(log_joint, many),
        final_and_grad=lambda u: gradient(u, mean, scale, many, num_evals=NUM_EVALS),
    )


def measure(args: Any) -> Record:
    """Return rates in chains × leapfrog steps per second."""
    device = torch.device(args.device)
    torch.manual_seed(0)
    model = without_grad(build_model(resolve("vae-mnist-fc32").model, SHAPE).to(device))
    x = (torch.rand(args.images, *SHAPE, device=device) < 0.2).float()
    config = AISConfig(args.chains, args.temperatures)
    chains = args.images * args.chains
    path, betas = make_path(model, x, args.chains), make_temperatures(args.temperatures, config.schedule)
    step_size, many = torch.full((chains, 1), 0.1, device=device), x.repeat(args.chains, 1, 1, 1)
    leapfrogs = config.leapfrog_steps * (args.temperatures - 1)

    def run_annealing(times: int) -> None:
        with torch.no_grad():
            for _ in range(times):
                anneal(path, path.sample_initial(), betas, lambda beta: step_size, config.leapfrog_steps)

    def gradients(function: Callable[[Tensor], Tensor]) -> Callable[[int], None]:
        def run(times: int) -> None:
            for _ in range(times * leapfrogs):
                z = torch.randn(chains, model.latent_dim, device=device, requires_grad=True)
                torch.autograd.grad(function(z).sum(), z)

        return run

    a, b = torch.randn(chains, 300, device=device), torch.randn(300, 784, device=device)

    def multiply(times: int) -> None:
        with allow_tf32():
            for _ in range(50 * times):
                torch.mm(a, b)

    count = chains * leapfrogs
    bare = gradients(lambda z: model.decode(z).log_prob(many))
    network = gradients(lambda z: model.decoder.network(z).flatten(1).sum(1))
    contenders = {
        "annealing": Contender(run_annealing, count),
        "decoder, likelihood, backward": Contender(bare, count),
        "network alone, backward": Contender(network, count),
        "matrix product, FLOP": Contender(multiply, 50 * 2 * chains * 300 * 784),
    }
    rates = measure_rates(contenders, args.rounds, args.seconds, device)
    linear = [m for m in model.decoder.network.modules() if isinstance(m, torch.nn.Linear)]
    flop = 4 * sum(m.in_features * m.out_features for m in linear)  # forward, and backward to the inputs
    return machine_record(device) | {
        "images": args.images,
        "chains": args.chains,
        "rates": rates,
        "share of bare": rates["annealing"] / rates["decoder, likelihood, backward"],
        "share of network": rates["annealing"] / rates["network alone, backward"],
        "share of peak": rates["annealing"] * flop / rates["matrix product, FLOP"],
        WHOLE: 10_000 * 16 * 1000 * config.leapfrog_steps / rates["annealing"] / 3600,
    }


def page(records: list[Record]) -> str:
    """Return the results as Markdown."""
    rows = [
        [
            r["device"],
            f"{r['images']} × {r['chains']}",
            f"{r['rates']['annealing']:,.0f}",
            f"{r['rates']['decoder, likelihood, backward']:,.0f}",
            f"{r['share of bare']:.2f}",
            f"{r['rates']['network alone, backward']:,.0f}",
            f"{r['share of peak']:.2f}",
            f"{r[WHOLE]:.2f} h",
        ]
        for r in records
    ]
    columns = (
        *("device", "images × chains", "annealing", "bare loop", "annealing / bare", "network alone"),
        *("fraction of peak FLOP/s", WHOLE.removeprefix("hours for ")),
    )
    lines = page_head("Throughput of annealed importance sampling", __doc__)
    return "\n".join([*lines, *markdown_table(columns, rows), ""])


def main() -> None:
    parser = make_parser(__doc__, rounds=7, seconds=1.0)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--chains", type=int, default=16)
    parser.add_argument("--temperatures", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    write_results("ais", [measure(args)], ("device", "threads", "images", "chains"), page)


if __name__ == "__main__":
    main()
