"""A table whose rows train in a second, and the command that reproduces it in a separate folder."""

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
    """Return a recipe on the embedded digits."""
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
    """Return a table definition."""
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


def write_table(folder: Path, definition: Mapping[str, Any], name: str = "small") -> Path:
    """Write the definition to a file."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(dict(definition), sort_keys=False))
    return path


def reproduce(folder: Path, *options: object, definition: Mapping[str, Any] | None = None) -> int:
    """Run the command and return its exit code; results are in ``folder/results``, runs in ``folder/runs``."""
    path = write_table(folder, definition or table())
    outputs = ("--runs", folder / "runs", "--out", folder / "results", "--quiet")
    return main(["reproduce", *map(str, (path, *outputs, *options))])


def record(folder: Path, name: str = "small") -> dict[str, Any]:
    """Return the JSON of the results."""
    results: dict[str, Any] = json.loads((folder / "results" / f"{name}.json").read_text())
    return results


def page(folder: Path, name: str = "small") -> str:
    """Return the page of the results."""
    return (folder / "results" / f"{name}.md").read_text()


def without_times(value: Any, root: Path) -> Any:
    """Return a record without times and without the folder ``root``."""
    if isinstance(value, dict):
        return {key: without_times(item, root) for key, item in value.items() if key not in TIMES}
    if isinstance(value, list):
        return [without_times(item, root) for item in value]
    return value.replace(str(root), "") if isinstance(value, str) else value


def record_calls(function: Callable[..., Any], calls: list[Any]) -> Callable[..., Any]:
    """Return the function with its calls' arguments appended to ``calls``."""

    def recording(*args: Any, **kwargs: Any) -> Any:
        calls.append((args, kwargs))
        return function(*args, **kwargs)

    return recording
