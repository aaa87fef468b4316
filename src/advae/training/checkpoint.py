"""Checkpoints: all that is needed to resume training exactly, as safetensors and JSON.

Noise and batches are functions of (seed, step, rank), so the step's number determines the position in both.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advae.errors import CheckpointError
from advae.io import read_json, read_replaceable, replaced_folder, to_json
from advae.serialization import check_no_pickle, load_tensors, save_tensors
from advae.training.step import TrainStep

FORMAT = 2
TENSORS_FILE, STATE_FILE = "state.safetensors", "state.json"


def save_checkpoint(folder: Path, step: TrainStep, state: dict[str, Any]) -> None:
    """Write networks, moving average, optimizers, metric sums and ``state`` (JSON values), atomically."""
    tensors = {f"model/{key}": value for key, value in step.model.state_dict().items()}
    tensors |= {f"ema/{key}": value for key, value in step.ema.model.state_dict().items()}
    for name, optimizer in step.optimizers.items():
        tensors |= {f"optimizer/{name}/{key}": value for key, value in optimizer.state().items()}
    tensors["random/cpu"] = torch.get_rng_state()
    tensors["num_skipped"] = step.metrics.num_skipped
    tensors |= {f"metrics/{key}": value for key, value in step.metrics.state().items()}
    write_state(folder, tensors, state)


def load_checkpoint(folder: Path, step: TrainStep) -> dict[str, Any]:
    """Restore the tensors of a checkpoint into ``step`` and return its state.

    Raises:
        CheckpointError: the checkpoint is missing, truncated, edited, pickled, or belongs to another model.
    """
    tensors, state = read_state(folder)
    try:
        step.model.load_state_dict(_with_prefix(tensors, "model/"))
        step.ema.model.load_state_dict(_with_prefix(tensors, "ema/"))
        for name, optimizer in step.optimizers.items():
            optimizer.load_state(_with_prefix(tensors, f"optimizer/{name}/"))
        torch.set_rng_state(tensors["random/cpu"].cpu())
        step.metrics.num_skipped = tensors["num_skipped"]
        step.metrics.load_state(_with_prefix(tensors, "metrics/"))
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            "Checkpoint does not fit the run's configuration.",
            given=str(error).splitlines()[0],
            fix="config.yaml was edited: restore the networks and the method of the checkpoint",
        ) from None
    return state


def load_ema_tensors(folder: Path) -> tuple[dict[str, Tensor], int]:
    """Return the averaged model's tensors in a checkpoint, and the checkpoint's step."""
    tensors, state = read_state(folder)
    return _with_prefix(tensors, "ema/"), state["step"]


def write_state(folder: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write tensors and ``state`` (JSON values) to a folder, atomically, both with checksums."""
    with replaced_folder(folder) as tmp_dir:
        state = {"format": FORMAT, "sha256": save_tensors(tmp_dir / TENSORS_FILE, tensors), **state}
        # Not by write_json, which would make a run directory again that was removed meanwhile.
        (tmp_dir / STATE_FILE).write_text(to_json(state | {"seal": _seal(state)}), encoding="utf-8")


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the state that :func:`write_state` wrote.

    Raises:
        CheckpointError: they are missing, truncated, edited or pickled.
    """
    return read_replaceable(path, _read_state)


def _read_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not folder.is_dir():
        raise CheckpointError(
            "Checkpoint is missing.", given=folder, fix="restore the folder, or start a new run"
        )
    check_no_pickle(folder)
    state = read_json(folder / STATE_FILE)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(
            "Checkpoint has another format.", given=folder / STATE_FILE, expected=f"format {FORMAT}"
        )
    if state.pop("seal", None) != _seal(state):
        raise CheckpointError(
            "Checkpoint is corrupted: its state was edited.",
            given=folder / STATE_FILE,
            fix="use another checkpoint of the run",
        )
    return load_tensors(folder / TENSORS_FILE, state.get("sha256")), state


def _seal(state: dict[str, Any]) -> str:
    """Return the SHA-256 of the state, which contains the SHA-256 of the tensors."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
