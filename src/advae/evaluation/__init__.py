"""Evaluation: figures that say what they are, how sure they are, and how they were made.

>>> from advae.evaluation import Estimate
>>> str(Estimate("elbo", -84.1, 0.2, "lower bound", "nats", 10000, {}))
'elbo = -84.10 ± 0.20 nats (lower bound, n = 10000)'
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "Estimate": "estimate",
    "Estimates": "estimate",
    "elbo": "bounds",
    "iwae": "bounds",
    "adversarial_elbo": "adversarial",
    "ais": "annealing",
    "reconstruction": "reconstruction",
    "rmse": "reconstruction",
    "evaluate": "battery",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
