"""The one loop, for every method, on a CPU or a GPU.

The noise of a step and its batches are functions of (seed, step, rank), so a run that stops at any step and
goes on has the same weights as one that never stopped.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from advae.data import BatchLoader
from advae.io import held, write_json
from advae.model import seeded
from advae.progress import Progress
from advae.random import mix_seeds
from advae.run import Run
from advae.training.backends.cuda_graph import Captured
from advae.training.backends.select import choose
from advae.training.checkpoint import average_of, load_checkpoint, save_checkpoint
from advae.training.distributed import any_of
from advae.training.logger import Log
from advae.training.memory import freed_memory_kept
from advae.training.products import fast_products
from advae.training.setup import Setup
from advae.training.sheets import write_sheet
from advae.training.signals import Interrupted, Interruption
from advae.training.step import Step
from advae.training.validation import Validation, watched

SHEET_IMAGES = 64
ASK_EVERY = 10  # steps between two questions of several processes whether one of them was told to stop


def fit(setup: Setup, run: Run, *, go_on: bool = False, quiet: bool = False) -> None:
    """Train to the configured step, from the start or from the run's last checkpoint.

    Raises:
        CheckpointError: another process is at it.
    """
    alone = held(run.path) if setup.fabric.is_global_zero else nullcontext()
    with (
        alone,
        freed_memory_kept(),
        fast_products(setup.fabric),
        seeded(setup.config.seed, setup.fabric.device),
    ):
        Fit(setup, run, go_on).main(quiet)
    setup.fabric.barrier()  # what the first process wrote is there for all


class Fit:
    """One training under way: its step function, position, and what it writes.

    Args:
        setup: data, networks and method.
        run: where everything is written.
        go_on: start from the run's last checkpoint.
    """

    def __init__(self, setup: Setup, run: Run, go_on: bool) -> None:
        self.config, self.options, self.run = setup.config, setup.config.train, run
        self.data, self.model, self.method = setup.data, setup.model, setup.method
        self.device = setup.fabric.device
        self.fabric, self.writes = setup.fabric, setup.fabric.is_global_zero
        self.step = Step(setup.fabric, self.model, self.method, self.options)
        self.captured: Captured | None = None
        self.validation = Validation(self.data, self.config.seed, self.device, self.fabric)
        self.position: dict[str, Any] = {"step": 0, "best": None, "worse": 0, "seconds": 0.0}
        if go_on:
            self.position |= {
                key: value
                for key, value in load_checkpoint(run.checkpoint(), self.step).items()
                if key in self.position
            }
            self.fabric.barrier()  # all have read it before it is replaced
            if self.writes:
                run.write_config(self.config.to_dict())
        self.batches = BatchLoader(
            self.data.train,
            self.options.batch_size,
            seed=self.config.seed,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
            device=str(self.device),
            workers=self.config.data.workers,
        )
        self._since = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time trained, over all sittings."""
        return self.position["seconds"] + time.monotonic() - self._since

    def main(self, quiet: bool) -> None:
        """Steps, with what is due after each."""
        start = self.position["step"]
        log = Log(self.run, start, self.options.tensorboard) if self.writes else None
        self.model.train()
        stream = self.batches.stream(start * self.step.batches)
        try:
            if start == 0:
                self._save(0)  # from here on a killed run can be resumed
            self._choose(start, quiet)
            with (
                Interruption() as stop,
                Progress(self.options.steps, start, quiet or not self.writes) as progress,
            ):
                for step in range(start, start if self._patient_enough else self.options.steps):
                    self._one(step, stream)
                    ended = self._after(step + 1, log, progress)
                    signum = self._signal(step + 1, stop)
                    if signum:
                        self._save(step + 1)
                        self.fabric.barrier()  # nobody ends the job before the first process has saved
                        raise Interrupted(signum)
                    if ended:
                        break
            self._save(self.position["step"])
        finally:
            if log:
                log.close()

    @property
    def _patient_enough(self) -> bool:
        """Whether the run has ended before its last step, or would now."""
        return bool(self.options.patience) and self.position["worse"] >= self.options.patience

    def _signal(self, done: int, stop: Interruption) -> int:
        """The signal that came, or 0. Several processes ask each other now and then, and stop after the same step."""
        if self.fabric.world_size == 1:
            return stop.signum or 0
        return any_of(self.fabric, stop.signum or 0) if done % ASK_EVERY == 0 else 0

    def _choose(self, start: int, quiet: bool) -> None:
        """Settle how steps are run, say so and record it; a run that goes on keeps to what it began with."""
        known, steps = self.run.env, self.options.steps
        before = known.get("step", {}).get("step", "eager" if start else None)
        told = say if self.writes and not quiet else _silent
        with seeded(self.config.seed, self.device):
            choice = choose(self.step, self.options.backend, self._batch, steps - start, before, told)
        if choice.step == "cuda-graph":
            self.captured = Captured(self.step, self.batches, self.data.preprocessing.apply, say)
        if choice.told:
            told(str(choice))
        if self.writes and (start == 0 or choice.step != before):
            write_json(self.run.path / "env.json", known | {"step": choice.record()})

    def _batch(self) -> Tensor:
        return self.data.preprocessing.apply(self.batches(0))

    def _one(self, step: int, stream: Iterator[Tensor]) -> None:
        reseed(mix_seeds(self.config.seed, step, self.fabric.global_rank), self.device)
        if self.captured is not None:
            self.captured(step, stream)
        else:
            self.step(step, lambda i: self.data.preprocessing.apply(next(stream)))
        self.position["step"] = step + 1

    def _after(self, done: int, log: Log | None, progress: Progress) -> bool:
        """What is due after ``done`` steps; true if training should end early."""
        shown: dict[str, float] = {}
        last = done == self.options.steps
        if done % self.options.log_every == 0 or last:
            self.step.raise_if_not_finite()
            shown = self.step.read_metrics()
            if log:
                log.write(done, "train", self.seconds, shown)
        ended = False
        if done % self.options.validate_every == 0 or last:
            found = self.validation(self.step.average.model, self.method)
            if log:
                log.write(done, "validation", self.seconds, found)
            ended = self._judge(done, watched(found, self.method))
            shown = shown | found
        if self.options.samples_every and (done % self.options.samples_every == 0 or last):
            self._sheet(done)
        if done % self.options.checkpoint_every == 0:
            self._save(done)
        if self.options.checkpoint_keep_every and done % self.options.checkpoint_keep_every == 0:
            self._save(done, f"step-{done:06d}")
        progress.update(done, shown)
        return ended

    def _judge(self, done: int, error: float | None) -> bool:
        """Keep the best so far; true once it has been the best for ``patience`` validations.

        While a warm-up goes on none is: the objective is another one, by which early models look good.
        """
        if error is None or self.method.kl_weight(done - 1) < 1:
            return False
        if self.position["best"] is None or error < self.position["best"]:
            self.position |= {"best": error, "worse": 0}
            self._save(done, "best")
        else:
            self.position["worse"] += 1
        return self._patient_enough

    def _sheet(self, done: int) -> None:
        if len(self.model.x_shape) == 3 and self.writes:
            images = self.step.average.model.sample(SHEET_IMAGES, seed=self.config.seed)
            write_sheet(
                self.run.path / "samples" / f"step-{done:06d}.png", self.data.preprocessing.to_gray(images)
            )

    def _save(self, done: int, name: str = "last") -> None:
        self.step.raise_if_not_finite()
        if not self.writes:
            return
        state = self.position | {"step": done, "seconds": self.seconds}
        save_checkpoint(self.run.path / "checkpoints" / name, self.step, state)
        if name == "last":
            self._export()

    def _export(self) -> None:
        """Write model/: the average as it is or, with early stopping, as it was at the best validation."""
        model, step = self.step.average.model, self.position["step"]
        if self.options.patience and self.position["best"] is not None:
            model = copy.deepcopy(model)
            tensors, step = average_of(self.run.checkpoint("best"))
            model.load_state_dict(tensors)
        model.info["step"] = step
        model.save_pretrained(self.run.path / "model")


def say(line: str) -> None:
    """A line for the person who watches."""
    print(line, file=sys.stderr, flush=True)


def _silent(line: str) -> None:
    """Nobody watches."""


def reseed(seed: int, device: torch.device) -> None:
    """Set the random state that a step draws its noise from."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
