"""Training, followed by evaluation and a report."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from advae.config import Config, choose_recipe, choose_recipe_for_source, data_options, resolve
from advae.data import Dataset, from_arrays, load_data
from advae.devices import find_device
from advae.errors import ConfigError
from advae.evaluation.eval_data import EvalData
from advae.evaluation.evaluate import evaluate_run
from advae.io import PathLike
from advae.progress import print_line, stage_progress
from advae.report import write_report
from advae.run import Run, check_unused
from advae.training import train as training
from advae.training.distributed import is_first_process
from advae.training.train import Recipe
from advae.training.train_options import duration_in_seconds


def train(
    recipe: Recipe | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    out: PathLike | None = None,
    data: Any = None,
    time: str | float | None = None,
    report: bool = True,
    quiet: bool = False,
    command: str = "",
) -> Run:
    """Train a recipe, evaluate the model and write a report, as the command ``advae train`` does.

    Trainings in threads of one process run one after the other; other threads must not use PyTorch's global random
    state meanwhile.

    Args:
        recipe: a recipe's name, a YAML file, a tree of options, or a resolved configuration; without one, the recipe
            that suits the data.
        options: overrides by dotted name, ``{"train.steps": 500, "seed": 1}``.
        out: the run directory; ``runs/RECIPE/DATE-TIME-sSEED`` by default.
        data: what to train on, in place of ``data.source``: whatever :func:`advae.data.from_arrays` takes (an array,
            tensor, data frame, PyTorch data set, or :class:`~advae.data.Dataset`).
        time: how long to train, ``"10m"`` or seconds: sets ``train.steps`` by the measured time of a step.
        report: whether to evaluate the model and to write ``report.html``.
        quiet: show no progress and no remarks.
        command: to record as the command.

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
    seconds = None if time is None else duration_in_seconds(time, options or {})
    if recipe is None:
        recipe = _choose(options or {}, data, quiet)
    config = resolve(recipe, options)
    folder = Path(out or training.default_run_dir(config))
    if is_first_process():
        check_unused(folder)  # before data are read
    data = _prepare(config, data, report, quiet)
    run = training.train(config, out=folder, data=data, time=seconds, quiet=quiet, command=command)
    return _finish(run, config, data, report, quiet)


def resume(
    folder: PathLike,
    *,
    options: Mapping[str, Any] | None = None,
    config: Config | None = None,
    data: Any = None,
    report: bool = True,
    quiet: bool = False,
) -> Run:
    """Resume a run from its last checkpoint, evaluate the model and write a report.

    Args:
        folder: the run directory.
        options: overrides, of ``RESUMABLE_OPTIONS`` only: ``{"train.steps": N}`` to train longer; learning rates and
            clipping, to get past a non-finite value; and where training runs.
        config: the result of :func:`advae.training.train.resume_config`, if the overrides are already resolved.
        data: the run's data, as of :func:`train`.
        report: whether to evaluate the model and to write ``report.html``.
        quiet: show no progress and no remarks.

    Raises:
        CheckpointError: there is no run or checkpoint, the checkpoint is corrupted, or the data have changed.
    """
    config = config or training.resume_config(Run.open(folder), options or {})
    data = _prepare(config, data, report, quiet)
    run = training.resume(folder, config=config, data=data, quiet=quiet)
    return _finish(run, config, data, report, quiet)


def _choose(options: Mapping[str, Any], data: Any, quiet: bool) -> str:
    """Return the recipe that suits the data, and say why.

    Raises:
        ConfigError: no data are named.
    """
    if data is not None:
        data = from_arrays(data, resolve({"data": {"preprocessing": "auto"}}, data_options(options)).data)
        choice = choose_recipe(data.x_shape, data.source)
    elif "data.source" in options:
        choice = choose_recipe_for_source(options)
    else:
        fix = "name a recipe, such as vae-digits (advae.recipes() lists all), or give data"
        raise ConfigError("Nothing to train.", expected="a recipe, data, or the option data.source", fix=fix)
    _log(str(choice), quiet)
    return choice.name


def _prepare(config: Config, data: Any, report: bool, quiet: bool) -> Dataset:
    """Return the data set, after its remarks; one that is too small to be evaluated is refused before training."""
    data = load_data(config.data) if data is None else from_arrays(data, config.data)
    for remark in data.remarks:
        _log(f"data: {remark}", quiet)
    if report:
        EvalData(data).check_min_size()
    return data


def _finish(run: Run, config: Config, data: Dataset, report: bool, quiet: bool) -> Run:
    """Evaluate the model and write the report, on all processes; data and weights stay in memory."""
    if report:
        _log("evaluating …", quiet)
        model = run.model(str(find_device(config.device, os.environ.get("LOCAL_RANK"))))
        evaluate_run(run, model, data, stage=stage_progress(quiet))
        _log("writing the report …", quiet)
        if is_first_process():
            write_report(run, model, data)
    return run


def _log(line: str, quiet: bool) -> None:
    if not quiet and is_first_process():
        print_line(line)
