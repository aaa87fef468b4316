"""Black-box posteriors: variational inference for any log joint density, and what says whether to trust it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from advae.inference.hmc_reference import HMC
    from advae.inference.implicit_posterior import Posterior
    from advae.inference.parameters import positive, unit_interval
    from advae.inference.variational_inference import infer

__all__ = ["HMC", "Posterior", "infer", "positive", "unit_interval"]

_HOMES = {
    "HMC": "hmc_reference",
    "Posterior": "implicit_posterior",
    "infer": "variational_inference",
    "positive": "parameters",
    "unit_interval": "parameters",
}


def __getattr__(name: str) -> Any:
    """Names are imported when first used: the options beside them are read without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'advae.inference' has no attribute {name!r}")
    return getattr(import_module(f"advae.inference.{_HOMES[name]}"), name)
