"""The training loop, for every method and device.

Noise and batches are functions of (seed, step, rank). A run that is stopped after any step and resumed therefore ends
with the same weights as an uninterrupted one.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from advae.data import BatchLoader
from advae.io import write_atomically, write_json
from advae.model import LatentModel
from advae.progress import Progress, print_line
from advae.random import mix_seeds, reseed, seeded
from advae.run import Run
from advae.tiling import grid_png
from advae.training.backends.cuda_graph import CUDAGraphStep
from advae.training.backends.select import select_backend
from advae.training.checkpoint import load_checkpoint, load_ema_tensors, save_checkpoint
from advae.training.distributed import all_reduce_max
from advae.training.setup import Setup
from advae.training.signals import Interrupted, SignalHandler
from advae.training.step import TrainStep
from advae.training.training_metrics import MetricsLogger
from advae.training.validation import Validation, early_stopping_loss

NUM_SAMPLES = 64  # in each grid of samples
SIGNAL_CHECK_INTERVAL = 10  # steps between two exchanges of received signals among several processes


@dataclass
class TrainingState:
    """Position of a run, as stored in checkpoints.

    Attributes:
        step: number of completed steps.
        best: lowest early stopping loss so far.
        validations_since_best: number of validations after the best one.
        seconds: training time so far.
    """

    step: int = 0
    best: float | None = None
    validations_since_best: int = 0
    seconds: float = 0.0


class Trainer:
    """Trains a model and writes metrics, samples, checkpoints and the averaged model to a run directory.

    Args:
        setup: device, data, networks and method.
        run: the run directory.
        resume: start from the run's last checkpoint.
    """

    def __init__(self, setup: Setup, run: Run, *, resume: bool = False) -> None:
        self.config, self.options, self.run = setup.config, setup.config.train, run
        self.data, self.model, self.method = setup.data, setup.model, setup.method
        self.fabric, self.device = setup.fabric, setup.fabric.device
        self.is_writer = setup.fabric.is_global_zero
        self.step = TrainStep(setup.fabric, self.model, self.method, self.options)
        self.graph_step: CUDAGraphStep | None = None
        self.validation = Validation(self.data, self.config.seed, self.device, self.fabric)
        self.state = TrainingState()
        if resume:
            self._load_checkpoint()
        self.loader = BatchLoader(
            self.data.train,
            self.options.batch_size,
            seed=self.config.seed,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
            device=str(self.device),
            workers=self.config.data.workers,
        )
        self.exported_model: LatentModel | None = None
        self._start_time = time.monotonic()

    def fit(self, quiet: bool = False) -> None:
        """Train until the last step, or until early stopping.

        Raises:
            NotFiniteError: a loss or gradient is not finite.
            Interrupted: by a signal, after a checkpoint was saved.
            WriteError: the disk is full; the last checkpoint stands.
            CheckpointError: the run directory was removed or moved.
        """
        first_step = self.state.step
        quiet = quiet or not self.is_writer
        self.model.train()
        batches = self.loader.stream(first_step * len(self.step.updates))
        log_metrics = (
            MetricsLogger(self.run, first_step, self.options.tensorboard) if self.is_writer else None
        )
        with log_metrics or nullcontext() as logger:
            if first_step == 0:
                self._save_checkpoint("last")  # from here on a killed run continues after its last checkpoint
            with Progress(self.options.steps, first_step, quiet, estimate=True) as progress:
                with progress.preparing("preparing"):
                    self._select_backend(quiet, progress)
                with SignalHandler() as signals:
                    while self.state.step < self.options.steps and not self._out_of_patience:
                        self._run_step(self.state.step, batches)
                        progress.update(self.state.step, self._after_step(logger))
                        self._stop_on_signal(signals)
            self._save_checkpoint("last")

    def _run_step(self, step: int, batches: Iterator[Tensor]) -> None:
        reseed(mix_seeds(self.config.seed, step, self.fabric.global_rank), self.device)
        if self.graph_step is not None:
            self.graph_step(step, batches)
        else:
            self.step(step, lambda i: self.data.preprocessing.apply(next(batches)))
        self.state.step = step + 1

    def _after_step(self, logger: MetricsLogger | None) -> dict[str, float]:
        """Log, validate, sample and save where due; return the metrics to show."""
        step, options = self.state.step, self.options
        is_last = step == options.steps
        displayed_metrics: dict[str, float] = {}
        if step % options.log_every == 0 or is_last:
            self.step.raise_if_not_finite()
            displayed_metrics = self.step.metrics.pop_means()
            if logger:
                logger.write(step, "train", self.seconds, displayed_metrics)
        if step % options.validate_every == 0 or is_last:
            metrics = self.validation(self.step.ema.model, self.method)
            if logger:
                logger.write(step, "validation", self.seconds, metrics)
            self._update_best(early_stopping_loss(metrics, self.method))
            displayed_metrics = displayed_metrics | metrics
        if options.samples_every and (step % options.samples_every == 0 or is_last):
            self._write_samples()
        if options.checkpoint_keep_every and step % options.checkpoint_keep_every == 0:
            self._save_checkpoint(f"step-{step:06d}")  # before "last", which is resumed from after a kill
        if step % options.checkpoint_every == 0:
            self._save_checkpoint("last")
        return displayed_metrics

    # --- stopping -------------------------------------------------------------------------------------------------

    @property
    def _out_of_patience(self) -> bool:
        return 0 < self.options.patience <= self.state.validations_since_best

    def _update_best(self, loss: float | None) -> None:
        """Save the best checkpoint so far. Validations during KL warm-up do not count: the objective is different."""
        if loss is None or self.method.kl_weight(self.state.step - 1) < 1:
            return
        if self.state.best is None or loss < self.state.best:
            self.state.best, self.state.validations_since_best = loss, 0
            self._save_checkpoint("best")
        else:
            self.state.validations_since_best += 1

    def _stop_on_signal(self, signals: SignalHandler) -> None:
        """Save and stop if a signal was received; several processes stop after the same step."""
        signum = signals.signum or 0
        if self.fabric.world_size > 1:
            is_due = self.state.step % SIGNAL_CHECK_INTERVAL == 0
            signum = all_reduce_max(self.fabric, signum) if is_due else 0
        if signum:
            self._save_checkpoint("last")
            self.fabric.barrier()  # no process ends the job before the first one has saved
            raise Interrupted(signum)

    # --- backend --------------------------------------------------------------------------------------------------

    def _select_backend(self, quiet: bool, progress: Progress) -> None:
        """Select how steps are run, and record it; a resumed run keeps its backend."""
        env = self.run.env
        is_resumed = self.state.step > 0
        previous = env.get("backend", {}).get("name", "eager" if is_resumed else None)
        log = (lambda line: None) if quiet else print_line
        with seeded(self.config.seed, self.device):
            remaining_steps = self.options.steps - self.state.step
            choice = select_backend(
                self.step,
                self.options.backend,
                self._first_batch,
                remaining_steps,
                previous,
                log,
                progress.preparing,
            )
        if choice.name == "cuda-graph":
            self.graph_step = CUDAGraphStep(self.step, self.loader, self.data.preprocessing.apply, print_line)
        if self.is_writer and (not is_resumed or choice.name != previous):
            write_json(self.run.file("env.json"), env | {"backend": asdict(choice)})

    def _first_batch(self) -> Tensor:
        return self.data.preprocessing.apply(self.loader(0))

    # --- files ----------------------------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """Training time so far, over all sessions of the run."""
        return self.state.seconds + time.monotonic() - self._start_time

    def _load_checkpoint(self) -> None:
        stored = load_checkpoint(self.run.checkpoint(), self.step)
        self.state = TrainingState(**{key: stored[key] for key in asdict(self.state)})
        self.fabric.barrier()  # all processes have read it before it is replaced
        if self.is_writer:
            self.run.write_config(self.config.to_dict())

    def _save_checkpoint(self, name: str) -> None:
        self.step.raise_if_not_finite()
        if not self.is_writer:
            return
        state: dict[str, Any] = asdict(self.state) | {"seconds": self.seconds}
        save_checkpoint(self.run.file("checkpoints", name), self.step, state)
        if name == "last":
            self._export_model()

    def _export_model(self) -> None:
        """Write the averaged model; with early stopping, that of the best validation."""
        model, step = self.step.ema.model, self.state.step
        if self.options.patience and self.state.best is not None:
            model = copy.deepcopy(model)
            tensors, step = load_ema_tensors(self.run.checkpoint("best"))
            model.load_state_dict(tensors)
        model.info["step"] = step
        model.save_pretrained(self.run.file("model"))
        self.exported_model = model

    def _write_samples(self) -> None:
        if len(self.model.x_shape) == 3 and self.is_writer:
            x = self.step.ema.model.sample(NUM_SAMPLES, seed=self.config.seed)
            images = self.data.preprocessing.to_gray(x).cpu().numpy()
            write_atomically(self.run.file("samples", f"step-{self.state.step:06d}.png"), grid_png(images))
