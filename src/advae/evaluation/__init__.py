"""Evaluation: figures that say what they are, how sure they are, and how they were made.

>>> from advae.evaluation import Estimate
>>> str(Estimate("elbo", -84.1, 0.2, "lower bound", "nats", 10000, {}))
'elbo = -84.10 ± 0.20 nats (lower bound, n = 10000)'
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "Annealing": "ais",
    "Estimate": "estimate",
    "Estimates": "estimate",
    "Remark": "estimate",
    "Work": "work",
    "adversarial_elbo": "adversarial",
    "ais": "ais",
    "bdmc": "ais",
    "critics": "critics",
    "elbo": "bounds",
    "evaluate": "battery",
    "exact": "exact",
    "iwae": "bounds",
    "posterior": "posterior",
    "posterior_grid": "posterior_grid",
    "reconstructions": "reconstruction",
    "reconstruction": "reconstruction",
    "rmse": "reconstruction",
    "samples": "samples",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
