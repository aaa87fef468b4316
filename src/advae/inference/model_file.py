"""Model files: Python files that define ``parameters`` and ``log_joint``.

    parameters        by name a shape, a constraint, or both
    log_joint         maps named tensors to [S]
    data              tensors by name whose first axis is rows; optional
    log_likelihood    maps named tensors to [S, N], for ArviZ; optional

Loading a file runs it, as ``python FILE`` would: load only files that you trust.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from advae.errors import ConfigError

EXAMPLE = 'parameters = {"mu": (), "tau": advae.positive} and def log_joint(mu, tau): ...'


@dataclass(frozen=True)
class ModelFile:
    """The definitions of a file.

    Attributes:
        path: of the file.
        parameters, log_joint, data, log_likelihood: as above.
    """

    path: Path
    parameters: Mapping[str, Any]
    log_joint: Callable[..., Tensor]
    data: Mapping[str, Tensor] | None
    log_likelihood: Callable[..., Tensor] | None

    def source(self) -> dict[str, str]:
        """Return what a run records: name, path, checksum and text."""
        text = self.path.read_text()
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        return {"name": self.path.stem, "file": str(self.path.resolve()), "sha256": sha256, "text": text}


def load_model_file(path: str | Path) -> ModelFile:
    """Run a file and return its definitions.

    Raises:
        ConfigError: the file does not exist, raises an error, or lacks a definition.
    """
    path = Path(path)
    if path.suffix != ".py" or not path.is_file():
        what = "A model file must be a Python file." if path.exists() else "Model file does not exist."
        raise ConfigError(what, given=path, expected=f"a .py file with {EXAMPLE}")
    module = _import_file(path)
    for name in ("parameters", "log_joint"):
        if not hasattr(module, name):
            raise ConfigError(f"Model file does not define {name}.", given=path, expected=EXAMPLE)
    data = getattr(module, "data", None)
    if data is not None and not (
        isinstance(data, Mapping) and all(isinstance(value, Tensor) for value in data.values())
    ):
        raise ConfigError(
            "data in a model file must be a mapping from names to tensors.",
            given=f"{path}: {type(data).__name__}",
            expected='data = {"x": x, "y": y}',
            fix="rename it if only the log joint uses it",
        )
    return ModelFile(path, module.parameters, module.log_joint, data, getattr(module, "log_likelihood", None))


def _import_file(path: Path) -> Any:
    """Return the file as a module; while it runs, modules next to it can be imported, as for a script."""
    spec = importlib.util.spec_from_file_location(f"advae_model_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        with _importable(path.resolve().parent):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
        line = getattr(error, "lineno", None) or (lines[-1] if lines else None)
        raise ConfigError(
            "Model file raised an error.",
            given=f"{path}{f', line {line}' if line else ''}: {type(error).__name__}: {error}",
        ) from error
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Prepend a folder to the module search path, and restore the path afterwards."""
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = before
