"""A user's file: plain Python that defines ``parameters`` and ``log_joint``, and may define more.

    parameters        by name a shape, a constraint, or both
    log_joint         named tensors to [S]
    data              tensors whose first axis are rows, by name; optional
    log_likelihood    named tensors to [S, N], for ArviZ; optional

Reading it runs it, as ``python FILE`` would: name only files that you trust.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from advae.errors import ConfigError

EXAMPLE = 'parameters = {"mu": (), "tau": advae.positive} and def log_joint(mu, tau): ...'


@dataclass(frozen=True)
class ModelFile:
    """What a file defines.

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
        """What a run records of it: name, path, checksum and text."""
        text = self.path.read_text()
        digest = hashlib.sha256(text.encode()).hexdigest()
        return {"name": self.path.stem, "file": str(self.path.resolve()), "sha256": digest, "text": text}


def read_model_file(path: str | Path) -> ModelFile:
    """Run a file and take what it defines.

    Raises:
        ConfigError: there is no such file, it raises an error, or it does not define what it should.
    """
    path = Path(path)
    if path.suffix != ".py" or not path.is_file():
        what = (
            "there is no such file" if not path.exists() else "a log joint density is read from a Python file"
        )
        raise ConfigError(what, given=path, expected=f"a .py file with {EXAMPLE}")
    module = _run(path)
    for name in ("parameters", "log_joint"):
        if not hasattr(module, name):
            raise ConfigError(f"the file does not define {name}", given=path, expected=EXAMPLE)
    data = getattr(module, "data", None)
    if data is not None and not (
        isinstance(data, Mapping) and all(isinstance(value, Tensor) for value in data.values())
    ):
        raise ConfigError(
            "data must be tensors by name",
            given=f"{path}: {type(data).__name__}",
            expected='data = {"x": x, "y": y}',
            remedy="call it otherwise if the log joint uses it by itself",
        )
    return ModelFile(path, module.parameters, module.log_joint, data, getattr(module, "log_likelihood", None))


def _run(path: Path) -> Any:
    """The file as a module; what lies beside it can be imported, as for a script."""
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(f"advae_model_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
        line = getattr(error, "lineno", None) or (lines[-1] if lines else None)
        raise ConfigError(
            "the file cannot be run",
            given=f"{path}{f', line {line}' if line else ''}: {type(error).__name__}: {error}",
        ) from error
    return module
