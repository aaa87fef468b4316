"""What one of several processes does for test_processes.py; run by torchrun, or in one process without it.

python two_processes.py FOLDER     writes FOLDER/CASE-WORLD.safetensors of every case
torchrun … two_processes.py FOLDER     the same, then two runs in FOLDER, of which the second loses a process
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import advae
from advae.config import resolve
from advae.training.setup import Setup
from advae.training.trainer import Trainer
from training import tiny

STEPS, BATCH = 4, 12
CONV = {"name": "conv", "channels": [3], "hidden": [6], "dropout": 0.0}
CASES: dict[str, dict[str, Any]] = {
    "vae": {"model.encoder": {"name": "mlp", "hidden": [6]}},
    "avb": {
        "method": {"name": "avb", "contrast": "diagonal", "critic_steps": 2},
        "model.encoder": {"name": "mlp", "hidden": [6]},
    },
    "batch-norm": {"model.encoder": {**CONV, "norm": "batch"}},
}


def tree(source: str, case: str, world: int) -> dict[str, Any]:
    """A recipe without dropout, whose only noise is normal and the same for all processes together."""
    plain = {
        "data.preprocessing": "gray",
        "model.decoder": {"name": "mlp", "hidden": [6]},
        "model.critic": {"name": "concat", "hidden": [6]},
        "train.batch_size": BATCH // world,
        "train.steps": STEPS,
    }
    return tiny.changed(tiny.tree(source), plain | CASES[case])


def shared_noise(rank: int, world: int) -> None:
    """Let ``torch.randn`` draw for the batches of all processes, and keep this one's: as one process would draw."""
    randn = torch.randn

    def drawn(*shape: Any, **options: Any) -> torch.Tensor:
        first, *rest = shape[0] if isinstance(shape[0], tuple | list | torch.Size) else shape
        return randn(first * world, *rest, **options)[rank * first :][:first]

    torch.randn = drawn  # type: ignore[assignment]


def case(source: str, folder: Path, name: str, world: int) -> None:
    """Some steps with a seed for each that does not depend on the process; keep weights, buffers and metrics."""
    config = resolve(tree(source, name, world))
    setup = Setup(config)
    fit = Trainer(setup, None, False)  # type: ignore[arg-type]
    fit.model.train()
    stream = fit.batches.stream(0)
    for step in range(STEPS):
        torch.manual_seed(step)
        fit.step(step, lambda i: fit.data.preprocessing.apply(next(stream)))
    metrics = {f"metric/{k}": torch.tensor(v) for k, v in fit.step.read_metrics().items()}
    state = {k: v.detach().contiguous() for k, v in fit.model.state_dict().items()}
    if setup.fabric.is_global_zero:
        save_file(state | metrics, folder / f"{name}-{world}.safetensors")


def runs(source: str, folder: Path, rank: int) -> None:
    """A run to its end; then one whose second process dies after seven steps."""
    base = tiny.changed(tiny.tree(source), {"train.checkpoint_every": 3, "train.batch_size": 4})
    advae.train(base, out=folder / "whole", quiet=True)
    one = Trainer._one

    def dying(self: Trainer, step: int, stream: Any) -> None:
        if step == 7 and rank == 1:
            os._exit(1)
        one(self, step, stream)

    Trainer._one = dying  # type: ignore[method-assign]
    advae.train(base, out=folder / "lost", quiet=True)


def main() -> None:
    folder = Path(sys.argv[1])
    source = str(folder / "images.npy")
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    randn = torch.randn
    shared_noise(rank, world)
    for name in CASES:
        case(source, folder, name, world)
    torch.randn = randn
    if world > 1:
        runs(source, folder, rank)


if __name__ == "__main__":
    main()
