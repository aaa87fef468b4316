"""Built-in recipes: their content, and that each trains, saves, loads and is evaluated on noise of the right shape.

Data sets that do not ship are stood in for by noise of their shape. Networks too large for five quick steps keep
every layer and a part of their width.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import advae
import recipe_table
from advae.config import Config, read_recipe, resolve
from advae.methods import METHODS
from advae.networks import NETWORKS
from advae.run import Run
from advae.training.data_start import with_nominal_dim

SOURCES = {"mnist": "mnist", "cifar10": "cifar10", "imagenet64": "imagenet", "celeba": "celeba"}
"""What a recipe's name calls its data, and the source it means. Digits and a user's images begin as digits."""

OWN_DATA = ("images", "table")

PAPERS = ("AVB table", "AS-VAE table")

STEPS, BATCH, IMAGES, NUM_EVALUATED = 5, 4, 24, 6
SMALL, PIXELS = 4_000_000, 32 * 32  # weights and pixels of what trains at its full width
SHARE = 16  # of a width that is left where it is not
WIDTHS = ("channels", "features", "filters", "groups", "heads", "hidden", "length", "width", "z_hidden")
SIDE = 8  # of an image that is sampled pixel by pixel

NAMES = advae.recipes()
FILES = sorted(f.name.removesuffix(".yaml") for f in (resources.files("advae") / "recipes").iterdir())
every_recipe = pytest.mark.parametrize("name", NAMES)

LINES = {line.partition(" | ")[0]: line for line in recipe_table.TABLE.read_text().splitlines()}
config = cache(resolve)


def own(name: str) -> dict[str, Any]:
    """Return the content of a recipe's file without its base."""
    tree = yaml.safe_load((resources.files("advae") / "recipes" / f"{name}.yaml").read_text())
    return {key: value for key, value in tree.items() if key != "base"}


def bases(name: str) -> list[str]:
    tree = yaml.safe_load((resources.files("advae") / "recipes" / f"{name}.yaml").read_text())
    base_names = tree.get("base", [])
    return base_names if isinstance(base_names, list) else [base_names]


def leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a tree by dotted name."""
    values: dict[str, Any] = {}
    for key, value in tree.items():
        below = leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
        values |= below
    return values


# --- what they say ------------------------------------------------------------------------------------------


@every_recipe
def test_a_name_is_method_data_network(name: str) -> None:
    """Method (and variant), data, network; on the embedded digits and for own data the network may be left out."""
    recipe = config(name)
    data = "|".join(["digits", *OWN_DATA, *SOURCES])
    parts = re.fullmatch(rf"(?P<method>[a-z-]+)-(?P<data>{data})(-(?P<net>[a-z]+[0-9]*))?", name)
    assert parts, "METHOD-DATA-NET, all in lower case"
    method, data, net = parts["method"], parts["data"], parts["net"]
    assert method == recipe.method["name"] or method.startswith(f"{recipe.method['name']}-")
    assert recipe.data.source == SOURCES.get(data, "digits")
    assert net or data in ("digits", *OWN_DATA)


@every_recipe
def test_description_and_published_value_are_its_own(name: str) -> None:
    """In its own words: neither is taken over from a base, which is another experiment."""
    recipe, stated = config(name), own(name)
    assert stated.get("description") and not stated["description"].endswith(".")
    assert recipe.published == stated.get("published", "")
    if recipe.published:
        assert recipe.published.startswith(PAPERS) and re.search(r"\d\.\d", recipe.published)
        assert recipe.data.source != "digits"


@pytest.mark.parametrize("name", FILES)
def test_recipe_states_only_what_differs_from_its_bases(name: str) -> None:
    """And what it states is what it resolves to: no option is lost, and every option is one that is read."""
    stated, resolved = leaves(own(name)), leaves(config(name).to_dict())
    assert {key for key in stated if key not in resolved} == set()
    assert {key: value for key, value in stated.items() if float_or(resolved[key]) != float_or(value)} == {}
    if not (on := bases(name)):
        return
    before = leaves(read_recipe({"base": on}))
    whole = {key for key in stated if key.endswith(".name") and before.get(key) != stated[key]}
    replaced_components = tuple(
        key.removesuffix("name") for key in whole
    )  # a component's options are all its own then
    same = {key for key, value in stated.items() if float_or(before.get(key)) == float_or(value)}
    idle = {key for key in same if not key.startswith(replaced_components) and not key.endswith(".name")}
    assert idle == set(), f"{on} says so already"


def float_or(value: Any) -> Any:
    """A number as one: YAML reads 1e-4 as a string."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


@pytest.mark.parametrize("name", LINES)
def test_summary_is_unchanged(name: str) -> None:
    """Another line is a change of an experiment."""
    assert recipe_table.line(name) == LINES[name], f"if meant: python {recipe_table.__file__}"


def test_summaries_are_of_existing_recipes() -> None:
    assert set(LINES) <= set(NAMES)


# --- that they work -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Noise for each source: arrays for the small ones, folders of oblong PNG files for the large."""
    import datasets

    root, random = tmp_path_factory.mktemp("sources"), np.random.default_rng(0)
    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", root / "cache")
    paths = {"digits": "digits"}
    for name in ("mnist", "cifar10"):
        c, h, w = recipe_table.DATA_SHAPES[name]
        for key, size in ((name, (h, w)), (f"small {name}", (SIDE, SIDE))):
            paths[key] = str(root / f"{key}.npy")
            np.save(paths[key], random.integers(0, 256, (IMAGES, c, *size), dtype=np.uint8))
    for name in ("imagenet", "celeba"):
        (root / name).mkdir()
        for i in range(IMAGES):
            pixels = random.integers(0, 256, (70, 81, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:02}.png")
        paths[name] = str(root / name)
    yield paths
    patch.undo()


def narrow(recipe: Config) -> dict[str, Any]:
    """Overrides that keep every layer of a recipe's networks and leave a sixteenth of its width."""
    overrides: dict[str, Any] = {"model.latent_dim": share(with_nominal_dim(recipe.model)["latent_dim"])}
    for part in ("encoder", "posterior", "decoder", "critic"):
        for option in WIDTHS:
            if recipe.model[part].get(option):
                overrides[f"model.{part}.{option}"] = share(recipe.model[part][option])
    return overrides


def share(width: Any) -> Any:
    return (
        [share(w) for w in width] if isinstance(width, list) else max(min(width, 2), math.ceil(width / SHARE))
    )


def shape(recipe: Config) -> tuple[int, ...]:
    """Of the images that a recipe is tried on: its own, but small ones where pixels are sampled one by one."""
    c, h, w = recipe_table.DATA_SHAPES[recipe.data.source]
    in_turn = getattr(NETWORKS.find(recipe.model["decoder"]["name"]), "autoregressive", False)
    return (c, SIDE, SIDE) if in_turn else (c, h, w)


def options(name: str, sources: dict[str, str]) -> dict[str, Any]:
    recipe = config(name)
    small = recipe_table.size(name) <= SMALL and math.prod(shape(recipe)[1:]) <= PIXELS
    source = recipe.data.source
    resized = shape(recipe) != recipe_table.DATA_SHAPES[source]
    source = f"small {source}" if resized and f"small {source}" in sources else source
    return {
        "device": "cpu",
        "data.source": sources[source],
        "data.limit": IMAGES,
        "data.workers": 0,
        "train.steps": STEPS,
        "train.batch_size": BATCH,
        "train.lr_warmup": 0,
        "train.samples_every": 0,
        "train.validate_every": STEPS,
        **({"data.image_size": SIDE} if resized and source in ("imagenet", "celeba") else {}),
        **({} if small else narrow(recipe)),
    }


@every_recipe
def test_recipe_trains_saves_loads_and_is_evaluated(
    name: str, sources: dict[str, str], tmp_path: Path
) -> None:
    run = advae.train(name, options=options(name, sources), out=tmp_path / "run", quiet=True, report=False)
    model = run.model()
    assert_everything_moved(run, len(list(model.parameters())))
    ema = {k.removeprefix("ema/"): v for k, v in state(run).items() if k.startswith("ema/")}
    assert model.x_shape == shape(config(name)) and not model.training
    assert all(torch.equal(ema[key], value) for key, value in model.state_dict().items())
    assert model.sample(2, seed=0).shape == (2, *model.x_shape)

    data = advae.load_data(advae.DataOptions(**run.config["data"]))
    estimates = advae.evaluate(
        model, data, iwae_samples=4, elbo_samples=2, diagnostics=(), limit=NUM_EVALUATED
    )
    assert all(math.isfinite(e.value) for e in estimates)
    assert len(estimates) > 0 or not (model.has_encoder or model.decoder_has_density())


def state(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoint() / "state.safetensors")


def assert_everything_moved(run: Run, parameters: int) -> None:
    """Every tensor of parameters had a gradient, else Adam has no moments of it, and one that is not zero."""
    moments = {k: v for k, v in state(run).items() if k.endswith("exp_avg_sq")}
    assert len(moments) == parameters
    assert [key for key, value in moments.items() if not bool((value > 0).any())] == []


def test_every_method_has_a_recipe() -> None:
    assert {config(name).method["name"] for name in NAMES} == set(METHODS.names())
