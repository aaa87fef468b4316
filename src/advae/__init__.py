"""advae: adversarial variational autoencoders, trained, judged honestly and explored.

>>> import advae
>>> sorted(advae.__all__)[:3]
['AdvaeError', 'DataOptions', 'Estimate']
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "AdvaeError": "errors",
    "DataOptions": "data.data_options",
    "load_data": "data",
    "LatentModel": "model",
    "build_model": "model",
    "Run": "run",
    "allow": "registry",
    "train": "training.train",
    "resume": "training.train",
    "resolve": "config",
    "recipes": "config",
    "evaluate": "evaluation.evaluate",
    "Estimate": "evaluation.estimate",
    "load": "run",
    "write_report": "report",
    "compare": "report",
    "infer": "inference",
    "InferOptions": "inference.infer_options",
    "Posterior": "inference",
    "positive": "inference",
    "unit_interval": "inference",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    """Names are imported when first used, so that importing the package is quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'advae' has no attribute {name!r}")
    value = getattr(import_module(f"advae.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
