"""Evaluation: estimates with standard errors, kinds and protocols.

>>> from advae.evaluation import Estimate
>>> str(Estimate("elbo", -84.1, 0.2, "lower bound", "nats", 10000, {}))
'elbo = −84.10 ± 0.20 nats (lower bound, n = 10000)'
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

# Names of modules are not among them: advae.evaluation.evaluate is the module, advae.evaluate the function.
_MODULES = {
    "AISConfig": "eval_config",
    "Estimate": "estimate",
    "EvalConfig": "eval_config",
    "EvalData": "eval_data",
    "EvaluationResult": "estimate",
    "Remark": "estimate",
    "Runner": "resumable",
    "adversarial_elbo": "likelihood.adversarial_elbo",
    "ais": "likelihood.ais",
    "bdmc": "likelihood.bdmc",
    "elbo": "likelihood.bounds",
    "evaluate_critics": "critics.critic_diagnostics",
    "evaluate_posterior": "latent_diagnostics",
    "evaluate_reconstruction": "reconstruction",
    "evaluate_run": "evaluate",
    "evaluate_samples": "samples.sample_metrics",
    "exact": "likelihood.exact",
    "iwae": "likelihood.bounds",
    "rmse": "reconstruction",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    """Import a name when it is first used, so that importing the package is quick."""
    if name not in _MODULES:
        raise AttributeError(f"module 'advae.evaluation' has no attribute {name!r}")
    value = getattr(import_module(f"advae.evaluation.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
