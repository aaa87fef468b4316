"""A run directory: what one training left behind, and how to read it.

config.yaml     the resolved configuration; trains again as it stands
command.txt     the command that was given
env.json        versions, device, checksum of the data
metrics.jsonl   one flat object a line; the same as metrics.csv
samples/        sheets of samples as training went on
checkpoints/    last, best, and every N steps: for resuming
model/          the averaged model, for use
eval/           estimates
figures/, report.html
"""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, ClassVar

import yaml

from advae.errors import CheckpointError
from advae.io import read_tree, recovered_folder, write_atomically, write_json

if TYPE_CHECKING:
    from advae.model import LatentModel

CONFIG = "config.yaml"
STALE = {
    "about": "evaluation",
    "text": "The figures of the last evaluation are left out: the run was trained on since. Evaluate it again with"
    " advae evaluate.",
    "warning": True,
}


@dataclass(frozen=True)
class Run:
    """A run directory that exists.

    Attributes:
        path: where it is.
        kept: the folder in it where an evaluation left what it found for each image.
    """

    path: Path
    kept: ClassVar[str] = "eval"

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Run:
        """The run at ``path``.

        Raises:
            CheckpointError: it is not a run directory.
        """
        path = Path(path)
        if not (path / CONFIG).is_file():
            what = "this folder is not a run directory" if path.exists() else "there is no such run directory"
            raise CheckpointError(
                what, given=path, expected=f"a folder with {CONFIG}, as made by advae train"
            )
        return cls(path)

    @classmethod
    def create(cls, path: str | os.PathLike[str], config: dict[str, Any], verb: str = "train") -> Run:
        """A new run directory, made by a verb of the command.

        Raises:
            CheckpointError: there is something at ``path`` already.
        """
        path = Path(path)
        refuse_used(path, verb)
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path)
        run.write_config(config)
        return run

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        try:
            config = yaml.safe_load((self.path / CONFIG).read_text())
        except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
            raise CheckpointError("config.yaml cannot be read", given=error) from None
        if not isinstance(config, dict):
            raise CheckpointError("config.yaml holds no configuration", given=self.path / CONFIG)
        return config

    def write_config(self, config: dict[str, Any]) -> None:
        """Write config.yaml."""
        write_atomically(self.path / CONFIG, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))

    @property
    def env(self) -> dict[str, Any]:
        """Versions, device and data, as recorded when training started."""
        path = self.path / "env.json"
        return read_tree(path) if path.exists() else {}

    @property
    def command(self) -> str:
        """The command that was given, or an empty string."""
        path = self.path / "command.txt"
        return path.read_text().strip() if path.exists() else ""

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a line that a kill cut short is left out."""
        path = self.path / "metrics.jsonl"
        rows = []
        for line in path.read_bytes().splitlines() if path.exists() else []:
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError):
                continue
            if isinstance(row, dict):
                rows.append(row)
        return rows

    def write_csv(self) -> None:
        """Write metrics.csv from metrics.jsonl: a column for every key, empty where a line has none."""
        rows = self.metrics()
        columns = list(dict.fromkeys(key for row in rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.path / "metrics.csv", text.getvalue())

    def estimates(self) -> list[dict[str, Any]]:
        """The figures of the last evaluation of the run's model as it is now, or an empty list."""
        return self._evaluation("estimates")

    def remarks(self) -> list[dict[str, Any]]:
        """What the last evaluation said of its figures in plain sentences, or an empty list."""
        return self._evaluation("remarks")

    def write_estimates(self, result: dict[str, Any], model: str | None = None) -> None:
        """Write an evaluation of the run's model, as it was when it was loaded: ``model`` is its checksum."""
        (self.path / "eval").mkdir(exist_ok=True)
        write_json(self.path / "eval" / "estimates.json", result | {"model": model})

    def _evaluation(self, part: str) -> list[dict[str, Any]]:
        """A part of the last evaluation. Figures of a model that was trained on since are nobody's, and left out."""
        path = self.path / "eval" / "estimates.json"
        if not path.exists():
            return []
        found = read_tree(path)
        if found.get("model") not in (None, self._model_digest()):
            return [dict(STALE)] if part == "remarks" else []
        rows = found.get(part, [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise CheckpointError(
                "this file holds no evaluation", given=path, remedy="it was edited; evaluate again"
            )
        return rows

    def _model_digest(self) -> str | None:
        """What tells the run's model from others; None without one."""
        config = recovered_folder(self.path / "model") / "config.json"
        return read_tree(config).get("sha256") if config.exists() else None

    def write_arrays(self, name: str, arrays: dict[str, Any]) -> None:
        """Write arrays as the .npz file ``name`` in the run, whole or not at all."""
        import numpy as np

        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        (self.path / name).parent.mkdir(exist_ok=True)
        write_atomically(self.path / name, buffer.getvalue())

    def checkpoint(self, name: str = "last") -> Path:
        """The folder of a checkpoint: ``last``, ``best`` or ``step-000100``."""
        return recovered_folder(self.path / "checkpoints" / name)

    def model(self, device: str = "cpu") -> LatentModel:
        """The run's model, averaged over training where that was on.

        Raises:
            CheckpointError: the run was stopped before it had saved one.
        """
        from advae.model import LatentModel

        folder = recovered_folder(self.path / "model")
        if "inference" in self.config:
            raise CheckpointError(
                "this run is a fitted posterior, not a model of observations",
                given=self.path,
                remedy="its draws are in draws.nc and draws.npz",
            )
        if not folder.exists():
            raise CheckpointError(
                "this run has no model yet",
                given=self.path,
                remedy=f"it was stopped early; go on with: advae train --resume {quote(str(self.path))}",
            )
        return LatentModel.from_pretrained(folder, device)


def refuse_used(path: Path, verb: str = "train") -> None:
    """See that a new run can be made at ``path``, by a verb that could also go on with one.

    Raises:
        CheckpointError: there is something already, or nothing can be written there.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise CheckpointError(
            "the output folder is not empty",
            given=path,
            remedy=f"choose another --out, or go on with this run: advae {verb} --resume {quote(str(path))}",
        )
    refuse_unwritable(path)


def refuse_unwritable(path: Path) -> None:
    """See that a folder can be written to, or made.

    Raises:
        CheckpointError: something that is no folder is in the way, or a folder of somebody else.
    """
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        why = "may not be written to" if there.is_dir() else "is not a folder"
        raise CheckpointError(
            "nothing can be written there", given=path, remedy=f"choose another: {there} {why}"
        )


def load(path: str | os.PathLike[str], device: str = "cpu") -> LatentModel:
    """The model of a run directory, of a folder that ``save_pretrained`` wrote, or of a hub id.

    Raises:
        CheckpointError: there is no model there.
    """
    from advae.model import LatentModel

    if (Path(path) / CONFIG).is_file():
        return Run.open(path).model(device)
    return LatentModel.from_pretrained(path, device)
