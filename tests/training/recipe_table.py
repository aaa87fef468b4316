"""What every shipped recipe amounts to, a line each, kept beside this file in recipes.txt.

A change of a recipe, of what it is based on, of a network or of a default shows there as a changed line. When it
was meant, and when a recipe is new:

    python tests/training/recipe_table.py
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

import advae
from advae.methods import METHODS
from advae.model import LatentModel, build_model
from advae.training.config import Config, resolve

TABLE = Path(__file__).with_name("recipes.txt")

SHAPES = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "imagenet": (3, 64, 64),
    "celeba": (3, 64, 64),
}
"""What recipes name as their source, and the shape of its images as they are observed."""


@cache
def built(name: str) -> LatentModel:
    """The model of a recipe, at its full size, with one of its critics; without memory for weights, where possible."""
    config = resolve(name)
    searches = config.model["posterior"]["name"] == "iaf"  # for equal rows of its masks, which need values
    with torch.device("cpu" if searches else "meta"):
        return build_model(config.model, SHAPES[config.data.source], roles(config)[:1])


def roles(config: Config) -> tuple[str, ...]:
    """The critics of a recipe, which are all of one form."""
    return METHODS.build(config.method).critics


def line(name: str) -> str:
    """A recipe in a line: method, data, networks with their numbers of weights, heads, and how it is trained."""
    config = resolve(name)
    model, train, spec = built(name), config.train, config.model
    parts = [
        name,
        stated(config.method),
        f"{config.data.source} {config.data.protocol}",
        f"d = {spec['latent']}",
        f"{spec['encoder']['name']} {weights(model.encoder):,} {spec['posterior']['name']}",
        f"{spec['decoder']['name']} {weights(model.decoder):,} {spec['likelihood']['name']}",
        *[f"{len(roles(config))} {spec['critic']['name']} {weights(c):,}" for c in model.critics.values()],
        f"{train.steps} × {train.batch}, {train.schedule}, rate {train.rate:g}, β₁ {train.beta1:g}",
        *[f"critics' {train.critic_rate:g}, {train.critic_beta1:g}" for _ in model.critics],
    ]
    return " | ".join(parts)


def stated(spec: dict[str, Any]) -> str:
    """A method's name and those of its options that are not the default."""
    plain = METHODS.build({"name": spec["name"]}).spec()
    return " ".join([spec["name"], *[f"{key}={value}" for key, value in spec.items() if value != plain[key]]])


def size(name: str) -> int:
    """How many weights a recipe has, of one critic."""
    return weights(built(name))


def weights(network: nn.Module) -> int:
    """How many weights it has."""
    return sum(p.numel() for p in network.parameters())


if __name__ == "__main__":
    TABLE.write_text("".join(line(name) + "\n" for name in advae.recipes()))
    print(TABLE)
