"""Training by one of several processes, for test_distributed.py.

python distributed_worker.py FOLDER              writes FOLDER/CASE-1.safetensors of every case
torchrun … distributed_worker.py FOLDER          writes FOLDER/CASE-2.safetensors, then two runs, of which the second
                                                 loses a process
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
    "conv": {"model.encoder": CONV},
}


def tree(source: str, case: str, world: int) -> dict[str, Any]:
    """A recipe whose only noise is normal: :func:`shared_noise` makes it independent of the number of processes."""
    plain = {
        "data.preprocessing": "gray",
        "model.decoder": {"name": "mlp", "hidden": [6]},
        "model.critic": {"name": "concat", "hidden": [6]},
        "train.batch_size": BATCH // world,
        "train.steps": STEPS,
    }
    return tiny.changed(tiny.tree(source), plain | CASES[case])


def shared_noise(rank: int, world: int) -> None:
    """Let ``torch.randn`` draw for the batches of all processes and return the part of this one."""
    randn = torch.randn

    def shared_randn(*shape: Any, **options: Any) -> torch.Tensor:
        first, *rest = shape[0] if isinstance(shape[0], tuple | list | torch.Size) else shape
        return randn(first * world, *rest, **options)[rank * first :][:first]

    torch.randn = shared_randn  # type: ignore[assignment]


def case(source: str, folder: Path, name: str, world: int) -> None:
    """Run some steps, seeded alike in all processes, and save weights, buffers and metrics."""
    config = resolve(tree(source, name, world))
    setup = Setup(config)
    trainer = Trainer(setup, None)  # type: ignore[arg-type]
    trainer.model.train()
    batches = trainer.loader.stream(0)
    for step in range(STEPS):
        torch.manual_seed(step)
        trainer.step(step, lambda i: trainer.data.preprocessing.apply(next(batches)))
    metrics = {f"metric/{k}": torch.tensor(v) for k, v in trainer.step.metrics.pop_means().items()}
    state = {k: v.detach().contiguous() for k, v in trainer.model.state_dict().items()}
    if setup.fabric.is_global_zero:
        save_file(state | metrics, folder / f"{name}-{world}.safetensors")


def runs(source: str, folder: Path, rank: int) -> None:
    """Complete one run; then start one whose second process dies after seven steps."""
    changes = {"train.checkpoint_every": 3, "train.batch_size": 4, "model.encoder": {**CONV, "norm": "layer"}}
    base = tiny.changed(tiny.tree(source), changes)
    advae.train(base, out=folder / "whole", quiet=True, report=False)
    run_step = Trainer._run_step

    def die_at_seven(self: Trainer, step: int, stream: Any) -> None:
        if step == 7 and rank == 1:
            os._exit(1)
        run_step(self, step, stream)

    Trainer._run_step = die_at_seven  # type: ignore[method-assign]
    advae.train(base, out=folder / "lost", quiet=True, report=False)


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
