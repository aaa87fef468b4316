"""Training images a second: advae against pythae, loops written by hand, and the machine's peak.

    python benchmarks/training.py                         # every case but the large convolutions, on the CPU
    python benchmarks/training.py vae avb --device cuda
    python benchmarks/training.py vae --batch 1024

MNIST-shaped noise; within a case the same networks, batch and arithmetic. advae runs its whole step, as in training:
batches drawn and binarized, all players, norms, checks, metrics, the average of the weights; eagerly and compiled (on
a GPU captured too). The loops by hand have none of the checks, metrics and averages. All take turns in one process;
medians are written to results/speed-training.json and, from it, results/speed-training.md.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import peers
import torch
from advae.training.products import fast_products
from turns import Contender, machine, matrix_product, opening, parser, rates, step_flop, table, where, write
from ways import trial

from advae.inductor import CompilationError
from advae.training.backends.select import WAYS
from advae.training.benchmark import Trial

CASES: dict[str, tuple[str, str, str]] = {  # recipe, loop by hand, pythae's like
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
IMAGES = 4096


def advae_loops(recipe: str, args: Any, precision: str, device: torch.device) -> dict[str, Trial]:
    """advae's step in every way that runs here."""
    found = {}
    for way in args.ways or ("eager", "compile", *(["cuda-graph"] if device.type == "cuda" else [])):
        try:
            found[f"advae, {way}"] = trial(recipe, way, precision, device, args.batch)
        except CompilationError as error:
            print(error)
    return found


def measure(name: str, args: Any, bf16: bool) -> dict[str, Any]:
    """Rates of a case, in images a second."""
    recipe, by_hand, like = CASES[name]
    device, precision = torch.device(args.device), "bf16" if bf16 else "fp32"
    torch.manual_seed(0)
    ways = advae_loops(recipe, args, precision, device)
    first = next(iter(ways.values()))
    batch, shape = first.step.options.batch_size, first.step.model.x_shape
    images = (255 * (torch.rand(IMAGES, *shape) < 0.2)).to(torch.uint8).to(device)
    loops: dict[str, peers.Loop] = {key: way.run for key, way in ways.items()}
    bare = {"vae": peers.bare_vae, "avb": peers.bare_avb}.get(by_hand)
    loops["loop by hand"] = (
        bare(images, batch, bf16) if bare else peers.plain_loop(recipe, first, images, bf16)
    )
    if by_hand == "vae" and device.type == "cuda":
        loops["captured by hand"] = peers.captured_vae(images, batch, bf16)
    contenders = {key: Contender(loop, batch * first.step.batches) for key, loop in loops.items()}
    pythae = peers.pythae_loop(like, images[:2048], batch) if like and not bf16 else None
    if pythae is not None:
        contenders["pythae"] = Contender(pythae, pythae.images)  # type: ignore[attr-defined]
    dtype = torch.bfloat16 if bf16 else torch.float32
    # A product as large as keeps the device busy is the peak; one of 1024 × 1024 is over on a GPU before it is.
    contenders["matrix product"] = matrix_product(1024 if device.type == "cpu" else 8192, device, dtype)
    # TF32 is for all alike. Which library multiplies on a CPU is advae's doing; others have torch's own.
    with fast_products() if device.type == "cuda" else nullcontext():
        found = rates(contenders, args.rounds, args.seconds, device)
    record = {"case": name, "recipe": recipe, "batch": batch, "precision": precision}
    record |= where(device) | {"images a second": found, "peak": found.pop("matrix product")}
    if name == "vae":
        flop = step_flop([first.step.model], batch) / batch  # of an image
        layer = next(m for m in first.step.model.encoder.modules() if isinstance(m, torch.nn.Linear))
        record["FLOP an image"] = flop - 2.0 * layer.in_features * layer.out_features  # none to the image
    return record


def page(records: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = opening("Speed of training", __doc__)
    lines += [
        "*Faster* is the faster of advae's ways, which `train.backend: auto` takes in a long run. The share of peak is"
        " that of a product of square matrices (1024, on a GPU 8192) in the same arithmetic, measured in the same"
        " turns. The loops by hand of vae and avb are written out in benchmarks/peers.py; the others are the README's,"
        " around the method's own losses. pythae computes in float32, from float32 images that are binarized once; its"
        " flow is as wide and as long, but is given no context of the image. Its adversarial autoencoder has no like"
        " here.",
    ]
    for device in sorted({machine({**r, "load": ""}) for r in records}):
        mine = [r for r in records if machine({**r, "load": ""}) == device]
        lines += ["", f"## {mine[0]['device']}", ""]
        loads = [r["load"] for r in mine]
        lines += [
            f"torch {mine[0]['torch']}; load of the machine {min(loads)} to {max(loads)} (1 would be this benchmark"
            " alone).",
            "",
        ]
        lines += table(
            COLUMNS, [row(r) for r in sorted(mine, key=lambda r: (list(CASES).index(r["case"]), r["batch"]))]
        )
    return "\n".join([*lines, ""])


COLUMNS = (
    "case", "batch", "precision", "advae eager", "compiled", "captured", "by hand", "captured by hand", "pythae",
    "faster / by hand", "faster / pythae", "share of peak",
)  # fmt: skip


def row(r: dict[str, Any]) -> list[str]:
    """A case's line."""
    found = r["images a second"]
    best = max(value for key, value in found.items() if key.startswith("advae"))
    columns = ["advae, eager", "advae, compile", "advae, graph", "loop by hand", "captured by hand", "pythae"]
    share = f"{best * r['FLOP an image'] / r['peak']:.2f}" if "FLOP an image" in r else ""
    ratios = [f"{best / found[key]:.2f}" if key in found else "" for key in ("loop by hand", "pythae")]
    numbers = [f"{found[key]:,.0f}" if key in found else "" for key in columns]
    return [r["recipe"], str(r["batch"]), r["precision"], *numbers, *ratios, share]


def main() -> None:
    made = parser(__doc__, rounds=7, seconds=0.5)
    made.add_argument("cases", nargs="*", choices=[[], *CASES], help="all but …-conv without a name")
    made.add_argument("--batch", type=int, help="instead of the recipe's")
    made.add_argument("--precision", choices=("fp32", "bf16", "both"), default="both")
    made.add_argument("--ways", nargs="*", choices=WAYS, help="of advae; all that run here without a name")
    args = made.parse_args()
    torch.set_num_threads(args.threads)
    for name in args.cases or [name for name in CASES if not name.endswith("conv")]:
        for bf16 in (False, True):
            if args.precision in ("both", "bf16" if bf16 else "fp32"):
                keys = ("case", "device", "threads", "batch", "precision")
                write("training", measure(name, args, bf16), keys, page)


if __name__ == "__main__":
    main()
