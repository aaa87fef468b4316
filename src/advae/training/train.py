"""Where training starts: from a recipe to a run directory, or on from a run's last checkpoint."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from advae.config import Config, resolve
from advae.data import Dataset
from advae.errors import CheckpointError
from advae.io import held, read_json, recovered_folder, write_atomically, write_json
from advae.run import CONFIG, Run, refuse_used
from advae.training.checkpoint import STATE
from advae.training.distributed import agreed, first_process
from advae.training.setup import Setup
from advae.training.trainer import fit


def train(
    recipe: str | os.PathLike[str] | Mapping[str, Any],
    *,
    options: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    command: str = "",
    quiet: bool = False,
    data: Dataset | None = None,
) -> Run:
    """Train a recipe.

    Args:
        recipe: a recipe's name, a YAML file, or a tree of options.
        options: overrides by dotted name, ``{"train.steps": 500, "seed": 1}``.
        out: the run directory; ``runs/RECIPE/DATE-TIME-sSEED`` without it.
        command: what to record as the command.
        quiet: show no progress.
        data: what the recipe's data options describe, where that was read already.

    Returns:
        The run, finished.

    Raises:
        ConfigError, DataError: something does not fit; nothing was written.
        NotFiniteError: a loss or gradient was not finite.
        Interrupted: a signal came; a checkpoint was saved.
    """
    config = resolve(recipe, options)
    folder = Path(out or default_folder(config))
    if first_process():
        refuse_used(folder)  # before the data are read
    setup = Setup(config, data)
    folder = agreed(setup.fabric, folder)  # a name made of the time is that of the first process
    if setup.fabric.is_global_zero:
        run = Run.create(folder, config.to_dict())
        write_atomically(run.path / "command.txt", (command or "advae.train(…)") + "\n")
        write_json(run.path / "env.json", setup.environment())
    setup.fabric.barrier()
    run = Run(folder)
    fit(setup, run, quiet=quiet)
    return run


def resume(
    folder: str | os.PathLike[str],
    *,
    options: Mapping[str, Any] | None = None,
    quiet: bool = False,
    data: Dataset | None = None,
) -> Run:
    """Go on with a run from its last checkpoint.

    Args:
        folder: the run directory.
        options: ``{"train.steps": N}`` to train longer than was asked for at first. Beside it only what helps
            a run over a number that was not finite (rates, clipping) and where the work is done may change.
        quiet: show no progress.
        data: what the run's data options describe, where that was read already.

    Raises:
        CheckpointError: no run, no checkpoint, a damaged one, or other data than before.
    """
    run = Run.open(folder)
    config = continued(run, options or {})
    setup = Setup(config, data)
    before = run.env.get("data", {}).get("checksum")
    if before not in (None, setup.data.checksum):
        raise CheckpointError(
            "the data are not the ones this run was trained on",
            given=f"checksum {setup.data.checksum}",
            expected=f"checksum {before}",
            remedy="put the data back, or start a new run",
        )
    fit(setup, run, go_on=True, quiet=quiet)
    return run


def continued(run: Run, options: Mapping[str, Any]) -> Config:
    """The configuration that a run would go on with.

    Raises:
        CheckpointError: something is to change that may not, or fewer steps are asked for than were done.
    """
    _only_what_may_change(options)
    config = resolve(run.config, options)
    _not_done(run, config.train.steps)
    return config


def completed(
    recipe: str | os.PathLike[str] | Mapping[str, Any],
    *,
    options: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str],
    command: str = "",
    quiet: bool = False,
    data: Dataset | None = None,
) -> Run:
    """The run in ``out``, finished: as it is, gone on with if it was stopped, else trained as by :func:`train`.

    What a start left that was killed before its first checkpoint holds no work, and makes way.
    """
    out = Path(out)
    if not Run(out).checkpoint().exists():
        _clear_start(out)
        return train(recipe, options=options, out=out, command=command, quiet=quiet, data=data)
    if finished(Run(out)):
        return Run(out)
    where = {key: value for key, value in (options or {}).items() if key in WHERE}
    return resume(out, options=where, quiet=quiet, data=data)


def finished(run: Run) -> bool:
    """Whether a run has come to its end, by its last step or by stopping early, and its model is of that end."""
    model = recovered_folder(run.path / "model") / "config.json"
    if not model.exists() or not (run.checkpoint() / STATE).exists():
        return False
    options, state = run.config["train"], read_json(run.checkpoint() / STATE)
    patience = options.get("patience", 0)
    if state["step"] < options["steps"] and not (patience and state["worse"] >= patience):
        return False
    end = run.checkpoint("best") if patience and state["best"] is not None else run.checkpoint()
    return bool(read_json(model)["info"].get("step") == read_json(end / STATE)["step"])


def _clear_start(folder: Path) -> None:
    """Remove what a run writes before its first checkpoint, whole or in part, if there is nothing else."""
    begun = (CONFIG, "command.txt", "env.json", "metrics.jsonl", "metrics.csv", "tensorboard", "checkpoints")
    if not folder.is_dir():
        return
    with held(folder):
        names = [path.name.removeprefix(".") for path in folder.iterdir()]
        if names and all(name.startswith(begun) for name in names):
            shutil.rmtree(folder)


WHERE = ("device", "data.source", "data.workers")
"""Options that say where the work is done, and change nothing of what comes of it."""

MAY_CHANGE = (
    "train.steps",
    "train.lr",
    "train.critic_lr",
    "train.grad_clip",
    "train.max_skipped_steps",
    "train.backend",
    *WHERE,
    "train.checkpoint_every",
    "train.checkpoint_keep_every",
)


def _not_done(run: Run, steps: int) -> None:
    """See that a run has not gone beyond ``steps`` already.

    Raises:
        CheckpointError: it has.
    """
    path = run.checkpoint() / STATE
    state = read_json(path) if path.exists() else {}
    done = (
        state.get("step") if isinstance(state, dict) else None
    )  # a damaged one is refused when it is loaded
    if isinstance(done, int) and steps < done:
        raise CheckpointError(
            "the run has gone further already",
            given=f"train.steps {steps:,} after {done:,} steps",
            expected=f"{done:,} or more",
            remedy="start a new run for fewer",
        )


def _only_what_may_change(options: Mapping[str, Any]) -> None:
    for key in options:
        if key not in MAY_CHANGE:
            raise CheckpointError(
                "a run goes on as it was configured",
                given=f"--{key}",
                expected=f"only {', '.join(MAY_CHANGE)} may change on resume",
                remedy="start a new run with the other option",
            )


def default_folder(config: Config) -> Path:
    """``runs/RECIPE/DATE-TIME-sSEED``."""
    return dated_folder(config.recipe or "unnamed", config.seed)


def dated_folder(name: str, seed: int) -> Path:
    """``runs/NAME/DATE-TIME-sSEED``, which does not exist yet."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = Path("runs") / name / f"{stamp}-s{seed}"
    taken = 1
    while folder.exists():  # another run of the same seed began in the same second
        taken += 1
        folder = folder.with_name(f"{stamp}-s{seed}-{taken}")
    return folder
