"""A recipe's steps on noise of its data's shape, ready to be timed."""

from __future__ import annotations

import torch

from advae import resolve
from advae.training.benchmark import SHAPES, Trial, on_noise


def trial(recipe: str, way: str, precision: str, device: torch.device, batch: int | None = None) -> Trial:
    """A recipe's steps.

    Args:
        recipe: its name.
        way: "eager", "compile" or "cuda-graph".
        precision: "fp32", "bf16" or "auto".
        device: where.
        batch: instead of the recipe's.

    Raises:
        CannotCompile: the step cannot be compiled.
    """
    own = {"train.precision": precision} | ({} if batch is None else {"train.batch_size": batch})
    config = resolve(recipe, own)
    return on_noise(config, SHAPES[config.data.source], device, way)
