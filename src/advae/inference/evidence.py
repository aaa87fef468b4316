"""log p(data) by annealed importance sampling, from a normal fitted to draws of a posterior.

The paths, transitions and tuned steps are those of :mod:`advae.evaluation.likelihood.annealing`: its "images" are one here. The
normal need not be close: it is where the path begins, and any beginning makes a lower bound in expectation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from advae.evaluation.estimate import Estimate
from advae.evaluation.likelihood.annealing import (
    PILOT_TEMPERATURES,
    Path,
    anneal,
    steps_at,
    temperatures,
    tuned_steps,
)
from advae.inference.hmc_reference import moments
from advae.inference.target import Target
from advae.model import seeded

PILOTS = 32  # chains that tune the steps
WIDER = 1.2  # the fitted normal is a little wider than the draws, so that the path begins outside them


@dataclass(frozen=True)
class Annealed:
    """How to anneal.

    Attributes:
        chains: side by side; the error is known from them.
        temperatures: from the normal to the target.
        leapfrogs: leapfrog steps of a transition.
    """

    chains: int = 256
    temperatures: int = 400
    leapfrogs: int = 5

    @property
    def ticks(self) -> int:
        """Transitions in all, those of the pilot run included."""
        return self.temperatures - 1 + PILOT_TEMPERATURES - 1


def evidence(
    target: Target,
    z: Tensor,
    options: Annealed | None = None,
    seed: int = 0,
    tick: Callable[[int], None] = lambda n: None,
) -> Estimate:
    """``log p(data)`` in nats, with what each chain found: "log_w" and "acceptance".

    Args:
        target: whose normaliser; all of the data are used.
        z: unconstrained draws ``[N, d]`` that the normal is fitted to.
        options: how to anneal.
        seed: of everything random.
        tick: is told of every transition.
    """
    options = options or Annealed()
    with seeded(seed, target.device), torch.no_grad():
        mean, factor = moments(z)

        def path(chains: int) -> Path:
            d = z.shape[1]
            return Path(mean.expand(chains, d), (WIDER * factor).expand(chains, d, d), safe(target))

        steps = tuned_steps(path(PILOTS), 1, "sigmoid", options.leapfrogs, tick)
        betas = temperatures(options.temperatures, "sigmoid")
        whole = path(options.chains)
        step = steps_at(steps, "sigmoid", options.chains)
        log_w, accept = anneal(whole, whole.first(), betas, step, options.leapfrogs, tick=tick)
    value, stderr, ess = log_mean(log_w)
    protocol = {
        "estimator": "annealed importance sampling",
        "start": "full normal fitted to the draws",
        "seed": seed,
    }
    return Estimate(
        "log evidence (ais)",
        value,
        stderr,
        "lower bound",
        "nats",
        options.chains,
        {**protocol, **asdict(options), "ess": round(ess, 1)},
        each={"log_w": log_w.cpu(), "acceptance": accept.cpu()},
    )


def safe(target: Target) -> Callable[[Tensor], Tensor]:
    """The target, with no density where it is not a number: such a place is never moved to."""

    def log_joint(z: Tensor) -> Tensor:
        return torch.nan_to_num(target(z), nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)

    return log_joint


def log_mean(log_w: Tensor) -> tuple[float, float, float]:
    """The log of the mean weight, its standard error by the delta method, and the effective sample size."""
    n = len(log_w)
    total = torch.logsumexp(log_w, 0)
    relative = torch.exp(log_w - total) * n
    ess = float(torch.exp(2 * total - torch.logsumexp(2 * log_w, 0)))
    return float(total) - math.log(n), float(relative.std()) / math.sqrt(n), ess
