"""Evaluation: figures that say what they are, how sure they are, and how they were made.

>>> from advae.evaluation import Estimate
>>> str(Estimate("elbo", -84.1, 0.2, "lower bound", "nats", 10000, {}))
'elbo = -84.10 ± 0.20 nats (lower bound, n = 10000)'
"""

from __future__ import annotations

from advae.evaluation.adversarial import adversarial_elbo
from advae.evaluation.ais import Annealing, ais, bdmc
from advae.evaluation.battery import evaluate
from advae.evaluation.bounds import elbo, iwae
from advae.evaluation.critics import critics
from advae.evaluation.estimate import Estimate, Estimates, Remark
from advae.evaluation.exact import exact
from advae.evaluation.observed import Observed
from advae.evaluation.posterior import posterior
from advae.evaluation.posterior_grid import posterior_grid
from advae.evaluation.reconstruction import reconstruction, reconstructions, rmse
from advae.evaluation.record import evaluate_run
from advae.evaluation.samples import samples
from advae.evaluation.work import Work

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
