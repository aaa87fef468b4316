"""The one loop: every method, on a CPU or a GPU, from a recipe to a run directory.

The noise of a step and its batches are functions of (seed, step, rank), so a run that stops at any step and
goes on has the same weights as one that never stopped.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from advae.data import Batches, Dataset, check, load_data, mix
from advae.errors import CheckpointError
from advae.files import read_json, write_atomically, write_json
from advae.methods import METHODS, Method
from advae.model import LatentModel, build_model, seeded
from advae.run import Run
from advae.training.checkpoint import STATE, average_of, load_checkpoint, save_checkpoint
from advae.training.config import Config, resolve
from advae.training.environment import environment, find_device
from advae.training.interruption import Interrupted, Interruption
from advae.training.log import Log
from advae.training.progress import Progress
from advae.training.sheets import write_sheet
from advae.training.step import Step
from advae.training.validation import Validation

SHEET_IMAGES = 64


def train(
    recipe: str | os.PathLike[str] | Mapping[str, Any],
    *,
    options: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    command: str = "",
    quiet: bool = False,
) -> Run:
    """Train a recipe.

    Args:
        recipe: a recipe's name, a YAML file, or a tree of options.
        options: overrides by dotted name, ``{"train.steps": 500, "seed": 1}``.
        out: the run directory; ``runs/RECIPE/DATE-TIME-sSEED`` without it.
        command: what to record as the command.
        quiet: show no progress.

    Returns:
        The run, finished.

    Raises:
        ConfigError, DataError: something does not fit; nothing was written.
        NotFiniteError: a loss or gradient was not finite.
        Interrupted: a signal came; a checkpoint was saved.
    """
    config = resolve(recipe, options)
    trainer = Trainer(config)
    run = Run.create(out or default_folder(config), config.to_dict())
    write_atomically(run.path / "command.txt", (command or "advae.train(…)") + "\n")
    write_json(run.path / "env.json", trainer.environment())
    trainer.fit(run, quiet=quiet)
    return run


def resume(
    folder: str | os.PathLike[str], *, options: Mapping[str, Any] | None = None, quiet: bool = False
) -> Run:
    """Go on with a run from its last checkpoint.

    Args:
        folder: the run directory.
        options: ``{"train.steps": N}`` to train longer than was asked for at first. Beside it only what helps
            a run over a number that was not finite (rates, clipping) and where the work is done may change.
        quiet: show no progress.

    Raises:
        CheckpointError: no run, no checkpoint, a damaged one, or other data than before.
    """
    run = Run.open(folder)
    _only_what_may_change(options or {})
    config = resolve(run.config, options)
    trainer = Trainer(config)
    before = run.env.get("data", {}).get("checksum")
    if before not in (None, trainer.data.checksum):
        raise CheckpointError(
            "the data are not the ones this run was trained on",
            given=f"checksum {trainer.data.checksum}",
            expected=f"checksum {before}",
            remedy="put the data back, or start a new run",
        )
    trainer.fit(run, go_on=True, quiet=quiet)
    return run


MAY_CHANGE = (
    "train.steps",
    "train.rate",
    "train.critic_rate",
    "train.clip",
    "device",
    "data.source",
    "data.workers",
    "train.checkpoint_every",
    "train.keep_every",
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
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = Path("runs") / (config.recipe or "unnamed") / f"{stamp}-s{config.seed}"
    taken = 1
    while folder.exists():  # another run of the same seed began in the same second
        taken += 1
        folder = folder.with_name(f"{stamp}-s{config.seed}-{taken}")
    return folder


class Trainer:
    """What a configuration amounts to, before any step: data, networks, method, all checked.

    Args:
        config: a resolved configuration.

    Raises:
        ConfigError, DataError: the parts do not fit each other.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        device = find_device(config.device)
        self.fabric = Fabric(
            accelerator=device.type,
            devices=[device.index] if device.type == "cuda" else 1,
            precision="bf16-mixed" if config.train.precision == "bf16" else "32-true",
        )
        self.method: Method = METHODS.build(config.method)
        self.data: Dataset = load_data(config.data)
        with seeded(config.seed, self.fabric.device):
            self.model = self._build()
            check(self.data, support_of(self.model), config.train.batch)
            self.method.check(self.model)

    def _build(self) -> LatentModel:
        info = {
            "recipe": self.config.recipe,
            "method": self.method.spec(),
            "data": self.data.describe(),
            "seed": self.config.seed,
        }
        model = build_model(self.config.model, self.data.x_shape, self.method.critics, info)
        return model.to(self.fabric.device)

    def parameters(self) -> dict[str, int]:
        """How many weights each network has."""
        networks = {"encoder": self.model.encoder, "decoder": self.model.decoder}
        networks |= {f"critic {role}": net for role, net in self.model.critics.items()}
        return {name: sum(p.numel() for p in net.parameters()) for name, net in networks.items()}

    def environment(self) -> dict[str, Any]:
        """What env.json says."""
        return environment(self.fabric.device, self.data.describe(), self.parameters())

    def fit(self, run: Run, *, go_on: bool = False, quiet: bool = False) -> None:
        """Train to the configured step, from the start or from the run's last checkpoint."""
        with seeded(self.config.seed, self.fabric.device):
            Fit(self, run, go_on).main(quiet)


def support_of(model: LatentModel) -> str:
    """The values that the model's likelihood can score."""
    return getattr(getattr(model.decoder, "head", None), "support", "real")


class Fit:
    """One training under way: its step function, position, and what it writes.

    Args:
        trainer: data, networks and method.
        run: where everything is written.
        go_on: start from the run's last checkpoint.
    """

    def __init__(self, trainer: Trainer, run: Run, go_on: bool) -> None:
        self.config, self.options, self.run = trainer.config, trainer.config.train, run
        self.data, self.model, self.method = trainer.data, trainer.model, trainer.method
        self.device = trainer.fabric.device
        self.step = Step(trainer.fabric, self.model, self.method, self.options)
        self.validation = Validation(self.data, self.config.seed, self.device)
        self.position: dict[str, Any] = {"step": 0, "best": None, "worse": 0, "seconds": 0.0}
        if go_on:
            self.position |= {
                key: value
                for key, value in load_checkpoint(run.checkpoint(), self.step).items()
                if key in self.position
            }
            run.write_config(self.config.to_dict())
        self.batches = Batches(
            self.data.train,
            self.options.batch,
            seed=self.config.seed,
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
        log = Log(self.run, start, self.options.tensorboard)
        self.model.train()
        stream = self.batches.stream(start * self.step.batches)
        try:
            if start == 0:
                self._save(0)  # from here on a killed run can be resumed
            with Interruption() as stop, Progress(self.options.steps, start, quiet) as progress:
                for step in range(start, self.options.steps):
                    self._one(step, stream)
                    ended = self._after(step + 1, log, progress)
                    if stop.signum is not None:
                        self._save(step + 1)
                        raise Interrupted(stop.signum)
                    if ended:
                        break
            self._save(self.position["step"])
        finally:
            log.close()

    def _one(self, step: int, stream: Iterator[Tensor]) -> None:
        reseed(mix(self.config.seed, step, 0), self.device)
        self.step(step, lambda i: self.data.protocol.observe(next(stream)))
        self.position["step"] = step + 1

    def _after(self, done: int, log: Log, progress: Progress) -> bool:
        """What is due after ``done`` steps; true if training should end early."""
        shown: dict[str, float] = {}
        last = done == self.options.steps
        if done % self.options.log_every == 0 or last:
            self.step.guard.raise_if_found()
            shown = self.step.read_metrics()
            log.write(done, "train", self.seconds, shown)
        ended = False
        if done % self.options.validate_every == 0 or last:
            found = self.validation(self.step.average.model, self.method)
            log.write(done, "validation", self.seconds, found)
            ended = self._judge(done, found["error"])
            shown = shown | found
        if self.options.samples_every and (done % self.options.samples_every == 0 or last):
            self._sheet(done)
        if done % self.options.checkpoint_every == 0:
            self._save(done)
        if self.options.keep_every and done % self.options.keep_every == 0:
            self._save(done, f"step-{done:06d}")
        progress.update(done, shown)
        return ended

    def _judge(self, done: int, error: float) -> bool:
        """Keep the best so far; true once it has been the best for ``patience`` validations."""
        if self.position["best"] is None or error < self.position["best"]:
            self.position |= {"best": error, "worse": 0}
            self._save(done, "best")
        else:
            self.position["worse"] += 1
        return bool(self.options.patience) and self.position["worse"] >= self.options.patience

    def _sheet(self, done: int) -> None:
        if len(self.model.x_shape) == 3:
            images = self.step.average.model.sample(SHEET_IMAGES, seed=self.config.seed)
            write_sheet(
                self.run.path / "samples" / f"step-{done:06d}.png", self.data.protocol.to_grey(images)
            )

    def _save(self, done: int, name: str = "last") -> None:
        self.step.guard.raise_if_found()
        state = self.position | {"step": done, "seconds": self.seconds}
        save_checkpoint(self.run.path / "checkpoints" / name, self.step, state)
        if name == "last":
            self._export()

    def _export(self) -> None:
        """Write model/: the average as it is or, with early stopping, as it was at the best validation."""
        model = self.step.average.model
        if self.options.patience and self.position["best"] is not None:
            model = copy.deepcopy(model)
            model.load_state_dict(average_of(self.run.checkpoint("best")))
            model.info["step"] = read_json(self.run.checkpoint("best") / STATE)["step"]
        else:
            model.info["step"] = self.position["step"]
        model.save_pretrained(self.run.path / "model")


def reseed(seed: int, device: torch.device) -> None:
    """Set the random state that a step draws its noise from."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
