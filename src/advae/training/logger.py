"""Metrics on disk: metrics.jsonl, metrics.csv and TensorBoard."""

from __future__ import annotations

import json
from typing import IO

from lightning_fabric.loggers import TensorBoardLogger

from advae.errors import ConfigError
from advae.io import write_atomically
from advae.run import Run


class MetricsLogger:
    """Appends metrics to a run's metrics.jsonl.

    Args:
        run: the run.
        step: the step that training starts from; lines of later steps, whose work was lost, are removed.
        tensorboard: also write for TensorBoard.
    """

    def __init__(self, run: Run, step: int = 0, tensorboard: bool = False) -> None:
        self.run = run
        rows = [row for row in run.metrics() if row["step"] <= step]
        write_atomically(run.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        self._file: IO[str] = (run.path / "metrics.jsonl").open("a")
        self._tensorboard = _tensorboard_logger(run) if tensorboard else None

    def write(self, step: int, split: str, seconds: float, metrics: dict[str, float]) -> None:
        """Write one line: ``metrics`` under ``SPLIT/…`` at ``step``, ``seconds`` after the start."""
        named = {f"{split}/{key}": value for key, value in metrics.items()}
        self._file.write(
            json.dumps({"step": step, "split": split, "time": round(seconds, 3), **named}) + "\n"
        )
        self._file.flush()
        if self._tensorboard:
            self._tensorboard.log_metrics(named, step)

    def close(self) -> None:
        """Close the files and write metrics.csv."""
        self._file.close()
        if self._tensorboard:
            self._tensorboard.finalize("success")
        self.run.write_metrics_csv()


def _tensorboard_logger(run: Run) -> TensorBoardLogger:
    try:
        return TensorBoardLogger(run.path, name="tensorboard", version="")
    except ModuleNotFoundError:
        raise ConfigError(
            "TensorBoard is not installed.",
            fix="pip install 'advae[tensorboard]', or set train.tensorboard to false",
        ) from None
