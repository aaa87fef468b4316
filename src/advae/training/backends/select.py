"""Selection of the backend that runs training steps.

The choice depends on the device and on the number of remaining steps, never on measured time, so that the same run on
the same machine always gets the same backend. Compilation costs 15 to 110 ms per operation, once, and saves 3 µs or
more per operation and step (docs/reference/speed.md). Both are proportional to the number of operations. The number of
steps after which compilation pays for itself is therefore nearly independent of the network.

A compiled step is compared with the eager one on the first batch: losses must agree for the same seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advae.inductor import CompilationError
from advae.random import seeded
from advae.training.backends.compiled import CompiledBackend, preserve_buffers
from advae.training.distributed import all_reduce_max
from advae.training.gradients import GradientFn, GradientOutput
from advae.training.step import TrainStep

COMPILE_MIN_STEPS = 10_000
"""Remaining steps from which "auto" compiles on a CPU."""

CUDA_GRAPH_MIN_STEPS = 200
"""Remaining steps from which "auto" captures a CUDA graph; a capture takes as long as a few steps."""

BACKENDS = ("eager", "compile", "cuda-graph")

# Largest relative difference of a loss between backends that rounding can explain.
REL_TOL_FP32, REL_TOL_BF16 = 1e-3, 2e-2


@dataclass(frozen=True)
class BackendChoice:
    """The backend of a run, as recorded in env.json.

    Attributes:
        name: "eager", "compile" or "cuda-graph".
        reason: in words.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"backend: {self.name} ({self.reason})"


def select_backend(
    step: TrainStep,
    requested: str,
    get_batch: Callable[[], Tensor],
    remaining_steps: int,
    previous: str | None = None,
    log: Callable[[str], None] = lambda line: None,
    stage: Callable[[str], AbstractContextManager[Any]] = nullcontext,
) -> BackendChoice:
    """Select a backend; if it is "compile", compile the step's gradients and let the step use them.

    CUDA graphs are captured later, by :class:`advae.training.backends.cuda_graph.CUDAGraphStep`.

    Args:
        step: the training step; its weights and buffers, and the random state, do not change.
        requested: the option ``train.backend``.
        get_batch: returns a batch of observations.
        remaining_steps: number of steps to come.
        previous: the backend of a run that is resumed; "auto" keeps it, so that results are bit-identical.
        log: prints the choice and, before compilation starts, that it can take minutes.
        stage: shows, while its block lasts, that a step is compiled.
    """
    name, reason = requested, "requested"
    if requested == "auto":
        name, reason = (
            (previous, "as before") if previous in BACKENDS else auto_backend(step, remaining_steps)
        )
    if name == "cuda-graph" and (obstacle := _cuda_graph_obstacle(step)):
        name, reason = "compile", obstacle
    if name == "eager":
        return BackendChoice(name, reason)
    if name == "compile":
        log("compiling a step: seconds for small networks, minutes for large ones")
        with stage("compiling"):
            obstacle = _compile(step, get_batch().chunk(step.options.accumulation_steps)[0])
        if obstacle:
            name, reason = "eager", obstacle
    choice = BackendChoice(name, reason)
    log(str(choice))
    return choice


def auto_backend(step: TrainStep, remaining_steps: int) -> tuple[str, str]:
    """Return the backend of "auto" and the reason."""
    if not _cuda_graph_obstacle(step) and remaining_steps >= CUDA_GRAPH_MIN_STEPS:
        return "cuda-graph", f"auto: {CUDA_GRAPH_MIN_STEPS:,} steps or more on a GPU"
    if remaining_steps >= COMPILE_MIN_STEPS:
        return "compile", f"auto: {COMPILE_MIN_STEPS:,} steps or more"
    return "eager", f"auto: fewer than {COMPILE_MIN_STEPS:,} steps"


def _cuda_graph_obstacle(step: TrainStep) -> str:
    """Return why a step cannot be captured as a CUDA graph; empty if it can."""
    if step.fabric.device.type != "cuda":
        return "a CUDA graph needs a CUDA device"
    return "steps of several processes are not captured" if step.fabric.world_size > 1 else ""


def _compile(step: TrainStep, x: Tensor) -> str:
    """Compile the step's gradients; return why that is not possible, or an empty string."""
    eager, obstacle = step.gradient_fn, ""
    compiled = CompiledBackend(step.fabric, step.model, step.method, step.optimizers)
    try:
        for players in step.updates:
            compiled.compile(x, players)
            _check_equivalence(step, x, players, eager, compiled)
    except CompilationError as error:
        obstacle = " ".join(line.strip() for line in str(error).splitlines())
    finally:
        step.model.zero_grad(set_to_none=True)
    if all_reduce_max(step.fabric, bool(obstacle)):  # all processes use the same backend
        return obstacle or "another process cannot compile the step"
    step.gradient_fn = compiled
    return ""


def _check_equivalence(
    step: TrainStep, x: Tensor, players: Sequence[str], eager: GradientFn, compiled: GradientFn
) -> None:
    """Check that both backends give the same losses for the same seed.

    Raises:
        CompilationError: they differ, because the networks do not run the traced operations at every call.
    """
    with step.fabric.autocast():
        rel_tol = REL_TOL_BF16 if torch.is_autocast_enabled(x.device.type) else REL_TOL_FP32
    expected, actual = (_dry_run(step, x, players, fn).metrics for fn in (eager, compiled))
    for player in players:
        eager_loss, compiled_loss = float(expected[f"{player}:loss"]), float(actual[f"{player}:loss"])
        if not abs(eager_loss - compiled_loss) <= rel_tol * max(1.0, abs(eager_loss)):
            raise CompilationError(
                f"The compiled loss of {player} differs from the eager one.",
                given=f"{compiled_loss:.6g} compiled, {eager_loss:.6g} eager",
            )


def _dry_run(step: TrainStep, x: Tensor, players: Sequence[str], gradient_fn: GradientFn) -> GradientOutput:
    """Return an update's output with seed 0; buffers and the random state are restored."""
    with preserve_buffers(step.model), seeded(0, x.device):
        return gradient_fn(x, players, 1.0)
