"""A recipe's training in one way to run a step, ready to be timed: on noise of its data's shape, without validation."""

from __future__ import annotations

import torch

from advae import resolve
from advae.data import Batches, mix
from advae.data.base import Split
from advae.data.protocol import make_protocol
from advae.methods import METHODS
from advae.model import build_model, seeded
from advae.training.captured import Captured
from advae.training.compiled import Compiled
from advae.training.environment import find_precision
from advae.training.loop import reseed
from advae.training.memory import freed_memory_kept
from advae.training.processes import make_fabric
from advae.training.products import fast_products
from advae.training.step import Step

SHAPES = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "imagenet": (3, 64, 64),
    "celeba": (3, 64, 64),
}
IMAGES = 2048


class Way:
    """A recipe's training in one way.

    Args:
        recipe: its name.
        way: "eager", "compile" or "graph".
        precision: "fp32", "bf16" or "auto".
        device: where.
        batch: instead of the recipe's.

    Raises:
        CannotCompile: the step cannot be compiled.
    """

    def __init__(
        self, recipe: str, way: str, precision: str, device: torch.device, batch: int | None = None
    ) -> None:
        config = resolve(recipe, {} if batch is None else {"train.batch": batch})
        shape, method = SHAPES[config.data.source], METHODS.build(config.method)
        raw = (256 * torch.rand(IMAGES, *shape, generator=torch.Generator().manual_seed(0))).to(torch.uint8)
        split = Split("train", raw.to(device))
        self.config, self.shape, self.device, self.done = config, shape, device, 0
        self.precision = find_precision(precision, device)
        self.protocol = make_protocol(config.data.protocol, split)
        with seeded(0, device):
            model = build_model(config.model, shape, method.critics).to(
                device, memory_format=torch.channels_last
            )
        self.model = model.train()
        self.step = Step(make_fabric(device, self.precision), model, method, config.train)
        batches = Batches(split, config.train.batch, seed=0, device=device)
        self.stream = batches.stream(0)
        self.captured = Captured(self.step, batches, self.protocol.observe, print) if way == "graph" else None
        if way == "compile":
            self.step.take = Compiled(self.step.fabric, model, method, self.step.players)
            for names in self.step.moves:
                self.step.take.prepare(self.protocol.observe(batches(0)), names)

    @property
    def way(self) -> str:
        """How steps are run: that of the capture only once it has been made."""
        if self.captured is not None and self.captured.graph is not None:
            return "graph"
        return "compile" if isinstance(self.step.take, Compiled) else "eager"

    def run(self, steps: int) -> None:
        """So many steps, each with its own seed."""
        with freed_memory_kept(), fast_products():
            for _ in range(steps):
                reseed(mix(0, self.done, 0), self.device)
                if self.captured is not None:
                    self.captured(self.done, self.stream)
                else:
                    self.step(self.done, lambda i: self.protocol.observe(next(self.stream)))
                self.done += 1
