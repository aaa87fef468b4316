"""Training images a second: advae against pythae, loops written by hand, and the machine's peak.

    python benchmarks/training.py                         # every case, on the CPU, one thread
    python benchmarks/training.py vae avb --device cuda
    python benchmarks/training.py vae --batch 1024

MNIST-shaped noise; within a case the same networks, batch and arithmetic. advae runs its whole step, as in training:
batches drawn and binarised, all players, norms, checks, metrics, the average of the weights; eagerly and compiled (on
a GPU captured too). The loops by hand have none of the checks, metrics and averages. All take turns in one process;
medians are written to results/speed-training.json and, from it, results/speed-training.md.
"""

from __future__ import annotations

from typing import Any

import peers
import torch
from turns import Contender, machine, matrix_product, parser, rates, step_flop, table, where, write

from advae import resolve
from advae.data import Batches, mix
from advae.data.base import Split
from advae.data.protocol import make_protocol
from advae.methods import METHODS
from advae.model import build_model, seeded
from advae.training.captured import Captured
from advae.training.compiled import CannotCompile, Compiled
from advae.training.loop import reseed
from advae.training.memory import freed_memory_kept
from advae.training.processes import make_fabric
from advae.training.step import Step

CASES: dict[str, tuple[str, str, str]] = {  # recipe, loop by hand, pythae's like
    "vae": ("vae-mnist-fc32", "vae", "vae"),
    "avb": ("avb-ac-mnist-fc32", "avb", ""),
    "iaf": ("vae-iaf-mnist-fc32", "", "iaf"),
    "planar": ("vae-planar-mnist-fc32", "", ""),
    "auxiliary": ("vae-aux-mnist-fc32", "", ""),
    "ali": ("ali-digits", "", ""),
    "asvae": ("asvae-digits", "", ""),
    "bavae": ("bavae-digits", "", ""),
}
IMAGES = 4096


def advae_loops(recipe: str, images: torch.Tensor, batch: int, bf16: bool) -> dict[str, peers.Loop]:
    """advae's step on these images, in every way that runs here."""
    device = images.device
    config = resolve(recipe, {"train.batch": batch, "train.precision": "bf16" if bf16 else "fp32"})
    method, split = METHODS.build(config.method), Split("train", images)
    protocol = make_protocol("binarise-dynamic", split)
    fabric = make_fabric(device, config.train.precision)

    def made(way: str) -> peers.Loop | None:
        with seeded(0, device):
            model = build_model(config.model, tuple(images.shape[1:]), method.critics).to(device).train()
        step, batches = (
            Step(fabric, model, method, config.train),
            Batches(split, batch, seed=0, device=device),
        )
        if way == "compile":
            step.take = Compiled(fabric, model, method, step.players)
            try:
                for names in step.moves:
                    step.take.prepare(protocol.observe(batches(0)), names)
            except CannotCompile as error:
                print(error)
                return None
        captured = Captured(step, batches, protocol.observe, print) if way == "graph" else None
        done, stream = [0], batches.stream(0)

        def loop(steps: int) -> None:
            with freed_memory_kept():
                for _ in range(steps):
                    reseed(mix(0, done[0], 0), device)
                    if captured is not None:
                        captured(done[0], stream)
                    else:
                        step(done[0], lambda i: protocol.observe(next(stream)))
                    done[0] += 1

        return loop

    ways = ["eager", "compile", *(["graph"] if device.type == "cuda" else [])]
    loops = {f"advae, {way}": made(way) for way in ways}
    return {name: loop for name, loop in loops.items() if loop is not None}


def measure(name: str, args: Any, bf16: bool) -> dict[str, Any]:
    """Rates of a case, in images a second."""
    recipe, by_hand, like = CASES[name]
    device = torch.device(args.device)
    torch.manual_seed(0)
    shape = (1, 8, 8) if recipe.endswith("digits") else peers.SHAPE
    images = (255 * (torch.rand(IMAGES, *shape) < 0.2)).to(torch.uint8).to(device)
    bare = {"vae": peers.bare_vae, "avb": peers.bare_avb}.get(by_hand)
    loops = advae_loops(recipe, images, args.batch, bf16)
    loops["loop by hand"] = (
        bare(images, args.batch, bf16) if bare else peers.plain_loop(recipe, images, args.batch, bf16)
    )
    contenders = {key: Contender(loop, args.batch) for key, loop in loops.items()}
    pythae = peers.pythae_loop(like, images[:2048], args.batch) if like and not bf16 else None
    if pythae is not None:
        contenders["pythae"] = Contender(pythae, pythae.images)  # type: ignore[attr-defined]
    dtype = torch.bfloat16 if bf16 else torch.float32
    contenders["matrix product"] = matrix_product(1024, device, dtype)
    found = rates(contenders, args.rounds, args.seconds, device)
    record = {"case": name, "recipe": recipe, "batch": args.batch, "precision": "bf16" if bf16 else "fp32"}
    record |= where(device) | {"images a second": found, "peak": found.pop("matrix product")}
    if name == "vae":
        model = build_model(resolve(recipe).model, shape)
        flop = step_flop([model], args.batch) / args.batch  # of an image
        first = next(m for m in model.encoder.modules() if isinstance(m, torch.nn.Linear))
        record["FLOP an image"] = flop - 2.0 * first.in_features * first.out_features  # none to the image
    return record


def page(records: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = ["# Speed of training", "", *(__doc__ or "").split("\n\n", 2)[2].strip().splitlines(), ""]
    lines += [
        "*Faster* is the faster of advae's ways, which `train.step: auto` takes in a long run. The share of peak is"
        " that of a product of 1024 × 1024 matrices in the same arithmetic, measured in the same turns. The loops by"
        " hand of vae and avb are written out in benchmarks/peers.py; the others are the README's, around the method's"
        " own losses. pythae computes in float32, from float32 images that are binarised once; its flow is as wide and"
        " as long, but is given no context of the image. Its adversarial autoencoder has no like here.",
    ]
    for device in sorted({machine({**r, "load": ""}) for r in records}):
        mine = [r for r in records if machine({**r, "load": ""}) == device]
        lines += ["", f"## {mine[0]['device']}", ""]
        loads = [r["load"] for r in mine]
        lines += [
            f"torch {mine[0]['torch']}; load of the machine {min(loads)} to {max(loads)}: other work ran beside.",
            "",
        ]
        lines += table(
            COLUMNS, [row(r) for r in sorted(mine, key=lambda r: (list(CASES).index(r["case"]), r["batch"]))]
        )
    return "\n".join([*lines, ""])


COLUMNS = (
    "case", "batch", "precision", "advae eager", "compiled", "captured", "by hand", "pythae",
    "faster / by hand", "faster / pythae", "share of peak",
)  # fmt: skip


def row(r: dict[str, Any]) -> list[str]:
    """A case's line."""
    found = r["images a second"]
    best = max(value for key, value in found.items() if key.startswith("advae"))
    columns = ["advae, eager", "advae, compile", "advae, graph", "loop by hand", "pythae"]
    share = f"{best * r['FLOP an image'] / r['peak']:.2f}" if "FLOP an image" in r else ""
    ratios = [f"{best / found[key]:.2f}" if key in found else "" for key in ("loop by hand", "pythae")]
    numbers = [f"{found[key]:,.0f}" if key in found else "" for key in columns]
    return [r["recipe"], str(r["batch"]), r["precision"], *numbers, *ratios, share]


def main() -> None:
    made = parser(__doc__, rounds=7, seconds=0.5)
    made.add_argument("cases", nargs="*", choices=[[], *CASES], help="all without a name")
    made.add_argument("--batch", type=int, default=128)
    made.add_argument("--precision", choices=("fp32", "bf16", "both"), default="both")
    args = made.parse_args()
    torch.set_num_threads(args.threads)
    for name in args.cases or CASES:
        for bf16 in (False, True):
            if args.precision in ("both", "bf16" if bf16 else "fp32"):
                keys = ("case", "device", "threads", "batch", "precision")
                write("training", measure(name, args, bf16), keys, page)


if __name__ == "__main__":
    main()
