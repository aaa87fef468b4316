"""What every shipped recipe amounts to, a line each, kept beside this file in recipes.txt.

A change of a recipe, of what it is based on, of a network or of a default shows there as a changed line. When it
was meant, or to record a new recipe:

    python tests/training/recipe_table.py
"""

from __future__ import annotations

from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn

import advae
from advae.config import Config, component_slots, resolve
from advae.methods import METHODS
from advae.model import LatentModel, build_model
from advae.networks.base import CriticInputs
from advae.registry import Registry
from advae.training.benchmark import DATA_SHAPES

TABLE = Path(__file__).with_name("recipes.txt")


@cache
def built(name: str) -> LatentModel:
    """The model of a recipe, at its full size, with one of its critics; without memory for weights, where possible."""
    config = resolve(name)
    searches = config.model["posterior"]["name"] == "iaf"  # for equal rows of its masks, which need values
    with torch.device("cpu" if searches else "meta"):
        return build_model(config.model, DATA_SHAPES[config.data.source], dict(list(roles(config).items())[:1]))


def roles(config: Config) -> dict[str, CriticInputs]:
    """The critics of a recipe, which all have the same options, and what each sees."""
    return METHODS.build(config.method).critics


def line(name: str) -> str:
    """A recipe in a line: what it is made of, with numbers of weights, and how it is trained."""
    config = resolve(name)
    model, train = built(name), config.train
    own = {key: stated(registry, config_at(config, key)) for key, registry, _ in component_slots()}
    parts = [
        name,
        own["method"],
        f"{config.data.source} {config.data.preprocessing}",
        f"d = {config.model['latent_dim']}",
        f"{own['model.encoder']} {weights(model.encoder):,} {own['model.posterior']}",
        f"{own['model.decoder']} {weights(model.decoder):,} {own['model.likelihood']}",
        *[f"{len(roles(config))} {own['model.critic']} {weights(c):,}" for c in model.critics.values()],
        f"{train.steps} × {train.batch_size}, {train.precision}, {train.lr_schedule}, rate {train.lr:g},"
        f" β {train.beta1:g} {train.beta2:g}",
        *[f"critics' {train.critic_lr:g}, {train.critic_beta1:g}" for _ in model.critics],
    ]
    return " | ".join(parts)


def config_at(config: Config, key: str) -> dict[str, Any]:
    """The component of a slot: its name and options."""
    return config.method if key == "method" else config.model[key.removeprefix("model.")]


def stated(registry: Registry[Any], spec: dict[str, Any]) -> str:
    """A component's name and those of its options that are not the default."""
    defaults = {key: p.default for key, p in signature(registry.find(spec["name"])).parameters.items()}
    other = [f"{k} {v}" for k, v in spec.items() if k != "name" and plain(v) != plain(defaults[k])]
    return f"{spec['name']} ({', '.join(other)})" if other else spec["name"]


def plain(value: Any) -> Any:
    """The value with lists for tuples."""
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def size(name: str) -> int:
    """How many weights a recipe has, of one critic."""
    return weights(built(name))


def weights(network: nn.Module) -> int:
    """How many weights it has."""
    return sum(p.numel() for p in network.parameters())


if __name__ == "__main__":
    TABLE.write_text("".join(line(name) + "\n" for name in advae.recipes()))
    print(TABLE)
