"""A short check of speed: a recipe's step beside the matrix products that the machine makes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import nn

from advae.methods import METHODS
from advae.model import build_model, seeded
from advae.training.config import resolve
from advae.training.memory import freed_memory_kept
from advae.training.step import Step

SHAPE = (1, 28, 28)
SIDE = 1024  # of the matrices whose product is the peak
TURNS = 5


@dataclass(frozen=True)
class Speed:
    """What was found.

    Attributes:
        images: a second, in training.
        peak: FLOP a second of a product of square matrices, in float32.
        flop: of a step on one image, in the products of linear layers.
    """

    images: float
    peak: float
    flop: float

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
    config = resolve(recipe)
    method = METHODS.build(config.method)
    with seeded(0, device), freed_memory_kept():
        model = build_model(config.model, SHAPE, method.critics).to(device).train()
        devices = [device.index] if device.type == "cuda" else 1
        step = Step(Fabric(accelerator=device.type, devices=devices), model, method, config.train)
        x = (torch.rand(config.train.batch, *SHAPE, device=device) < 0.2).float()
        a, b, out = (torch.randn(SIDE, SIDE, device=device) for _ in range(3))
        turn = seconds / (2 * TURNS)
        steps, products = [], []
        for _ in range(TURNS):
            steps.append(rate(lambda: step(0, lambda i: x), device, turn))
            products.append(rate(lambda: torch.mm(a, b, out=out), device, turn))
    images = sorted(steps)[TURNS // 2] * config.train.batch
    return Speed(images, sorted(products)[TURNS // 2] * 2 * SIDE**3, products_of(model))


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
