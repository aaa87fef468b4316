"""Steps of a training that are taken only to be timed, in one of the ways that training has to run them."""

from __future__ import annotations

import torch

from advae.config import Config
from advae.data import BatchLoader, Preprocessing, Split
from advae.data.preprocessing import make_preprocessing
from advae.methods import METHODS
from advae.model import build_model, seeded
from advae.random import mix_seeds
from advae.training.backends.compiled import Compiled
from advae.training.backends.cuda_graph import WARM_UP, Captured
from advae.training.backends.select import CAPTURE_PAYS_AFTER, WAYS
from advae.training.distributed import make_fabric
from advae.training.environment import find_precision
from advae.training.memory import freed_memory_kept
from advae.training.products import fast_products
from advae.training.setup import Setup
from advae.training.step import Step
from advae.training.trainer import reseed

IMAGES = 2048  # of noise

SHAPES = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "imagenet": (3, 64, 64),
    "celeba": (3, 64, 64),
}
"""What recipes name as their source, and the shape of its images as they are observed."""


class Trial:
    """The next steps of a training.

    Args:
        step: what one step does.
        batches: where its batches come from.
        preprocessing: how they are observed.
        way: "eager", "compile" or "cuda-graph"; compiled, it is so before the first step.
        seed: of the run.

    Raises:
        CannotCompile: the step cannot be compiled.
    """

    def __init__(
        self, step: Step, batches: BatchLoader, preprocessing: Preprocessing, way: str = "eager", seed: int = 0
    ) -> None:
        assert way in WAYS
        self.step, self.preprocessing, self.seed, self.done = step, preprocessing, seed, 0
        self.device, self._stream = step.fabric.device, batches.stream(0)
        self._captured = Captured(step, batches, preprocessing.apply, _silent) if way == "cuda-graph" else None
        if way == "compile":
            compiled = Compiled(step.fabric, step.model, step.method, step.players)
            for names in step.moves:
                compiled.prepare(preprocessing.apply(batches(0)), names)
            step.take = compiled

    @property
    def way(self) -> str:
        """How steps are run; a captured one is eager until the capture has been made."""
        if self._captured is not None and self._captured.graph is not None:
            return "cuda-graph"
        return "compile" if isinstance(self.step.take, Compiled) else "eager"

    def run(self, steps: int) -> None:
        """So many steps, each with its own seed."""
        with freed_memory_kept(), fast_products(self.step.fabric):
            for _ in range(steps):
                reseed(mix_seeds(self.seed, self.done, 0), self.device)
                if self._captured is not None:
                    self._captured(self.done, self._stream)
                else:
                    self.step(self.done, lambda i: self.preprocessing.apply(next(self._stream)))
                self.done += 1

    def settle(self) -> None:
        """The first steps, in which what is needed once is made."""
        self.run(WARM_UP + 2 if self._captured is not None else 1)


def of_setup(setup: Setup) -> Trial:
    """The first steps of what a configuration amounts to; on a GPU captured, as in a run of some length."""
    config, device = setup.config, setup.fabric.device
    wanted, long = config.train.backend, config.train.steps >= CAPTURE_PAYS_AFTER
    captured = device.type == "cuda" and (wanted == "cuda-graph" or (wanted == "auto" and long))
    batches = BatchLoader(
        setup.data.train, config.train.batch_size, seed=config.seed, device=device, workers=config.data.workers
    )
    step = Step(setup.fabric, setup.model.train(), setup.method, config.train)
    return Trial(step, batches, setup.data.preprocessing, "cuda-graph" if captured else "eager", config.seed)


def on_noise(config: Config, shape: tuple[int, ...], device: torch.device, way: str) -> Trial:
    """The steps of a configuration on noise of its data's shape: no data set is read."""
    raw = (256 * torch.rand(IMAGES, *shape, generator=torch.Generator().manual_seed(0))).to(torch.uint8)
    split, method = Split("train", raw.to(device)), METHODS.build(config.method)
    fabric = make_fabric(device, find_precision(config.train.precision, device))
    with seeded(config.seed, device):
        model = build_model(config.model, shape, method.critics)
        model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        step = Step(fabric, model.train(), method, config.train)
        batches = BatchLoader(split, config.train.batch_size, seed=config.seed, device=device)
        return Trial(step, batches, make_preprocessing(config.data.preprocessing, split), way, config.seed)


def _silent(line: str) -> None:
    """Nobody watches."""
