"""Training from a recipe, and resuming from a run's last checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from shlex import quote
from typing import Any

import torch

from advae.config import Config, resolve
from advae.data import Dataset
from advae.devices import isolated_torch_state
from advae.errors import CheckpointError, ConfigError, WriteError
from advae.io import (
    LOCK_FILE,
    lock_folder,
    read_json,
    recovered_folder,
    remove_leftovers,
    remove_remains,
    write_atomically,
    write_json,
)
from advae.progress import format_estimate, print_line
from advae.run import CONFIG_FILE, Run, check_unused, is_only_started
from advae.training.benchmark import steps_in, time_step
from advae.training.checkpoint import STATE_FILE
from advae.training.distributed import broadcast, is_first_process
from advae.training.setup import Setup
from advae.training.train_options import duration_in_seconds
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

FOLDERS = {
    ".": r"config\.yaml|command\.txt|env\.json|metrics\.(jsonl|csv)|model",
    "checkpoints": r"last|best|step-\d+",
    "samples": r"step-\d+\.png",
}
"""What training writes: folders of a run, and regular expressions of the names in them."""


def train(
    recipe: Recipe,
    *,
    options: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    command: str = "",
    quiet: bool = False,
    data: Any = None,
    time: str | float | None = None,
) -> Run:
    """Train a recipe, without evaluation.

    Trainings in threads of one process run one after the other; other threads must not use PyTorch's global random
    state meanwhile.

    Args:
        recipe: a recipe's name, a YAML file, a tree of options, or a resolved configuration.
        options: overrides by dotted name, ``{"train.steps": 500, "seed": 1}``.
        out: the run directory; ``runs/RECIPE/DATE-TIME-sSEED`` by default.
        command: to record as the command.
        quiet: show no progress.
        data: the data set if it is already loaded, or examples in memory, as of :func:`advae.data.from_arrays`: they
            replace the recipe's ``data.source``.
        time: how long to train, ``"10m"`` or seconds. Sets ``train.steps`` by the measured time of a step, once, before
            training: the configuration that is saved has steps, not a time.

    Returns:
        The completed run.

    Raises:
        ConfigError, DataError: options, networks and data do not fit each other; nothing was written.
        NotFiniteError: a loss or gradient is not finite.
        WriteError: the disk is full; the last checkpoint stands.
        Interrupted: by a signal; a checkpoint was saved.
    """
    if out is not None and not os.fspath(out):
        raise ConfigError("The run directory has an empty name.", given="out = ''", fix="name a folder")
    config = resolve(recipe, options)
    folder = Path(out or default_run_dir(config))
    if is_first_process():
        check_unused(folder)  # before data are read
    seconds = None if time is None else duration_in_seconds(time, options or {})
    setup = Setup(config, data)
    if seconds is not None:
        _set_steps(setup, seconds, quiet)
    folder = broadcast(setup.fabric, folder)  # its default contains the time at which the process started
    return _fit(setup, folder, command=command or "advae.train(…)", quiet=quiet)


def resume(
    folder: str | os.PathLike[str],
    *,
    options: Mapping[str, Any] | None = None,
    config: Config | None = None,
    quiet: bool = False,
    data: Any = None,
) -> Run:
    """Resume a run from its last checkpoint; from the start if it was killed before the first one.

    Args:
        folder: the run directory.
        options: overrides, of ``RESUMABLE_OPTIONS`` only: ``{"train.steps": N}`` to train longer; learning rates and
            clipping, to get past a non-finite value; and where training runs.
        config: the result of :func:`resume_config`, if the overrides are already resolved.
        quiet: show no progress.
        data: the run's data set if it is already loaded; the same examples again if they were passed from Python.

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
    return _fit(setup, run.path, quiet=quiet)


def _fit(setup: Setup, folder: Path, *, command: str = "", quiet: bool) -> Run:
    """Run the training loop, of a new run if there is a command; no other process may work in the folder.

    Raises:
        WriteError: the disk is full; with how to resume.
    """
    is_writer = setup.fabric.is_global_zero
    lock = lock_folder(folder, create=bool(command)) if is_writer else nullcontext()
    try:
        with lock as check_folder, isolated_torch_state(setup.config.seed, setup.fabric.device):
            try:
                run = Run(folder, check_folder=check_folder)
                has_started = broadcast(setup.fabric, is_writer and _prepare_folder(setup, run, command))
                trainer = Trainer(setup, run, resume=has_started)
                trainer.fit(quiet)
            finally:
                if is_writer:
                    remove_remains(folder, FOLDERS, (LOCK_FILE, CONFIG_FILE))
    except WriteError as error:
        fix = f"{error.fix}; then resume the run: advae train --resume {quote(str(folder))}"
        raise WriteError("Training stopped: a file cannot be written.", given=error.given, fix=fix) from error
    if trainer.exported_model is not None:  # in the memory format of a model that is read from its file
        trainer.exported_model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    setup.fabric.barrier()  # all processes see what the first one wrote
    return Run(folder, trained_model=trainer.exported_model)


def _set_steps(setup: Setup, seconds: float, quiet: bool) -> None:
    """Set the number of steps to what a time is enough for on this machine."""
    per_step = time_step(setup)
    steps = steps_in(seconds, per_step)
    setup.config = replace(setup.config, train=replace(setup.config.train, steps=steps))
    if not quiet and setup.fabric.is_global_zero:
        print_line(f"{format_estimate(steps, 1 / per_step)}; the same run again: --train.steps {steps}")


def _prepare_folder(setup: Setup, run: Run, command: str) -> bool:
    """Write the first files of a run, or remove what a killed process left; return whether there is a checkpoint."""
    folder = run.path
    if command:
        check_unused(folder)
    _remove_leftovers(folder)
    has_started = not is_only_started(folder)
    if not has_started:
        if command:
            write_atomically(folder / "command.txt", command + "\n")
        write_json(folder / "env.json", setup.environment())
        run.write_config(setup.config.to_dict())  # last: with it the folder is a run that can be resumed
    return has_started


def _remove_leftovers(folder: Path) -> None:
    for name, pattern in FOLDERS.items():
        if (folder / name).is_dir():
            remove_leftovers(folder / name, pattern)


def train_or_resume(
    recipe: Recipe,
    *,
    options: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str],
    command: str = "",
    quiet: bool = False,
    data: Dataset | None = None,
) -> Run:
    """Return the completed run in ``out``: as it is, resumed if it was stopped, or trained as by :func:`train`."""
    if not Path(out).is_dir() or is_only_started(Path(out)):
        return train(recipe, options=options, out=out, command=command, quiet=quiet, data=data)
    run = Run.open(out)
    if is_finished(run):
        with suppress(CheckpointError), lock_folder(out):  # unless another process works there
            _remove_leftovers(run.path)
            if not (run.path / "metrics.csv").exists():
                run.write_metrics_csv()
        return run
    location = {key: value for key, value in (options or {}).items() if key in LOCATION_OPTIONS}
    return resume(out, options=location, quiet=quiet, data=data)


def is_finished(run: Run) -> bool:
    """Return whether a run has ended, by its last step or by early stopping, and its model was written since."""
    model_config = recovered_folder(run.path / "model") / "config.json"
    if not model_config.exists() or not (run.checkpoint() / STATE_FILE).exists():
        return False
    options, state = resolve(run.config).train, read_json(run.checkpoint() / STATE_FILE)
    patience = options.patience
    stopped_early = 0 < patience <= state["validations_since_best"]
    if state["step"] < options.steps and not stopped_early:
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
