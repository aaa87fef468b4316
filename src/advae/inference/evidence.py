"""Log evidence by annealed importance sampling from a normal fitted to posterior samples.

Paths, transitions and step sizes are those of :mod:`advae.evaluation.likelihood.annealing`, for one "image". The normal
need not be close to the posterior: it is the start of the path, and every start gives a lower bound in expectation.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from advae.errors import ConfigError
from advae.evaluation.estimate import Estimate
from advae.evaluation.eval_config import AISConfig
from advae.evaluation.likelihood.annealing import (
    PILOT_TEMPERATURES,
    AnnealingPath,
    anneal,
    make_step_size_fn,
    make_temperatures,
    tune_step_sizes,
)
from advae.inference.preconditioner import AffineMap
from advae.inference.target import Target
from advae.random import seeded

DEFAULT_AIS = AISConfig(chains=256, temperatures=400, leapfrog_steps=5)
NUM_PILOT_CHAINS = 32  # tune the step sizes
START_WIDENING = 1.2  # of the fitted normal's standard deviations: the path begins outside the samples


@torch.inference_mode(False)
@torch.no_grad()
def estimate_log_evidence(
    target: Target,
    z: Tensor,
    config: AISConfig = DEFAULT_AIS,
    seed: int = 0,
    tick: Callable[[int], None] = lambda n: None,
) -> Estimate:
    """Estimate ``log p(data)`` in nats; per chain "log_w" and "acceptance".

    Args:
        target: the unnormalized density; all data are used.
        z: unconstrained samples ``[N, d]`` to fit the initial normal to.
        config: chains, temperatures, leapfrog steps and schedule; the start is always the full normal.
        seed: of all random numbers.
        tick: called with numbers of finished transitions.
    """
    if config.init != "full":
        raise ConfigError("The evidence is annealed from a full normal.", given=f"init = {config.init!r}")
    with seeded(seed, target.device):
        normal = AffineMap.from_samples(z)

        def log_joint(z: Tensor) -> Tensor:  # density zero where it is not finite: chains never move there
            return torch.nan_to_num(target(z), nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)

        def make_path(chains: int) -> AnnealingPath:
            d = z.shape[1]
            factor = (START_WIDENING * normal.factor).expand(chains, d, d)
            return AnnealingPath(normal.mean.expand(chains, d), factor, log_joint)

        schedule, leapfrog_steps = config.schedule, config.leapfrog_steps
        step_sizes = tune_step_sizes(make_path(NUM_PILOT_CHAINS), 1, schedule, leapfrog_steps, tick)
        step_size = make_step_size_fn(step_sizes, schedule, config.chains)
        path, betas = make_path(config.chains), make_temperatures(config.temperatures, schedule)
        u = path.sample_initial()
        log_w, acceptance = anneal(path, u, betas, step_size, leapfrog_steps, tick=tick)
    value, stderr, ess = log_mean_weight(log_w)
    protocol = {
        "estimator": "annealed importance sampling",
        "init": "full normal fitted to the samples",
        "seed": seed,
        "chains": config.chains,
        "temperatures": config.temperatures,
        "schedule": schedule,
        "leapfrog_steps": leapfrog_steps,
        "ess": round(ess, 1),
    }
    return Estimate(
        *("log evidence (ais)", value, stderr, "lower bound", "nats", config.chains, protocol),
        per_example={"log_w": log_w.cpu(), "acceptance": acceptance.cpu()},
        metric="ais",
        variant="evidence",
        higher_is_better=True,
    )


def num_transitions(config: AISConfig) -> int:
    """Return the transitions of a run, those of the pilot included."""
    return max(0, config.temperatures - 1) + PILOT_TEMPERATURES - 1


def log_mean_weight(log_w: Tensor) -> tuple[float, float, float]:
    """Return the log of the mean weight, its standard error by the delta method, and the effective sample size."""
    n = len(log_w)
    log_sum = torch.logsumexp(log_w, 0)
    relative_weights = torch.exp(log_w - log_sum) * n
    ess = float(torch.exp(2 * log_sum - torch.logsumexp(2 * log_w, 0)))
    return float(log_sum) - math.log(n), float(relative_weights.std()) / math.sqrt(n), ess
