"""Model files: Python files that define ``parameters`` and ``log_joint``.

    parameters        by name a shape, a constraint, or both
    log_joint         maps named tensors to [S]
    data              tensors by name whose first axis is rows; optional
    log_likelihood    maps named tensors to [S, N], for ArviZ; optional

Loading a file runs it, as ``python FILE`` would: load only files that the user has named.
"""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from advae.errors import CheckpointError, ConfigError

EXAMPLE = 'parameters = {"mu": (), "tau": advae.positive} and def log_joint(mu, tau): ...'


@dataclass(frozen=True)
class ModelFile:
    """The text and the definitions of a file."""

    path: Path
    text: str
    parameters: Mapping[str, Any]
    log_joint: Callable[..., Tensor]
    data: Mapping[str, Tensor] | None
    log_likelihood: Callable[..., Tensor] | None

    def source(self) -> dict[str, str]:
        """Return what a run records: name, path, checksum and text."""
        sha256 = hashlib.sha256(self.text.encode()).hexdigest()
        return {"name": self.path.stem, "file": str(self.path.resolve()), "sha256": sha256, "text": self.text}


def load_model_file(path: str | Path, sha256: str | None = None) -> ModelFile:
    """Run a file and return its definitions.

    Args:
        path: a .py file.
        sha256: the checksum that the file must have; another file is not run.

    Raises:
        ConfigError: the file does not exist, raises an error, or lacks a definition.
        CheckpointError: the file has another checksum.
    """
    path = Path(path)
    if path.suffix != ".py" or not path.is_file():
        what = "A model file must be a Python file." if path.exists() else "Model file does not exist."
        raise ConfigError(what, given=path, expected=f"a .py file with {EXAMPLE}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError("Model file is not UTF-8 text.", given=f"{path}: {error}") from None
    if sha256 is not None and hashlib.sha256(text.encode()).hexdigest() != sha256:
        raise CheckpointError(
            "The run was started with another model file. This one was not run.",
            given=path,
            fix="restore the file (its text is under source in config.yaml), or start a new run with --out",
        )
    module = _run_file(path, text)
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
    log_likelihood = getattr(module, "log_likelihood", None)
    return ModelFile(path, text, module.parameters, module.log_joint, data, log_likelihood)


def _run_file(path: Path, text: str) -> Any:
    """Return the text as a module. A compiled file in ``__pycache__`` is not used: it may hold other code."""
    module = ModuleType(f"advae_model_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look up their module
    try:
        with _importable(path.resolve().parent):
            exec(compile(text, str(path), "exec"), module.__dict__)
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
    """Let modules in a folder be imported in this block. Installed modules of the same name come first."""
    before = list(sys.path)
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path[:] = before
