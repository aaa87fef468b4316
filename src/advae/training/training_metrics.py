"""Metrics of training: sums on the device, and rows on disk.

Metrics are accumulated on the device, and updates stop at the first non-finite value, without a host sync per step. The
number of operations per update is small, because captured steps of small networks spend most of their time on launches.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from advae.errors import AdvaeError, ConfigError, NotFiniteError
from advae.io import write_atomically, write_errors
from advae.run import Run

if TYPE_CHECKING:
    from lightning_fabric.loggers import TensorBoardLogger

Players = tuple[str, ...]


class MetricAccumulator:
    """Sums of scalar metrics per update and name.

    The first non-finite metric enters its sum as it is, and nothing is added after it. That identifies it later, when
    the host reads the sums. Metrics of skipped updates are not added.

    Args:
        device: where metrics are computed.
        max_skipped: how many updates may be skipped; the next non-finite one stops all updates.

    Attributes:
        nonfinite_flag: scalar on the device; an update is skipped while it is not zero.
    """

    def __init__(self, device: torch.device, max_skipped: int = 0) -> None:
        def scalar(value: float = 0.0) -> Tensor:
            return torch.full((), value, dtype=torch.float32, device=device)

        self._max_skipped = float(max_skipped)
        self.nonfinite_flag = scalar()
        self._halted = scalar() if max_skipped else self.nonfinite_flag
        self._skips_left = scalar(self._max_skipped) if max_skipped else None
        self._updates_since_halt = scalar()  # including the update that halted
        self._zero = scalar()
        self._stored: dict[Players, dict[str, Tensor]] = {}  # of a checkpoint, until the next update
        self._names: dict[Players, tuple[str, ...]] = {}
        self._sums: dict[Players, Tensor] = {}
        self._counts: Counter[Players] = Counter()

    @torch.no_grad()
    def add(self, players: Players, metrics: dict[str, Tensor]) -> None:
        """Add the metrics of an update of ``players``; set the flag if one of them is not finite."""
        values = torch.stack(list(metrics.values()))
        if players not in self._sums:
            stored, zero = self._stored.pop(players, {}), torch.zeros(2)
            sums = [float(stored.get(name, zero)[0]) for name in metrics]
            self._names[players] = tuple(metrics)
            self._sums[players] = torch.tensor(sums, dtype=values.dtype, device=values.device)
        total = values.sum()
        is_bad, is_ignored = (total - total) != 0, self._halted > 0
        if self._skips_left is None:
            torch.maximum(self.nonfinite_flag, is_bad.to(torch.float32), out=self.nonfinite_flag)
        else:
            self._skips_left.sub_(is_bad.to(torch.float32))
            is_over = self._skips_left < 0
            is_ignored = is_ignored | (is_bad & ~is_over)
            torch.maximum(self._halted, is_over.to(torch.float32), out=self._halted)
            torch.maximum(self._halted, is_bad.to(torch.float32), out=self.nonfinite_flag)
        self._updates_since_halt.add_(self._halted)
        # In place: a captured step adds to this tensor at every replay.
        self._sums[players].add_(torch.where(is_ignored, self._zero, values))

    @property
    def num_skipped(self) -> Tensor:
        """Number of updates skipped so far, where skipping is allowed."""
        if self._skips_left is None:
            return torch.zeros((), dtype=torch.float32)
        return self._max_skipped - self._skips_left

    @num_skipped.setter
    def num_skipped(self, count: Tensor) -> None:
        if self._skips_left is not None:
            self._skips_left.fill_(self._max_skipped - count.item())

    def state(self) -> dict[str, Tensor]:
        """Return the sums since the last :meth:`pop_means`, each with its number of updates ``[2]``, by name."""
        state = {
            f"{'+'.join(players)}/{name}": torch.tensor([total, self._counts[players]], dtype=torch.float64)
            for players, sums in self._sums.items()
            if self._counts[players]
            for name, total in zip(self._names[players], sums.tolist(), strict=True)
        }
        stored = {
            f"{'+'.join(players)}/{name}": v for players, d in self._stored.items() for name, v in d.items()
        }
        return state | stored

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue the sums that :meth:`state` returned, before the first update."""
        for key, value in state.items():
            players, _, name = key.partition("/")
            self._stored.setdefault(tuple(players.split("+")), {})[name] = value
            self._counts[tuple(players.split("+"))] = int(value[1])

    def count(self, players: Players) -> None:
        """Count on the host that an update's metrics were added."""
        self._counts[players] += 1

    def raise_if_halted(self, step: int, updates_per_step: int) -> None:
        """Raise if a non-finite metric stopped the updates. Synchronizes with the device.

        Args:
            step: the last step that was started.
            updates_per_step: number of updates in each step.

        Raises:
            NotFiniteError: naming metric, player and step.
        """
        if not self._halted.item():
            return
        name, player = self._first_nonfinite()
        number = step + 1 - math.ceil(self._updates_since_halt.item() / updates_per_step)
        raise NotFiniteError(
            f"Training stopped: {name} of player {player!r} is not finite at step {number}.",
            expected="finite values; the weights were not updated",
            fix="lower train.lr or train.critic_lr, set train.grad_clip, raise a minimum scale, or allow skipped"
            " updates (train.max_skipped_steps); then continue from the last checkpoint with --resume",
        )

    def _first_nonfinite(self) -> tuple[str, str]:
        """Return name and player of the first non-finite metric."""
        for players, sums in self._sums.items():
            for key, value in zip(self._names[players], sums.tolist(), strict=True):
                if not math.isfinite(value):
                    player, _, name = key.partition(":")
                    return name, player
        return "the sum of the metrics", "model"  # each of them is finite, but their sum overflows

    def pop_means(self) -> dict[str, float]:
        """Return means since the last call by slash-separated name, and reset. Synchronizes with the device."""
        totals: dict[str, float] = {}
        counts: Counter[str] = Counter()
        for players, sums in self._sums.items():
            for name, value in zip(map(_metric_name, self._names[players]), sums.tolist(), strict=True):
                totals[name] = totals.get(name, 0.0) + value
                counts[name] += self._counts[players]  # a player may be updated several times per step
            sums.zero_()
        self._counts.clear()
        return {name: total / counts[name] for name, total in totals.items() if counts[name]}


def _metric_name(key: str) -> str:
    """Return the logged name: ``model:loss`` is ``loss/model``; ``model:kl`` is ``kl``."""
    player, _, name = key.partition(":")
    return f"{name}/{player}" if name in ("loss", "gradient") else name


class MetricsLogger:
    """Appends metrics to a run's metrics.jsonl, in a block, and writes metrics.csv at its end.

    Args:
        run: the run.
        step: the step that training starts from; rows of later steps, whose work was lost, are removed.
        tensorboard: also write for TensorBoard, which ignores values of later steps from then on.
    """

    def __init__(self, run: Run, step: int = 0, tensorboard: bool = False) -> None:
        self.run = run
        rows = [row for row in run.metrics() if row["step"] <= step]
        write_atomically(run.file("metrics.jsonl"), "".join(json.dumps(row) + "\n" for row in rows))
        self._tensorboard = _tensorboard_logger(run, step) if tensorboard else None

    def __enter__(self) -> MetricsLogger:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        if kind is None:
            self.close()
        else:
            with suppress(AdvaeError):  # the error that is being handled says more
                self.close()

    def write(self, step: int, split: str, seconds: float, metrics: dict[str, float]) -> None:
        """Write one row: ``metrics`` under ``SPLIT/…`` at ``step``, ``seconds`` after the start."""
        named = {f"{split}/{key}": value for key, value in metrics.items()}
        path = self.run.file("metrics.jsonl")
        with write_errors(path):
            with path.open("a") as file:
                row = {"step": step, "split": split, "time": round(seconds, 3), **named}
                file.write(json.dumps(row) + "\n")
            if self._tensorboard:
                self._tensorboard.log_metrics(named, step)

    def close(self) -> None:
        """Close TensorBoard's files and write metrics.csv."""
        if self._tensorboard:
            with write_errors(self.run.path / "tensorboard"):
                self._tensorboard.finalize("success")
        self.run.write_metrics_csv()


def _tensorboard_logger(run: Run, step: int) -> TensorBoardLogger:
    from lightning_fabric.loggers import TensorBoardLogger

    try:
        return TensorBoardLogger(run.path, "tensorboard", version="", purge_step=step + 1 if step else None)
    except ModuleNotFoundError:
        raise ConfigError(
            "TensorBoard is not installed.",
            fix="pip install 'advae[tensorboard]', or set train.tensorboard to false",
        ) from None
