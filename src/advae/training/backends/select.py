"""Which way a step is run, and why: eager, or compiled where that pays.

Compiling costs time once, and saves some in every step. Both grow with the number of operations in a step, so after
how many steps it has paid hardly depends on the network. A run shorter than that stays eager without a trial. In a
longer one the compiled step is made, compared with the eager one on the first batch (the same losses for the same
seed), timed against it, and used if it is the faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor

from advae.inductor import CannotCompile
from advae.training.backends.compiled import Compiled
from advae.training.distributed import agreed, any_of
from advae.training.gradients import Take, Taken
from advae.training.step import Step

PAYS_AFTER = 10_000
"""Steps after which compiling has paid for itself, on one core: 20 to 30 ms an operation against 3 µs or more a step
(docs/speed.md). With a compiler's cache, that of an earlier run, it has so much sooner."""

CAPTURE_PAYS_AFTER = 200
"""Steps after which capturing a step has paid: it takes as long as a few steps do."""

WAYS = ("eager", "compile", "cuda-graph")
TRIALS, SECONDS = 12, 2.0  # of each way: at most so many steps, and so long
CLOSE, CLOSE_IN_BF16 = (
    1e-3,
    2e-2,
)  # two ways to compute a loss may differ by this much of it, by rounding alone


@dataclass(frozen=True)
class Choice:
    """How steps are run.

    Attributes:
        step: "eager", "compile" or "cuda-graph".
        why: in words.
        seconds: what compiling took, a compiled step and an eager one; empty where nothing was measured.
        told: whether a person should be told, as something was tried, or is not as it was asked for.
    """

    step: str
    why: str
    seconds: dict[str, float] = field(default_factory=dict)
    told: bool = True

    def record(self) -> dict[str, Any]:
        """For env.json."""
        return {"step": self.step, "why": self.why, "seconds": self.seconds}

    def __str__(self) -> str:
        return f"step: {self.step} ({self.why})"


def choose(
    step: Step,
    wanted: str,
    draw: Callable[[], Tensor],
    steps: int,
    before: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Choice:
    """Make ``step`` run as wanted, or as near to it as this machine can.

    A graph is made by :class:`advae.training.backends.cuda_graph.Captured`; of it this only says whether it can be had.

    Args:
        step: is made to run so.
        wanted: what ``train.backend`` says.
        draw: gives a batch of observations to try with; weights, buffers and the random state are left as they are.
        steps: how many are to come.
        before: how an earlier sitting of the same run went; "auto" goes on so, for the same weights to the bit.
        say: told before compiling begins, which can take minutes.
    """
    why = "asked for"
    if wanted == "auto" and before in WAYS:
        wanted, why = before, "as this run began"
    if wanted == "auto":
        wanted, why = _picked(step, steps)
    if wanted == "cuda-graph":
        missing = _no_graph(step)
        if not missing:
            return Choice("cuda-graph", why)
        wanted, why = "compile", f"{missing}; this is the next best"
    if wanted == "eager":
        return Choice("eager", why, told=False)
    say(
        "compiling a step: some seconds for small networks, minutes for large ones (--train.backend eager goes without)"
    )
    return _compile(step, draw().chunk(step.options.accumulation_steps)[0], why)


def _picked(step: Step, steps: int) -> tuple[str, str]:
    """What "auto" stands for, and why; without a reason, compiling is to show that it is faster."""
    if not _no_graph(step) and steps >= CAPTURE_PAYS_AFTER:
        return "cuda-graph", "on a GPU launching kernels one by one takes longer than most of them"
    if steps < PAYS_AFTER:
        return "eager", f"compiling pays from {PAYS_AFTER:,} steps on"
    return "compile", ""


def _no_graph(step: Step) -> str:
    """Why no CUDA graph of a step can be made; empty if it can."""
    if step.fabric.device.type != "cuda":
        return "capturing a step needs a CUDA device"
    return "a step of several processes is not captured" if step.fabric.world_size > 1 else ""


def _compile(step: Step, x: Tensor, why: str) -> Choice:
    """Compile and, without a reason to insist, keep it only if it is faster."""
    eager, began = step.take, time.perf_counter()
    compiled, failed = Compiled(step.fabric, step.model, step.method, step.players), ""
    try:
        for names in step.moves:
            compiled.prepare(x, names)
            _agree(step, x, names, eager, compiled)
    except CannotCompile as error:
        failed = " ".join(line.strip() for line in str(error).splitlines())
    finally:
        _forget(step)
    if any_of(step.fabric, bool(failed)):  # of several processes all go one way
        return Choice("eager", failed or "another process cannot compile it")
    took = time.perf_counter() - began
    if why:
        step.take = compiled
        return Choice("compile", why, {"compiling": took})
    slow, fast = agreed(step.fabric, _timed(step, x, eager, compiled))
    seconds = {"compiling": took, "eager": slow, "compile": fast}
    said = f"{1000 * fast:.3g} ms for the gradients of a step, {1000 * slow:.3g} ms eagerly; {took:.0f} s to compile"
    if fast >= slow:
        return Choice("eager", f"compiled, it is not faster: {said}", seconds)
    step.take = compiled
    return Choice("compile", said, seconds)


def _agree(step: Step, x: Tensor, names: Sequence[str], eager: Take, compiled: Take) -> None:
    """See that both give the same losses for the same seed.

    Raises:
        CannotCompile: they do not; what was recorded is not what the networks do every time.
    """
    with step.fabric.autocast():
        close = CLOSE_IN_BF16 if torch.is_autocast_enabled(x.device.type) else CLOSE
    a, b = (_tried(step, x, names, take).terms for take in (eager, compiled))
    for name in names:
        one, other = float(a[f"{name}:loss"]), float(b[f"{name}:loss"])
        if not abs(one - other) <= close * max(1.0, abs(one)):
            raise CannotCompile(
                f"compiled, the loss of {name} is another than eagerly", given=f"{other:.6g}, not {one:.6g}"
            )


def _tried(step: Step, x: Tensor, names: Sequence[str], take: Take, seed: int = 0) -> Taken:
    """A move's gradients, of which nothing remains but what is returned."""
    before = [buffer.clone() for buffer in step.model.buffers()]
    with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
        torch.manual_seed(seed)
        taken = take(x, names, 1.0)
    with torch.no_grad():
        for buffer, value in zip(step.model.buffers(), before, strict=True):
            buffer.copy_(value)
    return taken


def _timed(step: Step, x: Tensor, *takes: Take) -> list[float]:
    """Median seconds of each for the moves of a step, taken in turns."""
    found: list[list[float]] = [[] for _ in takes]
    alone = step.fabric.world_size == 1  # several processes must try equally often
    while len(found[0]) < TRIALS and not (alone and sum(found[0]) > SECONDS):
        for take, times in zip(takes, found, strict=True):
            began = time.perf_counter()
            for names in step.moves:
                _tried(step, x, names, take)
            if x.device.type == "cuda":
                torch.cuda.synchronize(x.device)
            times.append(time.perf_counter() - began)
            _forget(step)
    return [median(times) for times in found]


def _forget(step: Step) -> None:
    """Leave no gradients behind."""
    for parameter in step.model.parameters():
        parameter.grad = None
