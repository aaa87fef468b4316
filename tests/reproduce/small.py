"""A table whose rows train in a second, and the command that carries it out in a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from advae.cli import main

STEPS = 12
NETWORKS = {
    "latent_dim": 2,
    "encoder": {"name": "mlp", "hidden": [8]},
    "decoder": {"name": "mlp", "hidden": [8]},
}
TRAIN = {
    "steps": STEPS,
    "batch_size": 16,
    "log_every": 2,
    "validate_every": 6,
    "samples_every": 0,
    "checkpoint_every": 4,
}
ELBO_OR_CRITIC = [{"metric": "elbo", "variant": ""}, {"metric": "elbo", "variant": "critic"}]
TIMES = ("seconds", "ms_per_step", "evaluation_seconds")


def recipe(name: str, **more: Any) -> dict[str, Any]:
    """A recipe on the embedded digits, by its name."""
    return {
        "recipe": name,
        "device": "cpu",
        "data": more.pop("data", {"source": "digits", "preprocessing": "binarize-dynamic"}),
        "model": {**NETWORKS, **more.pop("model", {})},
        "train": {**TRAIN, **more.pop("train", {})},
        **more,
    }


AVB = recipe(
    "avb-small",
    method={"name": "avb"},
    model={"posterior": {"name": "implicit", "noise_dim": 4}, "critic": {"name": "concat", "hidden": [8]}},
)
BAD = recipe("bad-small", model={"posterior": {"name": "implicit", "noise_dim": 4}})  # a VAE needs a density


def table(**more: Any) -> dict[str, Any]:
    """A definition."""
    return {
        "title": "Two small rows",
        "source": "Smith (2017), table 0",
        "rows": [
            {
                "label": "VAE",
                "recipe": recipe("vae-small"),
                "published": {"elbo": {"value": -20.5, "error": 0.2}},
            },
            {
                "label": "AVB",
                "recipe": AVB,
                "published": {"elbo": {"value": -19.25, "kind": "adversarial estimate"}},
            },
        ],
        "columns": {
            "elbo": {"title": "ELBO, nats", "ours": ELBO_OR_CRITIC, "unit": "nats", "needs": "likelihood"},
            "nll": {
                "title": "NLL, nats",
                "ours": ["iwae"],
                "unit": "nats",
                "negated": True,
                "needs": "likelihood",
            },
            "rmse": {"title": "RMSE", "ours": ["rmse"], "needs": "encoder", "baseline": True},
            "ais": {
                "title": "NLL by AIS",
                "ours": ["ais"],
                "unit": "nats",
                "negated": True,
                "needs": "likelihood",
            },
        },
        "evaluation": [
            {"likelihood": ["elbo", "iwae"], "iwae_samples": 4, "elbo_samples": 2, "diagnostics": []},
            {"likelihood": ["ais"], "chains": 2, "temperatures": 3, "limit": 4, "diagnostics": []},
        ],
        "references": ["vae-small"],
        "notes": ["This table was never published."],
        **more,
    }


def written(folder: Path, definition: Mapping[str, Any], name: str = "small") -> Path:
    """The definition as a file."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(dict(definition), sort_keys=False))
    return path


def reproduced(folder: Path, *options: object, definition: Mapping[str, Any] | None = None) -> int:
    """The command's exit code; results are in ``folder/results``, runs in ``folder/runs``."""
    path = written(folder, definition or table())
    where = ("--runs", folder / "runs", "--out", folder / "results", "--quiet")
    return main(["reproduce", *map(str, (path, *where, *options))])


def record(folder: Path, name: str = "small") -> dict[str, Any]:
    """The JSON of the results."""
    found: dict[str, Any] = json.loads((folder / "results" / f"{name}.json").read_text())
    return found


def page(folder: Path, name: str = "small") -> str:
    """The page of the results."""
    return (folder / "results" / f"{name}.md").read_text()


def timeless(value: Any, root: Path) -> Any:
    """A record without times, and without the folder that it was made in."""
    if isinstance(value, dict):
        return {key: timeless(item, root) for key, item in value.items() if key not in TIMES}
    if isinstance(value, list):
        return [timeless(item, root) for item in value]
    return value.replace(str(root), "") if isinstance(value, str) else value


def counting(function: Callable[..., Any], calls: list[Any]) -> Callable[..., Any]:
    """The function, which notes its arguments."""

    def noted(*args: Any, **kwargs: Any) -> Any:
        calls.append((args, kwargs))
        return function(*args, **kwargs)

    return noted
