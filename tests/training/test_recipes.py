"""Recipes for data that do not ship: each trains, saves, loads and is judged, on noise and with narrow networks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import advae
from advae.run import Run
from advae.training.config import resolve

SOURCES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32), "imagenet": (3, 64, 64), "celeba": (3, 64, 64)}
"""What recipes name as their source, and the shape of its images as they are observed."""

SHIPPED = {name: resolve(name).data.source for name in advae.recipes()}
OUTSIDE = [name for name, source in SHIPPED.items() if source != "digits"]
STEPS, BATCH, IMAGES, SHARE = 3, 4, 24, 16


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Noise for each source: arrays for the small ones, folders of oblong PNG files for the large."""
    import datasets

    root, random = tmp_path_factory.mktemp("sources"), np.random.default_rng(0)
    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", root / "cache")
    paths = {}
    for name in ("mnist", "cifar10"):
        paths[name] = str(root / f"{name}.npy")
        np.save(paths[name], random.integers(0, 256, (IMAGES, *SOURCES[name]), dtype=np.uint8))
    for name in ("imagenet", "celeba"):
        (root / name).mkdir()
        for i in range(IMAGES):
            pixels = random.integers(0, 256, (70, 81, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:02}.png")
        paths[name] = str(root / name)
    yield paths
    patch.undo()


def narrowed(recipe: str) -> dict[str, Any]:
    """Overrides that keep every layer of a recipe's networks and leave a sixteenth of its width."""
    found: dict[str, Any] = {}
    model = resolve(recipe).model
    for part in ("encoder", "posterior", "decoder", "critic"):
        for option in ("channels", "groups", "heads", "hidden", "z_hidden", "features", "length"):
            if model[part].get(option):
                found[f"model.{part}.{option}"] = share(model[part][option])
    return found | {"model.latent": share(model["latent"])}


def share(width: Any) -> Any:
    return [share(w) for w in width] if isinstance(width, list) else max(2, math.ceil(width / SHARE))


def options(recipe: str, sources: dict[str, str]) -> dict[str, Any]:
    return {
        "device": "cpu",
        "data.source": sources[SHIPPED[recipe]],
        "data.workers": 0,
        "train.steps": STEPS,
        "train.batch": BATCH,
        "train.warmup": 0,
        "train.samples_every": 0,
        "train.validate_every": STEPS,
        **narrowed(recipe),
    }


def test_every_recipe_has_a_known_source() -> None:
    assert set(SHIPPED.values()) <= {"digits", *SOURCES}
    assert len(OUTSIDE) >= 12


@pytest.mark.parametrize("name", OUTSIDE)
def test_it_trains_saves_loads_and_is_judged(name: str, sources: dict[str, str], tmp_path: Path) -> None:
    run = advae.train(name, options=options(name, sources), out=tmp_path / "run", quiet=True)
    model = run.model()
    assert_everything_moved(run, len(list(model.parameters())))
    average = {k.removeprefix("average/"): v for k, v in state(run).items() if k.startswith("average/")}
    assert model.x_shape == SOURCES[SHIPPED[name]] and not model.training
    assert all(torch.equal(average[key], value) for key, value in model.state_dict().items())
    assert model.sample(2, seed=0).shape == (2, *model.x_shape)

    data = advae.load_data(advae.DataOptions(**run.config["data"]))
    found = advae.evaluate(model, data, likelihood=("elbo", "iwae"), importance=4, draws=2, checks=())
    assert found and all(math.isfinite(e.value) for e in found)


def state(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoint() / "state.safetensors")


def assert_everything_moved(run: Run, parameters: int) -> None:
    """Every tensor of parameters had a gradient, else Adam has no moments of it, and one that is not zero."""
    moments = {k: v for k, v in state(run).items() if k.endswith("exp_avg_sq")}
    assert len(moments) == parameters
    assert [key for key, value in moments.items() if not bool((value > 0).any())] == []
