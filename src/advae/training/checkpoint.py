"""Checkpoints: everything a run needs to go on exactly where it stopped. Safetensors and JSON, never pickles.

Noise and batches are functions of (seed, step, rank), so the position in both is the step's number.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from advae.errors import CheckpointError
from advae.io import digest, read_json, replaced_folder, write_json
from advae.model import refuse_pickles
from advae.training.step import Step

FORMAT = 1
TENSORS, STATE = "state.safetensors", "state.json"


def save_checkpoint(folder: Path, step: Step, progress: dict[str, Any]) -> None:
    """Write networks, average and optimisers, and ``progress`` (JSON values), whole or not at all."""
    tensors = {f"model/{k}": v for k, v in step.model.state_dict().items()}
    tensors |= {f"average/{k}": v for k, v in step.average.model.state_dict().items()}
    for player in step.players.values():
        tensors |= {f"optimiser/{player.name}/{k}": v for k, v in player.state().items()}
    tensors["random/cpu"] = torch.get_rng_state()
    tensors["left_out"] = step.terms.left_out
    write_state(folder, tensors, progress)


def write_state(folder: Path, tensors: dict[str, Tensor], progress: dict[str, Any]) -> None:
    """Write tensors and ``progress`` (JSON values), whole or not at all, each sealed by a checksum."""
    with replaced_folder(folder) as aside:
        save_file({k: v.detach().contiguous() for k, v in tensors.items()}, aside / TENSORS)
        state = {"format": FORMAT, "sha256": digest(aside / TENSORS), **progress}
        write_json(aside / STATE, state | {"seal": seal(state)})


def load_checkpoint(folder: Path, step: Step) -> dict[str, Any]:
    """Put a checkpoint's tensors back into ``step`` and return its progress.

    Raises:
        CheckpointError: it is missing, cut short, edited, pickled, or of another model.
    """
    tensors, state = read_state(folder)
    try:
        step.model.load_state_dict(_under(tensors, "model/"))
        step.average.model.load_state_dict(_under(tensors, "average/"))
        for player in step.players.values():
            player.load_state(_under(tensors, f"optimiser/{player.name}/"))
        torch.set_rng_state(tensors["random/cpu"].cpu())
        step.terms.left_out = tensors.get("left_out", torch.zeros(()))
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            "the checkpoint does not fit the run's configuration",
            given=str(error).splitlines()[0],
            remedy="config.yaml was edited: the networks and players must be those of the checkpoint",
        ) from None
    return state


def read_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the progress that :func:`write_state` wrote.

    Raises:
        CheckpointError: they are missing, cut short, edited or pickled.
    """
    if not folder.is_dir():
        raise CheckpointError(
            "there is no checkpoint to go on from",
            given=folder,
            remedy="start the run again without --resume",
        )
    refuse_pickles(folder)
    state = read_json(folder / STATE)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError("the checkpoint is of another format", given=folder / STATE)
    if state.pop("seal", None) != seal(state):
        raise CheckpointError("the checkpoint is damaged: its position was edited", given=folder / STATE)
    return _read_tensors(folder / TENSORS, state.get("sha256", "")), state


def seal(state: dict[str, Any]) -> str:
    """SHA-256 of the position, which holds that of the tensors."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def average_of(folder: Path) -> tuple[dict[str, Tensor], int]:
    """The averaged model's tensors in a checkpoint, and its step."""
    state = read_json(folder / STATE)
    return _under(_read_tensors(folder / TENSORS, state["sha256"]), "average/"), state["step"]


def _read_tensors(path: Path, expected: str) -> dict[str, Tensor]:
    try:
        found = digest(path)
        if found != expected:
            raise CheckpointError(
                "the checkpoint is damaged: its checksum is wrong",
                given=f"{path} ({found[:12]})",
                expected=expected[:12],
                remedy="it was cut short or edited; another one may stand beside it in checkpoints/",
            )
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError("the checkpoint cannot be read", given=f"{path}: {error}") from None


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
