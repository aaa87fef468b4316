"""Metrics on disk: metrics.jsonl line by line, metrics.csv from it, TensorBoard if asked for."""

from __future__ import annotations

import json
from typing import IO, Any

from advae.errors import ConfigError
from advae.io import write_atomically
from advae.run import Run


class Log:
    """Appends flat objects to a run's metrics.jsonl.

    Args:
        run: whose metrics.
        step: the step that training goes on from; later lines, of work that was lost, are dropped.
        tensorboard: write for TensorBoard as well.
    """

    def __init__(self, run: Run, step: int = 0, tensorboard: bool = False) -> None:
        self.run = run
        kept = [row for row in run.metrics() if row["step"] <= step]
        write_atomically(run.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in kept))
        self._file: IO[str] = (run.path / "metrics.jsonl").open("a")
        self._board: Any = _board(run) if tensorboard else None

    def write(self, step: int, split: str, seconds: float, values: dict[str, float]) -> None:
        """One line: ``values`` under ``SPLIT/…``, at ``step``, ``seconds`` after the start."""
        row = {"step": step, "split": split, "time": round(seconds, 3)}
        row |= {f"{split}/{key}": value for key, value in values.items()}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._board:
            for key, value in values.items():
                self._board.add_scalar(f"{split}/{key}", value, step)

    def close(self) -> None:
        """Close the files and write metrics.csv."""
        self._file.close()
        if self._board:
            self._board.close()
        self.run.write_csv()


def _board(run: Run) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError(
            "TensorBoard is not installed",
            remedy="pip install 'advae[tensorboard]', or set train.tensorboard to false",
        ) from None
    return SummaryWriter(str(run.path / "tensorboard"))
