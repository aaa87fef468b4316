"""Summary of a run: method, networks, data, training and environment, as rows of names and texts."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from advae.errors import AdvaeError
from advae.formatting import describe_component, format_count, format_duration, format_settings, join_items
from advae.report.figures.curves import last_value

if TYPE_CHECKING:
    from advae.model import LatentModel
    from advae.run import Run

Facts = list[tuple[str, str]]
NO_NETWORK = "none"  # registered name of the encoder of a model without one


@dataclass(frozen=True)
class MethodDescription:
    """Summary line, paper, notes with the equations, and players of a method, from its class."""

    name: str
    summary: str = ""
    paper: str = ""
    notes: str = ""
    players: Mapping[str, tuple[str, ...]] | None = None


def describe_method(config: Mapping[str, Any]) -> MethodDescription:
    """Return the description of a run's method; only its name if the method is not registered."""
    from advae.methods import METHODS

    spec = config.get("method")
    name = str(spec.get("name", "")) if isinstance(spec, Mapping) else str(spec or "")
    try:
        method = METHODS.find(name)
    except AdvaeError:
        return MethodDescription(name)
    players = None
    with suppress(AdvaeError):  # an option is not valid
        players = METHODS.build(dict(spec) if isinstance(spec, Mapping) else {"name": name}).players
    return MethodDescription(
        name=name,
        summary=" ".join(inspect.cleandoc(method.__doc__ or "").split("\n\n")[0].split()),
        paper=getattr(method, "paper", ""),
        notes=inspect.cleandoc(sys.modules[method.__module__].__doc__ or ""),
        players=players,
    )


def run_summary(run: Run, model: LatentModel, data: Mapping[str, Any]) -> Facts:
    """Return the rows of the table of model and training; unknown ones are left out."""
    config, env = run.config, run.env
    method, options = describe_method(config), _mapping(config.get("method"))
    paper = f" ({method.paper})" if method.paper else ""
    players = [f"{player} updates {', '.join(nets)}" for player, nets in (method.players or {}).items()]
    counts = [f"{format_count(n)} {split}" for split, n in data["sizes"].items()]
    about_data = [
        data["name"],
        " × ".join(map(str, data["shape"])),
        ", ".join(counts),
        f"{data['classes']} classes" if data.get("classes") else "",
        f"checksum {data['checksum']}",
    ]
    device = env.get("device") or config.get("device")
    rows = [
        ("recipe", config.get("recipe")),
        ("method", f"{method.name}{paper}{': ' if method.summary else ''}{method.summary}"),
        ("players", "; ".join(players)),
        ("method options", join_items(format_settings({k: v for k, v in options.items() if k != "name"}))),
        *network_rows(_mapping(config.get("model")), model),
        ("data", "; ".join(filter(None, about_data))),
        ("preprocessing", describe_preprocessing(data)),
        ("remarks on the data", " ".join(data.get("remarks", []))),
        ("training", describe_training(run, model)),
        ("device", join_items(format_settings(device)) if isinstance(device, Mapping) else device),
        ("precision", env.get("precision")),
        ("seed", config.get("seed")),
        ("command", run.command),
    ]
    return [(name, str(text)) for name, text in rows if text not in ("", None)]


def network_rows(spec: Mapping[str, Any], model: LatentModel) -> Facts:
    """Return latent, encoder, decoder and critics with their numbers of parameters."""
    rows = [("latent", f"d = {model.latent_dim}, prior N(0, I)" if model.latent_dim else "none")]
    for role, head in (("encoder", "posterior"), ("decoder", "likelihood")):
        components = [describe_component(spec[key]) for key in (role, head) if spec.get(key)]
        if components[:1] == [NO_NETWORK]:
            rows.append((role, "none"))
        else:
            rows.append((role, "; ".join([" → ".join(components), describe_size(getattr(model, role))])))
    component = [describe_component(spec["critic"])] if spec.get("critic") else []
    for name, critic in model.critics.items():
        label = name if name.startswith("critic") else f"critic {name}"
        rows.append((label, "; ".join([*component, describe_size(critic)])))
    return rows


def describe_model(config: Mapping[str, Any]) -> str:
    """
    >>> describe_model({"model": {"latent_dim": 8, "encoder": {"name": "none"}}})
    'A latent-variable model without an encoder'
    """
    spec = _mapping(config.get("model"))
    if spec.get("latent_dim") == 0:
        return "A model of observations, without latents"
    has_encoder = _mapping(spec.get("encoder")).get("name") != NO_NETWORK
    return "A latent-variable model" + ("" if has_encoder else " without an encoder")


def describe_size(module: object) -> str:
    """Return the number of parameters of a module; 0 for an encoder or decoder that is not a module."""
    parameters = module.parameters() if isinstance(module, nn.Module) else ()
    return f"{format_count(sum(p.numel() for p in parameters))} parameters"


def describe_preprocessing(data: Mapping[str, Any]) -> str:
    """Return the name of the preprocessing, with its settings in parentheses."""
    settings = data["preprocessing"].items()
    return describe_component({key: value for key, value in settings if key not in ("support", "unit")})


def describe_training(run: Run, model: LatentModel) -> str:
    """Return the length of the training: steps, batch size and time."""
    metrics, batch_size = run.metrics(), _mapping(run.config.get("train")).get("batch_size")
    steps, seconds = last_value(metrics, "step") or model.info.get("step"), last_value(metrics, "time")
    parts = [
        f"{format_count(steps)} steps" if steps else "",
        f"batch size {format_count(batch_size)}" if batch_size else "",
        format_duration(seconds) if seconds else "",
    ]
    return ", ".join(filter(None, parts))


def environment(env: Mapping[str, Any]) -> Facts:
    """Return everything in ``env.json`` but the data, which have their own rows."""
    return list(format_settings({key: value for key, value in env.items() if key != "data"}).items())


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
