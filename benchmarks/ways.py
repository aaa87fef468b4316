"""The shapes of the recipes' data, and a recipe's steps on noise of that shape, ready to be timed."""

from __future__ import annotations

import torch

from advae import resolve
from advae.training.trial import Trial, on_noise

SHAPES = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "imagenet": (3, 64, 64),
    "celeba": (3, 64, 64),
}


def trial(recipe: str, way: str, precision: str, device: torch.device, batch: int | None = None) -> Trial:
    """A recipe's steps.

    Args:
        recipe: its name.
        way: "eager", "compile" or "graph".
        precision: "fp32", "bf16" or "auto".
        device: where.
        batch: instead of the recipe's.

    Raises:
        CannotCompile: the step cannot be compiled.
    """
    own = {"train.precision": precision} | ({} if batch is None else {"train.batch": batch})
    config = resolve(recipe, own)
    return on_noise(config, SHAPES[config.data.source], device, way)
