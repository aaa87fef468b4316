"""Where inference starts: from a log joint density to a posterior, and to a run directory if one is asked for.

config.yaml, command.txt, env.json, metrics.jsonl, checkpoints/    as of any run
draws.npz, draws.nc       draws by name [fit, draw, …]; the second for ArviZ, where h5netcdf is installed
summary.json              every parameter in numbers, the evidence, the bounds, the verdict
eval/estimates.json       the checks
reference.npz, baselines.npz    draws of HMC and of normals to set beside them, where asked for
figures/, report.html
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from advae.data import mix
from advae.errors import CheckpointError, ConfigError
from advae.inference.fit import Fit
from advae.inference.hmc_reference import HMC, hmc
from advae.inference.implicit_posterior import Posterior
from advae.inference.infer_options import InferOptions
from advae.inference.parameters import Space
from advae.inference.posterior import LogLikelihood
from advae.inference.posterior_run import write_results
from advae.inference.target import LogJoint, Target, check
from advae.io import held, write_atomically, write_json
from advae.model import seeded
from advae.progress import Progress, Stage, stages
from advae.run import CONFIG, Run
from advae.training.checkpoint import read_state, write_state
from advae.training.environment import environment, find_device
from advae.training.logger import Log
from advae.training.memory import freed_memory_kept
from advae.training.signals import Interrupted, Interruption

LOG_EVERY, CHECKPOINT_EVERY = 50, 500
BASELINE_STEPS = 1000  # normals need no more
BASELINES = ("mean-field", "full-rank")


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
    reference: Literal["hmc"] | HMC | None = None,
    baselines: bool | None = None,
    resume: bool = False,
    command: str = "",
    source: Mapping[str, str] | None = None,
    quiet: bool = False,
    **options: Any,
) -> Posterior:
    """The posterior of any log joint density.

    Args:
        log_joint: takes every parameter by name, ``[S, *shape]`` each, to ``log p(data, θ) [S]``, in PyTorch.
        parameters: by name a shape, a constraint, or a constraint and a shape.
        family: "implicit", "noise-basis", "mean-field", "full-rank" or "flow".
        seed: of everything random: the same seed gives the same draws.
        data: tensors whose first axis are rows, by name. The log joint is given them by these names, and ``scale``:
            with ``minibatch`` only some rows, and their sum times scale stands for all.
        log_likelihood: parameters by name to ``log p(y_i | θ) [S, N]``, for ArviZ.
        device: cpu, cuda, cuda:N or auto; tensors that the log joint holds must be there too.
        out: a run directory to write; none by default.
        reference: "hmc" for a long run of Hamiltonian Monte Carlo beside it, or how long.
        baselines: fit normals as well, to set beside it; by default where a run directory is written.
        resume: go on in ``out`` where it stopped.
        command: what to record as the command.
        source: what to record of where the log joint comes from.
        quiet: show no progress.
        options: of :class:`InferOptions`: fits, steps, batch, rate, minibatch, dtype, …

    Raises:
        ConfigError: an option, a parameter or the log joint does not fit; nothing was trained.
        NotFiniteError: the log joint, or its gradient, was not finite.
        AdvaeError: the target is improper: draws run away.
        Interrupted: a signal came; with ``out`` a checkpoint was saved.
    """
    chosen = InferOptions.of({"family": family, **options})
    if reference not in (None, "hmc") and not isinstance(reference, HMC):
        raise ConfigError(f"there is no reference {reference!r}", expected="hmc, or none")
    target = Target(
        log_joint,
        Space(parameters),
        dtype=getattr(torch, chosen.dtype),
        device=find_device(device),
        data=data,
        rows=chosen.minibatch,
    )
    check(target, mix(seed, 9) % 2**31)
    config = {
        "inference": chosen.to_dict(),
        "parameters": target.space.describe(),
        "seed": seed,
        "source": dict(source or {}),
    }
    run = _opened(out, config, resume)
    posterior = _fitted(target, chosen, seed, run, command, resume, quiet, log_likelihood)
    stage = stages(quiet)
    if run is not None and resume and reference is None and (run.path / "summary.json").exists():
        return posterior  # it was finished before
    if reference is not None:
        lengths = reference if isinstance(reference, HMC) else HMC()
        with stage("Hamiltonian Monte Carlo", lengths.ticks) as tick:
            posterior.reference = hmc(target, lengths, mix(seed, 6) % 2**31, tick)
    if baselines or (baselines is None and run is not None):
        for name in BASELINES:
            posterior.baselines[name] = baseline(target, chosen, name, seed, stage)
    if run is not None:
        write_results(run, posterior, stage)
    return posterior


def baseline(target: Target, options: InferOptions, family: str, seed: int, stage: Stage) -> Posterior:
    """One normal fitted to the same target."""
    chosen = replace(options, family=family, fits=1, steps=BASELINE_STEPS)  # type: ignore[arg-type]
    with seeded(seed, target.device):
        fit = Fit(target, chosen, seed)
        with stage(f"{family} normal", fit.total) as tick:
            while fit.step < fit.total:
                fit.advance()
                tick(1)
    return Posterior(fit)


def _opened(out: str | os.PathLike[str] | None, config: dict[str, Any], resume: bool) -> Run | None:
    """The run directory, new or gone on with."""
    if out is None:
        if resume:
            raise ConfigError("there is nothing to go on with", remedy="name the run directory: out=DIR")
        return None
    if resume and (Path(out) / CONFIG).is_file():
        run = Run.open(out)
        if run.config != config:
            before = run.config
            differ = [key for key in config if config[key] != before.get(key)]
            raise CheckpointError(
                "a run goes on as it was configured",
                given=", ".join(f"another {key}" for key in differ),
                remedy="start a new run with other options, or after the file was edited",
            )
        return run
    return Run.create(out, config, verb="infer")


def _fitted(
    target: Target,
    options: InferOptions,
    seed: int,
    run: Run | None,
    command: str,
    resume: bool,
    quiet: bool,
    log_likelihood: LogLikelihood | None,
) -> Posterior:
    """Train to the end, from the start or from the last checkpoint; alone, where there is a run directory."""
    alone = nullcontext() if run is None else held(run.path)
    with alone, freed_memory_kept(), seeded(seed, target.device):
        fit = Fit(target, options, seed)
        posterior, before = Posterior(fit, log_likelihood), 0.0
        if run is not None and resume and run.checkpoint().is_dir():
            tensors, state = read_state(run.checkpoint())
            fit.load(tensors, state["step"])
            posterior.history, before = [(row[0], row[1]) for row in state["history"]], state["seconds"]
        if run is not None:
            _record(run, target, fit, command)
        began = time.monotonic()

        def seconds() -> float:
            return before + time.monotonic() - began

        log = Log(run, fit.step) if run is not None else None
        try:
            with Interruption() as stop, Progress(fit.total, fit.step, quiet, "inference") as progress:
                while fit.step < fit.total:
                    fit.advance()
                    last = fit.step == fit.total
                    if fit.step % LOG_EVERY == 0 or last:
                        progress.update(fit.step, _logged(fit, posterior, log, seconds()))
                    if run is not None and (
                        fit.step % CHECKPOINT_EVERY == 0 or last or stop.signum is not None
                    ):
                        _save(run, fit, posterior, seconds())
                    if stop.signum is not None and not last:
                        raise Interrupted(stop.signum)
        finally:
            if log is not None:
                log.close()
        posterior.seconds = seconds()
    return posterior


def _logged(fit: Fit, posterior: Posterior, log: Log | None, seconds: float) -> dict[str, float]:
    """Keep the newest figures, and give what progress shows."""
    values = {name: value.tolist() for name, value in fit.last.items()}
    if fit.phase != "settle" or fit.step == fit.total - fit.settle:
        posterior.history.append((fit.step, values["bound"]))
    found = {name: sum(each) / len(each) for name, each in values.items()}
    if log is not None:
        single = {f"bound/{i}": value for i, value in enumerate(values.get("bound", []))}
        log.write(fit.step, "train", seconds, {**found, **single})
    return found


def _save(run: Run, fit: Fit, posterior: Posterior, seconds: float) -> None:
    state = {"step": fit.step, "seconds": seconds, "history": posterior.history}
    write_state(run.path / "checkpoints" / "last", fit.state(), state)


def _record(run: Run, target: Target, fit: Fit, command: str) -> None:
    """What a run directory says of how it was made."""
    if not (run.path / "command.txt").exists():
        write_atomically(run.path / "command.txt", (command or "advae.infer(…)") + "\n")
    sizes = {"q": fit.q, **({"critic": fit.game.critic} if fit.game else {})}
    counts = {name: sum(w[0].numel() for w in stack.weights.values()) for name, stack in sizes.items()}
    about = {"rows": target.count, "parameters": target.space.describe()}
    write_json(run.path / "env.json", environment(target.device, fit.options.dtype, about, counts))
