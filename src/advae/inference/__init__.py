"""Black-box variational inference with diagnostics."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from advae.inference.hmc_reference import HMCConfig
    from advae.inference.parameters import positive, unit_interval
    from advae.inference.posterior import Posterior
    from advae.inference.variational_inference import infer

__all__ = ["HMCConfig", "Posterior", "infer", "positive", "unit_interval"]

_MODULES = {
    "HMCConfig": "hmc_reference",
    "Posterior": "posterior",
    "infer": "variational_inference",
    "positive": "parameters",
    "unit_interval": "parameters",
}


def __getattr__(name: str) -> Any:
    """Import names on first use, so that the options can be read without torch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'advae.inference' has no attribute {name!r}")
    return getattr(import_module(f"advae.inference.{_MODULES[name]}"), name)
