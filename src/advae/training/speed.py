"""A short check of speed: a recipe's step beside the matrix products that the machine makes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from advae.config import resolve
from advae.model import seeded
from advae.training.benchmark import on_noise
from advae.training.products import fast_products

SHAPE = (1, 28, 28)
SIDE, SIDE_ON_GPU = 1024, 8192  # of the matrices whose product is the peak
AT_ONCE = 5  # steps between two looks at the clock
TURNS = 5


@dataclass(frozen=True)
class Speed:
    """What was found.

    Attributes:
        images: a second, in training.
        peak: FLOP a second of a product of square matrices, in float32.
        flop: of a step on one image, in the products of linear layers.
        way: how steps were run, "eager" or "cuda-graph".
    """

    images: float
    peak: float
    flop: float
    way: str

    @property
    def share(self) -> float:
        """Of the peak, that the step's products amount to."""
        return self.images * self.flop / self.peak


def check(recipe: str, device: torch.device, seconds: float) -> Speed:
    """Take steps on noise and products in turns, for about so many seconds in all.

    Args:
        recipe: a fully connected one, trained on MNIST-shaped images.
        device: where.
        seconds: in all.
    """
    way = "cuda-graph" if device.type == "cuda" else "eager"
    with seeded(0, device):
        trial = on_noise(resolve(recipe, {"train.precision": "fp32"}), SHAPE, device, way)
        trial.settle()
        side = SIDE if device.type == "cpu" else SIDE_ON_GPU
        a, b = (torch.randn(side, side, device=device) for _ in range(2))
        turn = seconds / (2 * TURNS)
        steps, products = [], []
        for _ in range(TURNS):
            steps.append(rate(lambda: trial.run(AT_ONCE), device, turn) * AT_ONCE)
            with fast_products():
                products.append(rate(lambda: torch.mm(a, b), device, turn))
    images = sorted(steps)[TURNS // 2] * trial.step.options.batch_size
    return Speed(images, sorted(products)[TURNS // 2] * 2 * side**3, products_of(trial.step.model), trial.way)


def rate(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """How often a second ``work`` is done."""
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        work()
        done += 1
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return done / (time.perf_counter() - began)


def products_of(model: nn.Module) -> float:
    """FLOP of a step on one image in linear layers: forward, to the weights and to the inputs, but not to the image."""
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    each = [2.0 * m.in_features * m.out_features for m in linear]
    return 3 * sum(each) - each[0]
