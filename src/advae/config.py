"""The configuration of a run: a recipe and overrides, resolved into one typed tree.

A recipe is YAML with the keys below. Components are chosen by ``name``, and their options are the arguments of
the class of that name, so a user's class gets typed options as ours do. ``base: other-recipe`` starts from
another recipe, ``base: [one, other]`` from several, each laid on those before it; a recipe then states only what
differs.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, set_parsing_settings

from advae.data.data_options import DataOptions
from advae.errors import ConfigError, nearest
from advae.registry import Registry
from advae.training.train_options import TrainOptions

SECTIONS = ("data", "model", "method", "train")
PLAIN = {"recipe": "", "description": "", "published": "", "seed": 0, "device": "auto"}

DEFAULTS: dict[str, Any] = {
    "model": {
        "latent": 8,
        "encoder": {"name": "mlp"},
        "posterior": {"name": "normal"},
        "decoder": {"name": "mlp"},
        "likelihood": {"name": "bernoulli"},
        "critic": {"name": "concat"},
    },
    "method": {"name": "vae"},
}


@dataclass(frozen=True)
class Config:
    """A resolved configuration; ``to_dict`` of it is what ``config.yaml`` holds.

    Attributes:
        recipe: name of the recipe it came from.
        description: what it trains, in a sentence.
        published: the published figure it stands beside, if any.
        seed: of everything random.
        device: "auto", "cpu", "cuda" or "cuda:N".
        data: where the data are and how they are observed.
        model: see :func:`advae.model.build_model`.
        method: name and options of the method.
        train: how to train.
    """

    recipe: str
    description: str
    published: str
    seed: int
    device: str
    data: DataOptions
    model: dict[str, Any]
    method: dict[str, Any]
    train: TrainOptions

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ConfigError("seed has an impossible value", given=self.seed, expected="0 to 2⁶³ − 1")
        if not re.fullmatch(r"(?!\.)[^/\\\x00-\x1f]*", self.recipe):
            raise ConfigError(
                "recipe is a name, of which the folder of its runs is called",
                given=repr(self.recipe),
                expected="no slash, no line break, no dot at its beginning",
            )

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for YAML."""
        return asdict(self)


def recipes() -> list[str]:
    """Names of the recipes that ship, sorted."""
    return sorted(name for name in _files() if not name.startswith("_"))


def _files() -> list[str]:
    """Recipes and, with a leading underscore, what several of them share."""
    folder = resources.files("advae") / "recipes"
    return [file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml")]


def read_recipe(
    source: str | os.PathLike[str] | Mapping[str, Any], above: Sequence[str] = ()
) -> dict[str, Any]:
    """A recipe as a tree of plain values: by name, from a YAML file, or a tree already.

    Args:
        source: which. A file that a file names as its base is looked for beside that file.
        above: the recipes that this is a base of.

    Raises:
        ConfigError: there is no such recipe, the file is not YAML, or it is a base of itself.
    """
    name = ""
    if isinstance(source, Mapping):
        tree = dict(source)
    else:
        name = str(source)
        if name in above:
            raise ConfigError("a recipe is its own base", given=" → ".join([*above, name]))
        if name.endswith((".yaml", ".yml")):
            text, label = _read_text(Path(name)), Path(name).stem
        elif name in _files():
            text, label = (resources.files("advae") / "recipes" / f"{name}.yaml").read_text(), name
        else:
            raise ConfigError(
                f"there is no recipe called {name!r}",
                remedy=nearest(name, recipes()) + "; your own recipe: --config FILE.yaml",
            )
        tree = _parse_yaml(text, name)
        tree.setdefault("recipe", label)
    if "base" in tree:
        bases = tree.pop("base")
        below: dict[str, Any] = {}
        for base in bases if isinstance(bases, list) else [bases]:
            below = merge(below, read_recipe(_beside(base, name), [*above, name]))
        tree = merge(below, tree)
    return tree


def resolve(
    source: str | os.PathLike[str] | Mapping[str, Any], overrides: Mapping[str, Any] | None = None
) -> Config:
    """The configuration of a recipe with dotted overrides, every option filled in and checked.

    Args:
        source: see :func:`read_recipe`.
        overrides: by dotted name: ``{"train.steps": 100, "model.encoder": "conv"}``. Naming a component
            chooses it anew, with its own default options.

    Raises:
        ConfigError: an unknown recipe, component or option (with the nearest name), or a wrong value.
    """
    tree = merge(DEFAULTS, read_recipe(source))
    chosen = {key.removesuffix(".name"): value for key, value in (overrides or {}).items()}
    for key in sorted(chosen, key=lambda key: key.count(".")):  # components before their options
        tree = merge(tree, _nested(key, chosen[key]))
    parser = typed_parser(tree)
    _check_names(tree, parser)
    try:
        parsed = parser.parse_object(tree, defaults=True)
        plain = _plain(parsed.as_dict())
    except ConfigError:
        raise
    except Exception as error:  # jsonargparse raises several kinds; each says which key and why
        raise ConfigError("an option has a wrong value", given=_first_lines(str(error))) from None
    sections = {key: plain.pop(key) for key in SECTIONS}
    return Config(
        **plain,
        data=DataOptions(**sections["data"]),
        model=sections["model"],
        method=sections["method"],
        train=TrainOptions(**sections["train"]),
    )


def typed_parser(tree: Mapping[str, Any], *, docs: bool = False) -> ArgumentParser:
    """A parser of every option that a configuration with these components has, with types.

    Args:
        tree: a configuration, of which the names of its components matter.
        docs: with the docs of fields as help. Reading them from source takes longer than all the rest.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=docs)
    parser = ArgumentParser(exit_on_error=False, prog="advae train RECIPE", add_help=False)
    for key, default in PLAIN.items():
        parser.add_argument(f"--{key}", type=type(default), default=default)
    parser.add_class_arguments(DataOptions, "data", instantiate=False)
    parser.add_class_arguments(TrainOptions, "train", instantiate=False)
    parser.add_argument("--model.latent", type=int, help="length of a code, d")
    for key, registry, skip in slots():
        spec = _lookup(tree, key)
        cls = registry.find(spec["name"])
        parser.add_argument(f"--{key}.name", type=str, help=f"the {registry.kind}: a name, or an import path")
        parser.add_class_arguments(cls, key, skip=skip & set(registry.options(cls)), instantiate=False)
    return parser


def slots() -> Iterator[tuple[str, Registry[Any], set[str]]]:
    """Where components go: dotted key, registry, and the arguments that the house fills in."""
    from advae.distributions import HEADS
    from advae.methods import METHODS
    from advae.networks import CRITICS, NETWORKS

    yield "method", METHODS, set()
    yield "model.encoder", NETWORKS, {"in_shape", "out_shape", "noise"}
    yield "model.posterior", HEADS, {"event_shape"}
    yield "model.decoder", NETWORKS, {"in_shape", "out_shape", "noise"}
    yield "model.likelihood", HEADS, {"event_shape"}
    yield "model.critic", CRITICS, {"x_shape", "z_shape"}


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` laid on it, branch by branch.

    A branch that names another component than before replaces the old one whole, with its options.
    """
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        if isinstance(old, Mapping) and "name" in old and isinstance(value, str):
            value = {"name": value}
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            another = "name" in value and "name" in old and value["name"] != old["name"]
            value = dict(value) if another else merge(old, value)
        out[key] = value
    return out


def _plain(value: Any) -> Any:
    """The value as YAML has it: lists for tuples."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _nested(dotted: str, value: Any) -> dict[str, Any]:
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return value


def _lookup(tree: Mapping[str, Any], dotted: str) -> Any:
    value: Any = tree
    for part in dotted.split("."):
        value = value[part] if isinstance(value, Mapping) and part in value else None
    if not isinstance(value, Mapping) or "name" not in value:
        raise ConfigError(f"{dotted} must name a component", given=value, expected="{name: …, option: value}")
    return value


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _check_names(tree: Mapping[str, Any], parser: ArgumentParser) -> None:
    for section in SECTIONS:
        if not isinstance(tree.get(section, {}), Mapping):
            raise ConfigError(f"{section!r} is a section of options", given=repr(tree[section]))
    known = {action.dest for action in parser._actions}
    for key in _leaves(tree):
        if key not in known:
            section = key.rpartition(".")[0]
            siblings = sorted(k for k in known if k.rpartition(".")[0] == section) or sorted(known)
            raise ConfigError(f"there is no option {key!r}", remedy=nearest(key, siblings))


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("the recipe cannot be read", given=error) from None


def _beside(base: Any, name: str) -> Any:
    """A base as it is to be read: a file's path from the folder of the file that names it."""
    if isinstance(base, str) and base.endswith((".yaml", ".yml")) and name.endswith((".yaml", ".yml")):
        return os.path.normpath(Path(name).parent / base)
    return base


def _parse_yaml(text: str, name: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError("the recipe is not valid YAML", given=f"{name}: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError("a recipe is a tree of options", given=f"{name} holds {type(tree).__name__}")
    try:
        json.dumps(tree, default=str)
    except ValueError:  # an anchor within itself
        raise ConfigError("a recipe is a tree of options", given=f"{name} contains itself") from None
    return tree


def _first_lines(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines()[:4])
