"""Training from a recipe, and resuming from a run's last checkpoint."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from advae.config import Config, resolve
from advae.data import Dataset
from advae.errors import CheckpointError
from advae.io import LOCK_FILE, lock_folder, read_json, recovered_folder, write_atomically, write_json
from advae.run import CONFIG_FILE, Run, check_unused
from advae.torch_state import isolated_torch_state
from advae.training.checkpoint import STATE_FILE
from advae.training.distributed import broadcast, is_first_process
from advae.training.setup import Setup
from advae.training.trainer import Trainer

Recipe = str | os.PathLike[str] | Mapping[str, Any] | Config

LOCATION_OPTIONS = ("device", "data.source", "data.workers")
"""Options that say where training runs, without effect on its result."""

RESUMABLE_OPTIONS = (
    "train.steps",
    "train.lr",
    "train.critic_lr",
    "train.grad_clip",
    "train.max_skipped_steps",
    "train.backend",
    *LOCATION_OPTIONS,
    "train.checkpoint_every",
    "train.checkpoint_keep_every",
)
"""Options that may change when a run is resumed."""


def train(
    recipe: Recipe,
    *,
    options: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    command: str = "",
    quiet: bool = False,
    data: Dataset | None = None,
) -> Run:
    """Train a recipe.

    Args:
        recipe: a recipe's name, a YAML file, a tree of options, or a resolved configuration.
        options: overrides by dotted name, ``{"train.steps": 500, "seed": 1}``.
        out: the run directory; ``runs/RECIPE/DATE-TIME-sSEED`` by default.
        command: to record as the command.
        quiet: show no progress.
        data: the data set that the recipe describes, if it is already loaded.

    Returns:
        The completed run.

    Raises:
        ConfigError, DataError: options, networks and data do not fit each other; nothing was written.
        NotFiniteError: a loss or gradient is not finite.
        Interrupted: by a signal; a checkpoint was saved.
    """
    config = resolve(recipe, options)
    folder = Path(out or default_run_dir(config))
    if is_first_process():
        check_unused(folder)  # before data are read
    setup = Setup(config, data)
    folder = broadcast(setup.fabric, folder)  # its default contains the time at which the process started
    if setup.fabric.is_global_zero:
        run = Run.create(folder, config.to_dict())
        write_atomically(run.path / "command.txt", (command or "advae.train(…)") + "\n")
        write_json(run.path / "env.json", setup.environment())
    setup.fabric.barrier()
    return _fit(setup, Run(folder), resume=False, quiet=quiet)


def resume(
    folder: str | os.PathLike[str],
    *,
    options: Mapping[str, Any] | None = None,
    config: Config | None = None,
    quiet: bool = False,
    data: Dataset | None = None,
) -> Run:
    """Resume a run from its last checkpoint.

    Args:
        folder: the run directory.
        options: overrides, of ``RESUMABLE_OPTIONS`` only: ``{"train.steps": N}`` to train longer; learning rates and
            clipping, to get past a non-finite value; and where training runs.
        config: the result of :func:`resume_config`, instead of ``options``.
        config: the result of :func:`resume_config`, if the overrides are already resolved.
        quiet: show no progress.
        data: the run's data set, if it is already loaded.

    Raises:
        CheckpointError: there is no run or checkpoint, the checkpoint is corrupted, or the data have changed.
    """
    run = Run.open(folder)
    setup = Setup(config or resume_config(run, options or {}), data)
    checksum = run.env.get("data", {}).get("checksum")
    if checksum not in (None, setup.data.checksum):
        raise CheckpointError(
            "The data differ from those that this run was trained on.",
            given=f"checksum {setup.data.checksum}",
            expected=f"checksum {checksum}",
            fix="restore the data, or start a new run",
        )
    return _fit(setup, run, resume=True, quiet=quiet)


def _fit(setup: Setup, run: Run, *, resume: bool, quiet: bool) -> Run:
    """Run the training loop; no other process may work on the run."""
    lock = lock_folder(run.path) if setup.fabric.is_global_zero else nullcontext()
    with lock, isolated_torch_state(setup.config.seed, setup.fabric.device):
        trainer = Trainer(setup, run, resume=resume)
        trainer.fit(quiet)
        if trainer.exported_model is not None:  # in the memory format of a model that is read from its file
            trainer.exported_model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    setup.fabric.barrier()  # all processes see what the first one wrote
    return replace(run, trained_model=trainer.exported_model)


def train_or_resume(
    recipe: Recipe,
    *,
    options: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str],
    command: str = "",
    quiet: bool = False,
    data: Dataset | None = None,
) -> Run:
    """Return the completed run in ``out``: as it is, resumed if it was stopped, or trained as by :func:`train`.

    Files of a run that was killed before its first checkpoint are removed.
    """
    run = Run(Path(out))
    if not run.checkpoint().exists():
        _remove_started_run(run.path)
        return train(recipe, options=options, out=out, command=command, quiet=quiet, data=data)
    if is_finished(run):
        return run
    location = {key: value for key, value in (options or {}).items() if key in LOCATION_OPTIONS}
    return resume(out, options=location, quiet=quiet, data=data)


def is_finished(run: Run) -> bool:
    """Return whether a run has ended, by its last step or by early stopping, and its model was written since."""
    model_config = recovered_folder(run.path / "model") / "config.json"
    if not model_config.exists() or not (run.checkpoint() / STATE_FILE).exists():
        return False
    options, state = run.config["train"], read_json(run.checkpoint() / STATE_FILE)
    patience = options.get("patience", 0)
    stopped_early = 0 < patience <= state["validations_since_best"]
    if state["step"] < options["steps"] and not stopped_early:
        return False
    final = run.checkpoint("best") if patience and state["best"] is not None else run.checkpoint()
    return bool(read_json(model_config)["info"].get("step") == read_json(final / STATE_FILE)["step"])


def resume_config(run: Run, options: Mapping[str, Any]) -> Config:
    """Return the configuration of a run with overrides for resuming.

    Raises:
        CheckpointError: an option must not change, or more steps than ``train.steps`` are completed.
    """
    for key in options:
        if key not in RESUMABLE_OPTIONS:
            raise CheckpointError(
                "This option cannot change when a run is resumed.",
                given=f"--{key}",
                expected=", ".join(RESUMABLE_OPTIONS),
                fix="start a new run with the other value",
            )
    config = resolve(run.config, options)
    path = run.checkpoint() / STATE_FILE
    state = read_json(path) if path.exists() else {}
    completed = state.get("step") if isinstance(state, dict) else None  # loading reports corrupted files
    if isinstance(completed, int) and config.train.steps < completed:
        raise CheckpointError(
            f"Cannot resume: the run has already completed {completed:,} steps.",
            given=f"train.steps = {config.train.steps}",
            expected=f"{completed} or more",
            fix="start a new run",
        )
    return config


def default_run_dir(config: Config) -> Path:
    """Return ``runs/RECIPE/DATE-TIME-sSEED``."""
    return dated_run_dir(config.recipe or "unnamed", config.seed)


def dated_run_dir(name: str, seed: int) -> Path:
    """Return ``runs/NAME/DATE-TIME-sSEED``, which does not exist yet."""
    stem = f"{datetime.now():%Y%m%d-%H%M%S}-s{seed}"
    folder, count = Path("runs") / name / stem, 1
    while folder.exists():  # another run of the same seed started in the same second
        count += 1
        folder = folder.with_name(f"{stem}-{count}")
    return folder


def _remove_started_run(folder: Path) -> None:
    """Remove a run directory that contains only what is written before the first checkpoint."""
    prefixes = (
        CONFIG_FILE,
        "command.txt",
        "env.json",
        "metrics.jsonl",
        "metrics.csv",
        "tensorboard",
        "checkpoints",
    )
    if not folder.is_dir():
        return
    with lock_folder(folder):
        names = [path.name.removeprefix(".") for path in folder.iterdir() if path.name != LOCK_FILE]
        if names and all(name.startswith(prefixes) for name in names):
            shutil.rmtree(folder)
