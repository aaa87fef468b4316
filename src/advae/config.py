"""Recipes and overrides, resolved to a typed configuration.

A recipe is YAML with the sections ``data``, ``model``, ``method`` and ``train``. A component is chosen by ``name``;
its options are the arguments of the class of that name, so that a user's own class has typed options too.
``base: other-recipe`` starts from another recipe, ``base: [one, other]`` from several, each overriding those before it,
and a recipe then states only what differs.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from itertools import count
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from advae.data.data_options import DataOptions
from advae.errors import MAX_LISTED, ConfigError, first_line, nearest
from advae.formatting import flatten
from advae.io import PathLike
from advae.registry import Registry, check_import_allowed
from advae.safe_yaml import parse_yaml, read_yaml
from advae.training.train_options import TrainOptions

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

MAX_BASES = 100
IMAGE_RECIPES, TABLE_RECIPES = "images", "table"
"""How the names of recipes for a user's own data end."""

SECTIONS = ("data", "model", "method", "train")
TOP_LEVEL_DEFAULTS = {"recipe": "", "description": "", "published": "", "seed": 0, "device": "auto"}
COMPONENT_DEFAULTS: dict[str, Any] = {
    "model": {
        "latent_dim": 8,
        "skip": "none",
        "encoder": {"name": "mlp"},
        "posterior": {"name": "normal"},
        "decoder": {"name": "mlp"},
        "likelihood": {"name": "bernoulli"},
        "critic": {"name": "concat"},
    },
    "method": {"name": "vae"},
}
_PARSER_ERROR = re.compile(r'Parser key "([^"]+)":\s*(.*)', re.DOTALL)
_TYPE_NAMES = {
    "str": "a text",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "Sequence": "a list, such as [64, 64]",
    "NoneType": "null",
}


@dataclass(frozen=True)
class Config:
    """A resolved configuration, as saved in ``config.yaml``.

    Attributes:
        recipe: name of the recipe it came from.
        description: what it trains, in one sentence.
        published: the published result to compare with, if any.
        seed: seed of all random numbers.
        device: "auto", "cpu", "cuda" or "cuda:N".
        data: data and preprocessing.
        model: see :func:`advae.model.build_model`.
        method: name and options of the method.
        train: training options.
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
            raise ConfigError("Option seed is out of range.", given=self.seed, expected="0 to 2⁶³ − 1")
        if not re.fullmatch(r"(?!\.)[^/\\\x00-\x1f]*", self.recipe):
            raise ConfigError(
                "Option recipe must be usable as the name of a folder.",
                given=repr(self.recipe),
                expected="no slash, no line break, no leading dot",
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain values, ready for YAML."""
        return asdict(self)


RecipeSource = PathLike | Mapping[str, Any]
"""A recipe's name, a YAML file, or a mapping."""


def resolve(source: RecipeSource | Config, overrides: Mapping[str, Any] | None = None) -> Config:
    """Return the configuration of a recipe with overrides, complete and checked.

    Args:
        source: a recipe's name, a YAML file, a mapping, or a resolved configuration.
        overrides: options by dotted name: ``{"train.steps": 100, "model.encoder": "conv"}``. Naming another component
            resets its options to their defaults.

    Raises:
        ConfigError: a recipe, component or option is unknown (with the nearest name), or a value is invalid.
    """
    if isinstance(source, Config):
        if not overrides:
            return source
        source = source.to_dict()
    tree = merge(COMPONENT_DEFAULTS, read_recipe(source))
    by_name = {key.removesuffix(".name"): value for key, value in (overrides or {}).items()}
    for key in sorted(by_name, key=lambda key: key.count(".")):  # components before their options
        tree = merge(tree, _nested(key, by_name[key]))
    parser = option_parser(tree)
    _check_names(tree, parser)
    _check_imports(tree, parser)
    try:
        values = _with_lists(parser.parse_object(tree, defaults=True).as_dict())
    except ConfigError:
        raise
    except (
        Exception
    ) as error:  # jsonargparse raises several types; each message names the option and the reason
        raise _value_error(error, tree, parser) from None
    _check_values(values, parser)
    sections = {key: values.pop(key) for key in SECTIONS}
    return Config(
        **values,
        data=DataOptions(**sections["data"]),
        model=sections["model"],
        method=sections["method"],
        train=TrainOptions(**sections["train"]),
    )


def recipes() -> list[str]:
    """Return the names of the built-in recipes, sorted."""
    return sorted(name for name in _built_in_files() if not name.startswith("_"))


@dataclass(frozen=True)
class RecipeChoice:
    """A recipe chosen by the data.

    Attributes:
        name: of the recipe.
        reason: what the data are.
        others: names of the other recipes for such data.
    """

    name: str
    reason: str
    others: tuple[str, ...]

    def __str__(self) -> str:
        shown = ", ".join(self.others[:MAX_LISTED]) + ", …" * (len(self.others) > MAX_LISTED)
        return f"recipe: {self.name} ({self.reason})" + (f"; also suitable: {shown}" if shown else "")


def choose_recipe(shape: Sequence[int], source: str = "") -> RecipeChoice:
    """Choose a recipe for observations of a shape: images ``[C, H, W]``, vectors ``[n]``, or the built-in digits.

    Args:
        shape: of one observation.
        source: ``data.source``, if that is where they come from.

    Raises:
        ConfigError: observations of this shape are neither images nor vectors.
    """
    size = " × ".join(map(str, shape))
    if source == DataOptions().source:
        kind, reason = source, "the built-in handwritten digits"
    elif len(shape) == 3:
        kind, reason = IMAGE_RECIPES, f"the data are images, channels × height × width {size}"
    elif len(shape) == 1:
        kind, reason = TABLE_RECIPES, f"the data are vectors of {size} numbers"
    else:
        raise ConfigError(
            "No recipe suits observations of this shape.",
            given=size,
            expected="images [C, H, W], or vectors [n]",
            fix="reshape the data, or name a recipe and networks for this shape",
        )
    name, suffix = f"vae-{kind}", f"-{kind}"
    suitable = [recipe for recipe in recipes() if recipe.endswith(suffix)]
    return RecipeChoice(name, reason, tuple(recipe for recipe in suitable if recipe != name))


def data_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of options, by dotted name, that describe the data."""
    return {key: value for key, value in options.items() if key.startswith("data.")}


def choose_recipe_for_source(options: Mapping[str, Any]) -> RecipeChoice:
    """Open the data that options, by dotted name, describe, and choose a recipe for them; no example is read.

    Raises:
        ConfigError, DataError: an option is invalid, or the data cannot be opened.
    """
    from advae.data.readers import open_source

    data = resolve({}, data_options(options)).data
    return choose_recipe(open_source(data, eight_bit=False).parts["train"].shape, data.source)


def _built_in_files() -> list[str]:
    """Names of recipes and, with a leading underscore, of what several recipes share."""
    folder = resources.files("advae") / "recipes"
    return [file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml")]


def read_recipe(source: RecipeSource) -> dict[str, Any]:
    """Read a recipe and its bases as nested plain values.

    Args:
        source: a recipe's name, a YAML file, or a mapping. The path of a base is relative to the file that names it.

    Raises:
        ConfigError: the recipe does not exist, is not valid YAML, is its own base, or has too many bases.
    """
    return _read_with_bases(source, [], count())


def _read_with_bases(source: Any, derived: Sequence[str], reads: Iterator[int]) -> dict[str, Any]:
    """Read a recipe that the recipes ``derived`` are derived from; ``reads`` counts all that were read."""
    name = ""
    if isinstance(source, Mapping):
        tree = dict(source)
    else:
        name = os.fspath(source) if isinstance(source, str | os.PathLike) else repr(source)
        if name in derived:
            raise ConfigError("Recipe is its own base.", given=" → ".join([*derived, name]))
        tree = _read_recipe_file(name)
    if "base" not in tree:
        return tree
    bases = tree.pop("base")
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        if next(reads) >= MAX_BASES:
            raise ConfigError("Recipe has too many bases.", given=name, expected=f"at most {MAX_BASES}")
        if is_recipe_file(base) and is_recipe_file(name):
            base = os.path.normpath(Path(name).parent / base)
        merged = merge(merged, _read_with_bases(base, [*derived, name], reads))
    return merge(merged, tree)


def is_recipe_file(name: object) -> bool:
    """Return whether a name is that of a YAML file."""
    return isinstance(name, str) and name.lower().endswith((".yaml", ".yml"))


def _read_recipe_file(name: str) -> dict[str, Any]:
    if is_recipe_file(name):
        tree, label = read_yaml(name), Path(name).stem
    elif name in _built_in_files():
        file = resources.files("advae") / "recipes" / f"{name}.yaml"
        tree, label = parse_yaml(file.read_text("utf-8"), file.name), name
    else:
        if os.path.exists(name):
            fix = f"to train on these data: advae train --data.source {name}"
        else:
            fix = nearest(name, recipes(), "advae recipes") + "; your own recipe: --config FILE.yaml"
        raise ConfigError(f"Unknown recipe {name!r}.", fix=fix)
    if not isinstance(tree, dict):
        raise ConfigError("Recipe is not a mapping of options.", given=f"{name}: a {type(tree).__name__}")
    return {"recipe": label} | tree


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``override`` merged into it, section by section.

    A section that names another component replaces the old one with all its options.
    """
    merged = dict(base)
    for key, value in override.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and "name" in old and isinstance(value, str):
            value = {"name": value}
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            is_other = "name" in value and "name" in old and value["name"] != old["name"]
            value = dict(value) if is_other else merge(old, value)
        merged[key] = value
    return merged


def option_parser(tree: Mapping[str, Any], *, docs: bool = False) -> ArgumentParser:
    """Return a parser of all options, with their types, of a configuration with these components.

    Args:
        tree: a configuration; only the names of its components matter.
        docs: whether to read help texts, which is slow.
    """
    from jsonargparse import ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=docs)
    parser = ArgumentParser(exit_on_error=False, prog="advae train RECIPE", add_help=False)
    for key, default in TOP_LEVEL_DEFAULTS.items():
        parser.add_argument(f"--{key}", type=type(default), default=default)
    parser.add_class_arguments(DataOptions, "data", instantiate=False)
    parser.add_class_arguments(TrainOptions, "train", instantiate=False)
    latent_dim = COMPONENT_DEFAULTS["model"]["latent_dim"]
    parser.add_argument(
        "--model.latent_dim",
        type=int | None,
        default=latent_dim,
        help="latent dimension, d; null: as many as principal components for 90 %% of the variance, 2 to 64",
    )
    skip = "linear: encoder and decoder are principal components plus the networks, and start as probabilistic PCA"
    parser.add_argument("--model.skip", type=Literal["none", "linear"], default="none", help=skip)
    for key, registry, computed in component_slots():
        cls = registry.find(_component(tree, key)["name"])
        parser.add_argument(f"--{key}.name", type=str, help=f"{registry.kind}: a name, or an import path")
        parser.add_class_arguments(cls, key, skip=computed & set(registry.options(cls)), instantiate=False)
    return parser


def component_slots() -> Iterator[tuple[str, Registry[Any], set[str]]]:
    """Yield where components are chosen: dotted name, registry, and the arguments that are computed."""
    from advae.distributions import HEADS
    from advae.methods import METHODS
    from advae.networks import CRITICS, NETWORKS

    yield "method", METHODS, set()
    yield "model.encoder", NETWORKS, {"in_shape", "out_shape", "noise_dim"}
    yield "model.posterior", HEADS, {"event_shape"}
    yield "model.decoder", NETWORKS, {"in_shape", "out_shape", "noise_dim"}
    yield "model.likelihood", HEADS, {"event_shape"}
    yield "model.critic", CRITICS, {"x_shape", "z_shape"}


def _component(tree: Mapping[str, Any], dotted: str) -> Mapping[str, Any]:
    value: Any = tree
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or "name" not in value:
        raise ConfigError(
            f"{dotted} must name a component.", given=value, expected="{name: …, option: value}"
        )
    return value


def _nested(dotted: str, value: Any) -> dict[str, Any]:
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return value


def _with_lists(value: Any) -> Any:
    """The value as YAML has it: lists for tuples."""
    if isinstance(value, dict):
        return {key: _with_lists(item) for key, item in value.items()}
    return [_with_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _check_names(tree: Mapping[str, Any], parser: ArgumentParser) -> None:
    for section in SECTIONS:
        if not isinstance(tree.get(section, {}), Mapping):
            raise ConfigError(f"{section!r} must be a section of options.", given=repr(tree[section]))
    names = {action.dest for action in parser._actions}
    known = names - {name.rpartition(".")[0] for name in names}
    for key in flatten(tree):
        option = key.rpartition(".")[0]
        if option in known:
            raise ConfigError(
                f"Option {option} is not a section.", given=f"{option}: {{{key[len(option) + 1 :]}: …}}"
            )
        if key not in known:
            raise ConfigError(
                f"Unknown option {key!r}.", fix=nearest(key, sorted(known), "advae train RECIPE --help")
            )


def _check_values(values: Mapping[str, Any], parser: ArgumentParser) -> None:
    """Refuse what jsonargparse accepts for any type: null that is not the default, and numbers that are not finite."""
    optional = {action.dest for action in parser._actions if action.default is None} | {"model.latent_dim"}
    for key, value in flatten(values).items():
        items = value if isinstance(value, list) else [value]
        if None in items and key not in optional:
            raise ConfigError(
                f"Option {key} has no value.", given="null", fix="leave it out to use the default"
            )
        if any(isinstance(item, float) and not math.isfinite(item) for item in items):
            raise ConfigError(f"Option {key} is not finite.", given=value, expected="a finite number")


def _check_imports(tree: Mapping[str, Any], parser: ArgumentParser) -> None:
    """Check the options of users' classes whose type is a class or a function: jsonargparse imports their values."""
    values = flatten(tree)
    for action in parser._actions:
        if action.dest in values and not _is_plain(getattr(action, "_typehint", str)):
            for path in re.findall(r"[^\W\d]\w*(?:\.\w+)+", str(values[action.dest])):
                check_import_allowed(path, f"value of {action.dest}")


def _is_plain(hint: Any) -> bool:
    """Whether the values of a type are numbers, strings and lists of them."""
    return hint in (Any, str, bool, int, float, type(None), ...) or (
        get_origin(hint) is Literal
        or (
            (get_origin(hint) in (Union, UnionType, list, tuple, dict, Sequence, Mapping))
            and all(map(_is_plain, get_args(hint)))
        )
    )


def _value_error(error: Exception, tree: Mapping[str, Any], parser: ArgumentParser) -> ConfigError:
    """A clear error for a value that jsonargparse rejects, with the nearest value if there is a choice."""
    match = _PARSER_ERROR.search(str(error))
    if match is None:
        return ConfigError("An option has an invalid value.", given=first_line(error))
    key, reason = match.groups()
    given = flatten(tree).get(key)
    choices = re.search(r"Literal\[('[^\]]*')\]", reason)
    if choices is not None:
        names = re.findall(r"'([^']*)'", choices[1])
        return ConfigError(f"Option {key} has no value {given!r}.", fix=nearest(str(given), names))
    expected = re.search(r"(?:Expected an? |Subtypes: )(.*?)(?:\. Got value| Errors:|$)", reason, re.DOTALL)
    types = re.findall(r"<class '(?:[\w.]*\.)?(\w+)'>", expected[1]) if expected else []
    text = " or ".join(_TYPE_NAMES.get(name, name) for name in types)
    shown = repr(given) if len(repr(given)) < 200 else f"{repr(given)[:200]}…"
    return ConfigError(f"Option {key} has an invalid value.", given=shown, expected=text or None)
