"""Variational inference for a log joint density, with an optional run directory.

config.yaml, command.txt, env.json, metrics.jsonl, checkpoints/    as in every run directory
draws.npz, draws.nc       samples by name [fit, draw, …]; the second for ArviZ, if it is installed
summary.json              all parameters, the evidence, the ELBOs, the verdict
eval/estimates.json       the diagnostics
reference.npz, baselines.npz    samples of HMC and of normal families for comparison, if requested
figures/, report.html
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from advae.devices import environment_info, find_device
from advae.errors import CheckpointError, ConfigError, first_line
from advae.inference.export import write_results
from advae.inference.fit import VariationalFit
from advae.inference.hmc_reference import HMCConfig, sample_hmc
from advae.inference.infer_options import Family, InferOptions
from advae.inference.parameters import ParameterSpace
from advae.inference.posterior import LogLikelihood, Posterior
from advae.inference.target import LogJoint, Target, check_target
from advae.io import (
    LOCK_FILE,
    lock_folder,
    remove_leftovers,
    remove_remains,
    write_atomically,
    write_json,
)
from advae.progress import Progress, StageProgress, stage_progress
from advae.random import mix_seeds, seeded
from advae.run import CONFIG_FILE, Run, check_unused
from advae.training.checkpoint import read_state, write_state
from advae.training.signals import Interrupted, SignalHandler
from advae.training.training_metrics import MetricsLogger

LOG_INTERVAL, CHECKPOINT_INTERVAL = 50, 500  # steps
NUM_BASELINE_STEPS = 1000  # enough for normals
FOLDERS = {
    ".": r"[\w-]+\.(yaml|txt|json|jsonl|csv|npz|nc|html)",
    "checkpoints": "last",
    "eval": r"estimates\.json",
    "figures": r"[\w-]+\.png",
}
"""What infer writes: folders of a run, and regular expressions of the names in them."""
BASELINE_FAMILIES: tuple[Family, ...] = ("mean-field", "full-rank")


@torch.inference_mode(False)
@torch.enable_grad()
def infer(
    log_joint: LogJoint,
    parameters: Mapping[str, Any],
    *,
    family: str = "implicit",
    seed: int = 0,
    data: Mapping[str, Tensor] | None = None,
    log_likelihood: LogLikelihood | None = None,
    device: str = "cpu",
    out: str | os.PathLike[str] | None = None,
    reference: Literal["hmc"] | HMCConfig | None = None,
    baselines: bool | None = None,
    resume: bool = False,
    command: str = "",
    source: Mapping[str, str] | None = None,
    quiet: bool = False,
    **options: Any,
) -> Posterior:
    """Fit a posterior to a log joint density.

    Args:
        log_joint: maps all parameters by name, ``[S, *shape]`` each, to ``log p(data, θ) [S]``, in PyTorch.
        parameters: by name a shape, a constraint, or a constraint and a shape.
        family: "implicit", "noise-basis", "mean-field", "full-rank" or "flow".
        seed: of all random numbers: the same seed gives the same samples.
        data: tensors by name whose first axis is rows. The log joint receives them as keyword arguments, with
            ``scale``: with ``minibatch_size`` it receives only some rows, and their sum times scale estimates the sum
            over all.
        log_likelihood: maps parameters by name to ``log p(y_i | θ) [S, N]``, for ArviZ.
        device: cpu, cuda, cuda:N or auto; tensors inside the log joint must be on it too.
        out: run directory to write; none by default.
        reference: "hmc" (or a config) for Hamiltonian Monte Carlo as a reference.
        baselines: also fit normal families for comparison; by default if a run directory is written.
        resume: continue the run in ``out``.
        command: recorded in the run directory.
        source: of the log joint, recorded in the run directory.
        quiet: show no progress.
        options: of :class:`InferOptions`: fits, steps, samples_per_step, lr, minibatch_size, dtype, …

    Raises:
        ConfigError: an option, a parameter or the log joint is invalid; nothing was trained.
        NotFiniteError: the log joint or its gradient is not finite.
        AdvaeError: the target is improper: samples diverge.
        WriteError: the disk is full; the last checkpoint stands.
        Interrupted: by a signal; with ``out`` a checkpoint was saved.
    """
    infer_options = InferOptions.from_dict({"family": family, **options})
    if reference not in (None, "hmc") and not isinstance(reference, HMCConfig):
        raise ConfigError(f"There is no reference {reference!r}.", expected="hmc, or none")
    target = Target(
        log_joint,
        ParameterSpace(parameters),
        dtype=getattr(torch, infer_options.dtype),
        device=find_device(device),
        data=data,
        minibatch_size=infer_options.minibatch_size,
    )
    check_target(target, mix_seeds(seed, 9) % 2**31)
    config = {
        "inference": infer_options.to_dict(),
        "parameters": target.space.to_dict(),
        "seed": seed,
        "source": dict(source or {}),
    }
    stage = stage_progress(quiet)
    with _open_run(out, config, resume) as run:
        posterior = _fit_posterior(target, infer_options, seed, run, command, quiet, log_likelihood)
        is_finished = run is not None and resume and (run.path / "report.html").exists()
        if is_finished and reference is None:
            return posterior
        if reference is not None:
            hmc_config = reference if isinstance(reference, HMCConfig) else HMCConfig()
            with stage("Hamiltonian Monte Carlo", hmc_config.num_transitions) as tick:
                posterior.reference = sample_hmc(target, hmc_config, mix_seeds(seed, 6) % 2**31, tick)
        if baselines or (baselines is None and run is not None):
            for name in BASELINE_FAMILIES:
                posterior.baselines[name] = _fit_baseline(target, infer_options, name, seed, stage)
        if run is not None:
            write_results(run, posterior, stage)
    return posterior


def _fit_baseline(
    target: Target, options: InferOptions, family: Family, seed: int, stage: StageProgress
) -> Posterior:
    options = replace(options, family=family, fits=1, steps=NUM_BASELINE_STEPS)
    with seeded(seed, target.device):
        fit = VariationalFit(target, options, seed)
        with stage(f"{family} normal", fit.total_steps) as tick:
            while fit.step < fit.total_steps:
                fit.advance()
                tick(1)
    return Posterior(fit)


@contextmanager
def _open_run(
    out: str | os.PathLike[str] | None, config: dict[str, Any], resume: bool
) -> Iterator[Run | None]:
    """Yield a run directory, new or to resume, in which no other process works within the block."""
    if out is None or not os.fspath(out):
        if resume or out is not None:
            raise ConfigError("The run directory has no name.", fix="name it: out=DIR")
        yield None
        return
    folder = Path(out)
    is_resumed = resume and (folder / CONFIG_FILE).is_file()
    with lock_folder(folder, create=not is_resumed) as check_folder:
        run = Run(folder, check_folder=check_folder)
        if is_resumed:
            _check_config(Run.open(folder).config, config)
        else:
            check_unused(folder, verb="infer FILE")
            run.write_config(config)
        for name, pattern in FOLDERS.items():
            if (folder / name).is_dir():
                remove_leftovers(folder / name, pattern)
        try:
            yield run
        finally:
            remove_remains(folder, FOLDERS, (LOCK_FILE, CONFIG_FILE))


def _check_config(saved: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    changed = [key for key in config if config[key] != saved.get(key)]
    if changed or len(saved) != len(config):
        raise CheckpointError(
            "Cannot resume a run with a different configuration.",
            given=f"different {', '.join(changed)}",
            fix="start a new run, or restore the file and the options of this one",
        )


def _fit_posterior(
    target: Target,
    options: InferOptions,
    seed: int,
    run: Run | None,
    command: str,
    quiet: bool,
    log_likelihood: LogLikelihood | None,
) -> Posterior:
    """Train to the end, from the start or from the run's last checkpoint."""
    with seeded(seed, target.device):
        fit = VariationalFit(target, options, seed)
        posterior = Posterior(fit, log_likelihood)
        if run is not None:
            if run.checkpoint().is_dir():
                _load_checkpoint(run, fit, posterior)
            _write_provenance(run, target, fit, command)
        _train(fit, posterior, run, quiet)
    return posterior


def _train(fit: VariationalFit, posterior: Posterior, run: Run | None, quiet: bool) -> None:
    """Train to the end, with progress, metrics and checkpoints."""
    start = time.monotonic() - posterior.seconds
    with (
        nullcontext() if run is None else MetricsLogger(run, fit.step) as logger,
        SignalHandler() as signals,
        Progress(fit.total_steps, fit.step, quiet, "inference") as progress,
    ):
        while fit.step < fit.total_steps:
            fit.advance()
            posterior.seconds = time.monotonic() - start
            is_last = fit.step == fit.total_steps
            interrupted = signals.signum is not None
            if fit.step % LOG_INTERVAL == 0 or is_last:
                progress.update(fit.step, _log_metrics(fit, posterior, logger))
            if run is not None and (fit.step % CHECKPOINT_INTERVAL == 0 or is_last or interrupted):
                _save_checkpoint(run, fit, posterior)
            if signals.signum is not None and not is_last:
                raise Interrupted(signals.signum)


def _log_metrics(fit: VariationalFit, posterior: Posterior, logger: MetricsLogger | None) -> dict[str, float]:
    """Record the metrics of the last step, and return their means over fits."""
    per_fit = {name: value.tolist() for name, value in fit.metrics.items()}
    elbo = per_fit.get("elbo", [])  # none in the last phase, in which only the critic is trained
    if elbo:
        posterior.history.append((fit.step, elbo))
    means = {name: sum(values) / len(values) for name, values in per_fit.items()}
    if logger is not None:
        per_fit_elbo = {f"elbo/{i}": value for i, value in enumerate(elbo)}
        logger.write(fit.step, "train", posterior.seconds, {**means, **per_fit_elbo})
    return means


def _save_checkpoint(run: Run, fit: VariationalFit, posterior: Posterior) -> None:
    state = {"step": fit.step, "seconds": posterior.seconds, "history": posterior.history}
    write_state(run.file("checkpoints", "last"), fit.state(), state)


def _load_checkpoint(run: Run, fit: VariationalFit, posterior: Posterior) -> None:
    tensors, state = read_state(run.checkpoint())
    try:
        fit.load_state(tensors, int(state["step"]))
        posterior.history = [(int(step), list(elbos)) for step, elbos in state["history"]]
        posterior.seconds = float(state["seconds"])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError("Checkpoint does not fit the posterior.", given=first_line(error)) from None


def _write_provenance(run: Run, target: Target, fit: VariationalFit, command: str) -> None:
    """Write command.txt and env.json."""
    if not (run.path / "command.txt").exists():
        write_atomically(run.file("command.txt"), (command or "advae.infer(…)") + "\n")
    num_weights = {"q": fit.q.num_weights()}
    if fit.critic_trainer is not None:
        num_weights["critic"] = fit.critic_trainer.critic.num_weights()
    data = {"rows": target.num_rows, "parameters": target.space.to_dict()}
    write_json(run.file("env.json"), environment_info(target.device, fit.options.dtype, data, num_weights))
