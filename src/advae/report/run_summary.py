"""Summary of a run: method, networks, data, training and environment, as rows of names and texts."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from advae.errors import AdvaeError
from advae.formatting import describe_component, format_count, format_duration, format_settings, join_items

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
    return MethodDescription(
        name=name,
        summary=" ".join(inspect.cleandoc(method.__doc__ or "").split("\n\n")[0].split()),
        paper=getattr(method, "paper", ""),
        notes=inspect.cleandoc(sys.modules[method.__module__].__doc__ or ""),
        players=getattr(method, "players", None),
    )


def run_summary(run: Run, model: LatentModel, data: Mapping[str, Any]) -> Facts:
    """Return the rows of the table of model and training; unknown ones are left out."""
    config, env = run.config, run.env
    rows = [
        ("recipe", str(config.get("recipe") or "")),
        *method_rows(config),
        *network_rows(config, model),
        *data_rows(data),
        ("training", describe_training(run, config, model)),
        ("device", describe_device(env.get("device") or config.get("device"))),
        ("precision", str(env.get("precision") or "")),
        ("seed", "" if config.get("seed") is None else str(config["seed"])),
        ("command", run.command),
    ]
    return [(name, text) for name, text in rows if text]


def method_rows(config: Mapping[str, Any]) -> Facts:
    """Return method, players and method options."""
    method, spec = describe_method(config), config.get("method")
    paper = f" ({method.paper})" if method.paper else ""
    players = [
        f"{player} updates {', '.join(networks)}" for player, networks in (method.players or {}).items()
    ]
    options = {k: v for k, v in spec.items() if k != "name"} if isinstance(spec, Mapping) else {}
    return [
        ("method", f"{method.name}{paper}{': ' if method.summary else ''}{method.summary}"),
        ("players", "; ".join(players)),
        ("method options", join_items(format_settings(options))),
    ]


def network_rows(config: Mapping[str, Any], model: LatentModel) -> Facts:
    """Return latent, encoder, decoder and critics with their numbers of parameters."""
    spec = _mapping(config.get("model"))
    critics: Mapping[str, nn.Module] = getattr(model, "critics", None) or {}
    rows = [("latent", f"d = {model.latent_dim}, prior N(0, I)" if model.latent_dim else "none")]
    for role, head in (("encoder", "posterior"), ("decoder", "likelihood")):
        components = [describe_component(spec[key]) for key in (role, head) if spec.get(key)]
        if components[:1] == [NO_NETWORK]:
            rows.append((role, "none"))
            continue
        size = describe_size(getattr(model, role))
        rows.append((role, "; ".join(filter(None, (" → ".join(components), size)))))
    for role, critic in critics.items():
        label = role if role.startswith("critic") else f"critic {role}"
        component = describe_component(spec["critic"]) if spec.get("critic") else ""
        rows.append((label, "; ".join(filter(None, (component, describe_size(critic))))))
    return rows


def data_rows(data: Mapping[str, Any]) -> Facts:
    """Return the data and their preprocessing."""
    counts = [f"{format_count(n)} {split}" for split, n in _mapping(data.get("sizes")).items()]
    parts = [
        str(data.get("name") or ""),
        " × ".join(str(n) for n in data.get("shape") or ()),
        ", ".join(counts),
        f"{data['classes']} classes" if data.get("classes") else "",
        f"checksum {data['checksum']}" if data.get("checksum") else "",
    ]
    return [("data", "; ".join(filter(None, parts))), ("preprocessing", describe_preprocessing(data))]


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
    preprocessing = data.get("preprocessing")
    if isinstance(preprocessing, Mapping):
        preprocessing = {key: value for key, value in preprocessing.items() if key not in ("support", "unit")}
    return describe_component(preprocessing) if preprocessing else ""


def describe_training(run: Run, config: Mapping[str, Any], model: LatentModel) -> str:
    """Return the length of the training: steps, batch size and time."""
    metrics = run.metrics()
    steps = max((m["step"] for m in metrics if m.get("step")), default=model.info.get("step"))
    seconds = max((m["time"] for m in metrics if m.get("time")), default=None)
    batch_size = _mapping(config.get("train")).get("batch_size")
    parts = [
        f"{format_count(steps)} steps" if steps else "",
        f"batch size {format_count(batch_size)}" if batch_size else "",
        format_duration(seconds) if seconds else "",
    ]
    return ", ".join(filter(None, parts))


def describe_device(device: object) -> str:
    """Return the device that was recorded at the start of training."""
    return join_items(format_settings(device)) if isinstance(device, Mapping) else str(device or "")


def environment(env: Mapping[str, Any]) -> Facts:
    """Return everything in ``env.json`` but the data, which have their own rows."""
    return list(format_settings({key: value for key, value in env.items() if key != "data"}).items())


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
