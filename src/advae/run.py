"""Run directories: what a training run writes, and how to read it.

config.yaml     the resolved configuration; it can be trained again
command.txt     the command
env.json        versions, device, checksum of the data
metrics.jsonl   one JSON object per line; the same as metrics.csv
samples/        grids of samples during training
checkpoints/    last, best, and every N steps: for resuming
model/          the averaged model
eval/           estimates, and arrays per example
figures/, report.html
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, ClassVar

import yaml

from advae.errors import CheckpointError
from advae.io import (
    LOCK_FILE,
    PathLike,
    check_kinds,
    leftover_of,
    path_inside,
    read_json_object,
    read_text,
    recovered_folder,
    write_atomically,
    write_json,
    write_npz,
)
from advae.safe_yaml import read_yaml

if TYPE_CHECKING:
    from advae.model import LatentModel

CONFIG_FILE = "config.yaml"
STARTED_FILES = {
    CONFIG_FILE,
    "command.txt",
    "env.json",
    "metrics.jsonl",
    "metrics.csv",
    "tensorboard",
    "checkpoints",
}
"""What a run writes before its first checkpoint."""

_TRAINED_SINCE = "The last evaluation is not shown: the run was trained further. Run advae evaluate again."
_OLDER_VERSION = "The last evaluation is not shown: an older version wrote it. Run advae evaluate again."


@dataclass(frozen=True)
class Run:
    """A run directory that exists.

    Attributes:
        path: the directory.
        trained_model: the model as it is in memory after training, for :meth:`model`; None for a run that was opened.
        check_folder: raises if the directory is not the one that training started in; None outside of training.
        eval_folder: name of the folder of the last evaluation in it.
    """

    path: Path
    trained_model: LatentModel | None = field(default=None, repr=False, compare=False)
    check_folder: Callable[[], None] | None = field(default=None, repr=False, compare=False)
    eval_folder: ClassVar[str] = "eval"

    @classmethod
    def open(cls, path: PathLike) -> Run:
        """Return the run at ``path``, which may be a link itself.

        Raises:
            CheckpointError: it is not a run directory; or a link leads out of it, or it contains a pipe or device.
        """
        path = Path(path)
        if not (path / CONFIG_FILE).is_file():
            what = "Folder is not a run directory." if path.exists() else "Run directory does not exist."
            is_model = (path / "model.safetensors").is_file()
            fix = (
                "evaluate a saved model in Python: advae.evaluate(advae.load(path), data)"
                if is_model
                else None
            )
            expected = f"a folder with {CONFIG_FILE}, from advae train"
            raise CheckpointError(what, given=path, expected=expected, fix=fix)
        check_kinds(path)
        return cls(path)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def file(self, *parts: str) -> Path:
        """Return the path of a file of the run, to write it.

        Raises:
            CheckpointError: the run directory was removed or moved, or a link leads out of it.
        """
        if self.check_folder is not None:
            self.check_folder()
        return path_inside(self.path, *parts)

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        path = self.path / CONFIG_FILE
        return _with_sections(
            read_yaml(path, CheckpointError), path, "data", "model", "method", "train", "inference"
        )

    def write_config(self, config: dict[str, Any]) -> None:
        """Write config.yaml, which makes a folder a run.

        Raises:
            CheckpointError: the run directory was removed meanwhile; the file is then not left in its place.
        """
        path = self.path / CONFIG_FILE
        write_atomically(path, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        if self.check_folder is not None:
            try:
                self.check_folder()
            except CheckpointError:
                path.unlink(missing_ok=True)
                raise

    @property
    def env(self) -> dict[str, Any]:
        """Versions, device and data, as recorded when training started."""
        path = self.path / "env.json"
        sections = "versions", "data", "parameters", "backend"
        return _with_sections(read_json_object(path), path, *sections) if path.exists() else {}

    @property
    def command(self) -> str:
        """The command that started the run, or an empty string."""
        path = self.path / "command.txt"
        return read_text(path).strip() if path.exists() else ""

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl, without a line that was cut off by a kill.

        Raises:
            CheckpointError: a line has no step, or a value is not a number or a string.
        """
        path = self.path / "metrics.jsonl"
        rows = []
        for line in path.read_bytes().splitlines() if path.exists() else []:
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError):
                continue
            if not isinstance(row, dict):
                continue
            values_are_plain = all(isinstance(value, int | float | str | None) for value in row.values())
            if not (isinstance(row.get("step"), int) and values_are_plain):
                raise CheckpointError("Line of metrics is invalid.", given=f"{path}: {line[:100]!r}")
            rows.append(row)
        return rows

    def write_metrics_csv(self) -> None:
        """Write metrics.csv from metrics.jsonl: one column per key, empty where a line lacks it."""
        rows = self.metrics()
        columns = list(dict.fromkeys(key for row in rows for key in row))
        text = StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.file("metrics.csv"), text.getvalue())

    def estimates(self) -> list[dict[str, Any]]:
        """Return the estimates of the last evaluation; results for older weights are ignored."""
        return self._evaluation("estimates")

    def remarks(self) -> list[dict[str, Any]]:
        """Return the remarks of the last evaluation, or a warning that it does not apply to the current weights."""
        return self._evaluation("remarks")

    def write_estimates(self, result: dict[str, Any], model: str | None = None) -> None:
        """Write an evaluation of the run's model; ``model`` is the checksum of the evaluated weights."""
        write_json(self.file(self.eval_folder, "estimates.json"), result | {"model": model})

    def _evaluation(self, section: str) -> list[dict[str, Any]]:
        path = self.path / self.eval_folder / "estimates.json"
        if not path.exists():
            return []
        evaluation = read_json_object(path)
        rows = evaluation.get(section, [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise CheckpointError("File holds no evaluation.", given=path, fix="run advae evaluate again")
        outdated = ""
        if evaluation.get("model") not in (None, self._model_checksum()):
            outdated = _TRAINED_SINCE
        elif any("metric" not in estimate for estimate in evaluation.get("estimates") or []):
            outdated = _OLDER_VERSION
        if outdated:
            warning = {"about": "evaluation", "text": outdated, "warning": True}
            return [warning] if section == "remarks" else []
        return rows

    def _model_checksum(self) -> str | None:
        path = recovered_folder(self.path / "model") / "config.json"
        return read_json_object(path).get("sha256") if path.exists() else None

    def write_arrays(self, name: str, arrays: dict[str, Any]) -> None:
        """Write arrays as the .npz file ``name`` of the run, atomically."""
        write_npz(self.file(name), arrays)

    def checkpoint(self, name: str = "last") -> Path:
        """Return the folder of a checkpoint: ``last``, ``best`` or ``step-000100``."""
        return recovered_folder(self.path / "checkpoints" / name)

    def model(self, device: str = "cpu") -> LatentModel:
        """Return the run's model in evaluation mode; its weights are averages unless train.ema_decay is 0.

        Weights are read from the run directory, or not at all directly after training.

        Raises:
            CheckpointError: the run has not saved a model yet, or is a fitted posterior.
        """
        from advae.model import LatentModel

        folder = recovered_folder(self.path / "model")
        if "inference" in self.config:
            raise CheckpointError(
                "Run is a fitted posterior, not a model of observations.",
                given=self.path,
                fix="its samples are in draws.nc and draws.npz",
            )
        if not folder.exists():
            raise CheckpointError(
                "Run has no model yet: it was interrupted.",
                given=self.path,
                fix=f"resume it: advae train --resume {quote(str(self.path))}",
            )
        trained = self.trained_model
        if trained is not None and trained.checksum == self._model_checksum():
            return trained.to(device).requires_grad_().eval()
        return LatentModel.from_pretrained(folder, device)


def _with_sections(tree: Any, path: Path, *sections: str) -> dict[str, Any]:
    """Return the content of a file: a mapping that holds mappings, or nothing, under these keys.

    Raises:
        CheckpointError: it holds something else.
    """
    parts = {"": tree}
    if isinstance(tree, Mapping):
        parts |= {name: tree[name] for name in sections if name in tree}
    for name, value in parts.items():
        if not isinstance(value, Mapping):
            given = f"{path}: {name} {value!r:.50}"
            raise CheckpointError("File holds the wrong type.", given=given, expected="a mapping")
    return dict(tree)


def check_unused(path: Path, verb: str = "train") -> None:
    """Check that a new run can be made at ``path``, by a verb that can also resume one.

    The folder may hold what a run wrote that was killed before its first checkpoint.

    Raises:
        CheckpointError: the folder is not empty or cannot be written.
    """
    if path.exists() and not (path.is_dir() and is_only_started(path)):
        raise CheckpointError(
            "Output folder is not empty.",
            given=path,
            fix=f"use another --out, or resume the run: advae {verb} --resume {quote(str(path))}",
        )
    check_writable(path)


def is_only_started(folder: Path) -> bool:
    """Return whether a folder is empty, or that of a run that was killed before its first checkpoint."""
    names = {path.name for path in folder.iterdir() if leftover_of(path.name) not in STARTED_FILES}
    has_metrics = "metrics.jsonl" in names and (folder / "metrics.jsonl").stat().st_size > 0
    has_checkpoint = any(leftover_of(path.name) is None for path in (folder / "checkpoints").glob("*"))
    is_ours = names <= {LOCK_FILE} or LOCK_FILE in names  # every run begins with its lock
    return is_ours and names <= {LOCK_FILE, *STARTED_FILES} and not (has_metrics or has_checkpoint)


def check_writable(path: Path) -> None:
    """Check that a folder can be made or written.

    Raises:
        CheckpointError: a file is in the way, or permission is missing.
    """
    parent = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        why = "is not writable" if parent.is_dir() else "is not a folder"
        raise CheckpointError(
            "Output folder cannot be written.", given=path, fix=f"use another: {parent} {why}"
        )


def load(path: PathLike, device: str = "cpu") -> LatentModel:
    """Load the model of a run directory, of a folder from ``save_pretrained``, or of a hub id.

    Raises:
        CheckpointError: there is no model.
    """
    from advae.model import LatentModel

    if (Path(path) / CONFIG_FILE).is_file():
        return Run.open(path).model(device)
    return LatentModel.from_pretrained(path, device)
