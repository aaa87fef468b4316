"""Summary of every built-in recipe, one line each, stored in recipes.txt.

A change of a recipe, its bases, a network or a default changes a line there. After an intended change, or for a new
recipe:

    python tests/recipe_table.py
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
from advae.training.data_start import with_nominal_dim

TABLE = Path(__file__).with_name("recipes.txt")


@cache
def build(name: str) -> LatentModel:
    """A recipe's model at full size with one of its critics, on the meta device if possible."""
    config = resolve(name)
    searches = config.model["posterior"]["name"] == "iaf"  # its masks are compared by value
    with torch.device("cpu" if searches else "meta"):
        spec = with_nominal_dim(config.model)
        return build_model(spec, DATA_SHAPES[config.data.source], dict(list(roles(config).items())[:1]))


def roles(config: Config) -> dict[str, CriticInputs]:
    """The critics of a recipe, which all have the same options, and what each sees."""
    return METHODS.build(config.method).critics


def line(name: str) -> str:
    """Summarize a recipe: components with numbers of weights, and training options."""
    config = resolve(name)
    model, train = build(name), config.train
    components = {key: describe(registry, config_at(config, key)) for key, registry, _ in component_slots()}
    parts = [
        name,
        components["method"],
        f"{config.data.source} {config.data.preprocessing}",
        f"d = {config.model['latent_dim']}",
        f"{components['model.encoder']} {weights(model.encoder):,} {components['model.posterior']}",
        f"{components['model.decoder']} {weights(model.decoder):,} {components['model.likelihood']}",
        *[
            f"{len(roles(config))} {components['model.critic']} {weights(c):,}"
            for c in model.critics.values()
        ],
        f"{train.steps} × {train.batch_size}, {train.precision}, {train.lr_schedule}, lr {train.lr:g},"
        f" β {train.beta1:g} {train.beta2:g}",
        *[f"critic {train.critic_lr:g}, {train.critic_beta1:g}" for _ in model.critics],
    ]
    return " | ".join(parts)


def config_at(config: Config, key: str) -> dict[str, Any]:
    """Name and options of the component in a slot."""
    return config.method if key == "method" else config.model[key.removeprefix("model.")]


def describe(registry: Registry[Any], spec: dict[str, Any]) -> str:
    """A component's name, and its options that differ from the defaults."""
    defaults = {key: p.default for key, p in signature(registry.find(spec["name"])).parameters.items()}
    other = [f"{k} {v}" for k, v in spec.items() if k != "name" and plain(v) != plain(defaults[k])]
    return f"{spec['name']} ({', '.join(other)})" if other else spec["name"]


def plain(value: Any) -> Any:
    """The value with lists instead of tuples."""
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def size(name: str) -> int:
    """Number of weights of a recipe, with one critic."""
    return weights(build(name))


def weights(network: nn.Module) -> int:
    """Number of weights."""
    return sum(p.numel() for p in network.parameters())


if __name__ == "__main__":
    TABLE.write_text("".join(line(name) + "\n" for name in advae.recipes()))
    print(TABLE)
