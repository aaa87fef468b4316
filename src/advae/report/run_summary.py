"""What was trained and how, in rows of a name and a text; from what a run and its model recorded."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from advae.errors import AdvaeError
from advae.formatting import describe_component, flatten, format_count, format_duration, join_items

if TYPE_CHECKING:
    from advae.model import LatentModel
    from advae.run import Run

Facts = list[tuple[str, str]]


@dataclass(frozen=True)
class Description:
    """A method in words: one line, the paper, its notes with the equations, and who moves what."""

    name: str
    summary: str = ""
    paper: str = ""
    notes: str = ""
    players: Mapping[str, tuple[str, ...]] | None = None


def describe_method(config: Mapping[str, Any]) -> Description:
    """The method of a run, from its class; a method that cannot be found has a name only."""
    from advae.methods import METHODS

    spec = config.get("method")
    name = str(spec.get("name", "")) if isinstance(spec, Mapping) else str(spec or "")
    try:
        method = METHODS.find(name)
    except AdvaeError:
        return Description(name)
    notes = inspect.cleandoc(sys.modules[method.__module__].__doc__ or "")
    return Description(
        name=name,
        summary=" ".join(inspect.cleandoc(method.__doc__ or "").split("\n\n")[0].split()),
        paper=getattr(method, "paper", ""),
        notes=notes,
        players=getattr(method, "players", None),
    )


def facts(run: Run, model: LatentModel, data: Mapping[str, Any]) -> Facts:
    """Rows of the table "what was trained and how"; a row whose matter is unknown is left out."""
    config, env = run.config, run.env
    rows = [
        ("recipe", str(config.get("recipe") or "")),
        *method_facts(config),
        *network_facts(config, model),
        *data_facts(data),
        ("training", training_text(run, config, model)),
        ("device", device_text(env.get("device") or config.get("device"))),
        ("precision", str(env.get("precision") or "")),
        ("seed", "" if config.get("seed") is None else str(config["seed"])),
        ("command", run.command),
    ]
    return [(name, text) for name, text in rows if text]


def method_facts(config: Mapping[str, Any]) -> Facts:
    method, spec = describe_method(config), config.get("method")
    paper = f" ({method.paper})" if method.paper else ""
    players = [f"{player} moves {', '.join(nets)}" for player, nets in (method.players or {}).items()]
    options = {k: v for k, v in spec.items() if k != "name"} if isinstance(spec, Mapping) else {}
    return [
        ("method", f"{method.name}{paper}{': ' if method.summary else ''}{method.summary}"),
        ("players", "; ".join(players)),
        ("method options", join_items(flatten(options))),
    ]


def network_facts(config: Mapping[str, Any], model: LatentModel) -> Facts:
    """Encoder, decoder, critics: what they are and how many parameters they have."""
    spec = config.get("model")
    spec = spec if isinstance(spec, Mapping) else {}
    critics: Mapping[str, nn.Module] = getattr(model, "critics", None) or {}
    rows = [("latent", f"d = {model.latent}, prior N(0, I)" if model.latent else "none")]
    for part, head in (("encoder", "posterior"), ("decoder", "likelihood")):
        made = [describe_component(spec[key]) for key in (part, head) if spec.get(key)]
        if made[:1] == ["none"]:
            rows.append((part, "none"))
            continue
        rows.append((part, "; ".join([" → ".join(made)] * bool(made) + [size_text(getattr(model, part))])))
    for role, critic in critics.items():
        label = role if role.startswith("critic") else f"critic {role}"
        made = [describe_component(spec["critic"])] if spec.get("critic") else []
        rows.append((label, "; ".join([*made, size_text(critic)])))
    return rows


def kind_of_model(config: Mapping[str, Any]) -> str:
    """
    >>> kind_of_model({"model": {"latent": 8, "encoder": {"name": "none"}}})
    'A latent-variable model without an encoder,'
    """
    spec = config.get("model")
    spec = spec if isinstance(spec, Mapping) else {}
    if spec.get("latent") == 0:
        return "A model of observations, without codes,"
    encoder = spec.get("encoder")
    without = isinstance(encoder, Mapping) and encoder.get("name") == "none"
    return "A latent-variable model" + " without an encoder," * without


def size_text(module: object) -> str:
    """How many parameters a module has; an encoder or decoder that is no module has none of its own."""
    parameters = module.parameters() if isinstance(module, nn.Module) else ()
    return f"{format_count(sum(p.numel() for p in parameters))} parameters"


def data_facts(data: Mapping[str, Any]) -> Facts:
    sizes = data.get("sizes")
    counts = [f"{format_count(n)} {split}" for split, n in sizes.items()] if isinstance(sizes, Mapping) else []
    shape = " × ".join(str(n) for n in data.get("shape") or ())
    classes = f"{data['classes']} classes" if data.get("classes") else ""
    checksum = f"checksum {data['checksum']}" if data.get("checksum") else ""
    parts = [str(data.get("name") or ""), shape, ", ".join(counts), classes, checksum]
    return [
        ("data", "; ".join(part for part in parts if part)),
        ("observed as", protocol_text(data)),
    ]


def protocol_text(data: Mapping[str, Any]) -> str:
    """The observation preprocessing: its name, and its settings in brackets."""
    preprocessing = data.get("preprocessing")
    if isinstance(preprocessing, Mapping):
        preprocessing = {key: value for key, value in preprocessing.items() if key not in ("support", "unit")}
    return describe_component(preprocessing) if preprocessing else ""


def training_text(run: Run, config: Mapping[str, Any], model: LatentModel) -> str:
    """How long, in steps, examples and time."""
    metrics = run.metrics()
    train = config.get("train")
    train = train if isinstance(train, Mapping) else {}
    steps = max((m["step"] for m in metrics if m.get("step")), default=model.info.get("step"))
    seconds = max((m["time"] for m in metrics if m.get("time")), default=None)
    batch = next((train[key] for key in ("batch_size", "batch") if train.get(key)), None)
    parts = [f"{format_count(steps)} steps" if steps else "", f"of {format_count(batch)}" if batch else ""]
    text = " ".join(part for part in parts if part)
    return f"{text}, {format_duration(seconds)}" if seconds and text else text


def device_text(device: object) -> str:
    return join_items(flatten(device)) if isinstance(device, Mapping) else str(device or "")


def environment(env: Mapping[str, Any]) -> Facts:
    """Versions, device and what else was recorded, without the data, which have rows of their own."""
    return list(flatten({key: value for key, value in env.items() if key != "data"}).items())
