"""Evaluation: figures that say what they are, how sure they are, and how they were made.

>>> from advae.evaluation import Estimate
>>> str(Estimate("elbo", -84.1, 0.2, "lower bound", "nats", 10000, {}))
'elbo = -84.10 ± 0.20 nats (lower bound, n = 10000)'
"""

from __future__ import annotations

from advae.evaluation.critics.critic_diagnostics import critics
from advae.evaluation.estimate import Estimate, Estimates, Remark
from advae.evaluation.eval_data import Observed
from advae.evaluation.evaluate import evaluate
from advae.evaluation.evaluate_run import evaluate_run
from advae.evaluation.latent_diagnostics import posterior
from advae.evaluation.likelihood.adversarial_elbo import adversarial_elbo
from advae.evaluation.likelihood.ais import Annealing, ais, bdmc
from advae.evaluation.likelihood.bounds import elbo, iwae
from advae.evaluation.likelihood.exact import exact
from advae.evaluation.posterior_grid import posterior_grid
from advae.evaluation.reconstruction import reconstruction, reconstructions, rmse
from advae.evaluation.resumable import Work
from advae.evaluation.samples.sample_metrics import samples

__all__ = [
    "Annealing",
    "Estimate",
    "Estimates",
    "Observed",
    "Remark",
    "Work",
    "adversarial_elbo",
    "ais",
    "bdmc",
    "critics",
    "elbo",
    "evaluate",
    "evaluate_run",
    "exact",
    "iwae",
    "posterior",
    "posterior_grid",
    "reconstruction",
    "reconstructions",
    "rmse",
    "samples",
]
