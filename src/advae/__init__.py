"""Adversarial variational autoencoders: training, evaluation, inference and reports.

>>> import advae
>>> sorted(advae.__all__)[:3]
['AdvaeError', 'DataOptions', 'Estimate']
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_MODULES = {
    "AdvaeError": "errors",
    "DataOptions": "data.data_options",
    "load_data": "data",
    "LatentModel": "model",
    "build_model": "model",
    "Run": "run",
    "load": "run",
    "allow": "registry",
    "recipes": "config",
    "resolve": "config",
    "train": "experiment",
    "resume": "experiment",
    "evaluate": "evaluation.evaluate",
    "EvalConfig": "evaluation.eval_config",
    "Estimate": "evaluation.estimate",
    "write_report": "report",
    "compare": "report",
    "infer": "inference",
    "InferOptions": "inference.infer_options",
    "Posterior": "inference",
    "positive": "inference",
    "unit_interval": "inference",
}

__all__ = [*_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used, so that importing the package is fast."""
    if name not in _MODULES:
        raise AttributeError(f"module 'advae' has no attribute {name!r}")
    value = getattr(import_module(f"advae.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
