"""Bounds on both sides of the ELBO of families without a density, by bidirectional Monte Carlo over their noise.

A sample u is a function of its noise. With normal noise added to it, u' = u + τξ, its density given the noise is known;
which bounds hold, and why, is in :mod:`advae.evaluation.likelihood.certified_elbo`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Size, Tensor

from advae.distributions.base import ImplicitDistribution
from advae.distributions.normal import Normal, batched_normal
from advae.evaluation.estimate import EvaluationResult, Kind, from_per_example
from advae.evaluation.eval_config import AISConfig
from advae.evaluation.likelihood.annealing import (
    PILOT_CHAINS,
    anneal,
    make_step_size_fn,
    make_temperatures,
    tune_step_sizes,
)
from advae.evaluation.likelihood.certified_elbo import noise_path
from advae.inference.fit import VariationalFit
from advae.inference.preconditioner import log_prob_in_u
from advae.random import seeded

DEFAULT_CONFIG = AISConfig(chains=2, temperatures=60, schedule="linear", init="prior", leapfrog_steps=3)
NUM_LATENTS = 32  # per fit
# τ, as a part of the standard deviations of u: the entropy grows by log(1 + 0.3²)/2 per coordinate at most.
ADDED_STD_RATIO = 0.3
NUM_STD_SAMPLES = 1000  # per fit, for these standard deviations


class FamilyGivenNoise(ImplicitDistribution):
    """Samples of all fits as functions of their noise: a batch of ``n`` for each of the F fits, ``[F n]``."""

    def __init__(self, fit: VariationalFit, n: int) -> None:
        self.fit, self.n, self.noise_dim = fit, n, int(fit.q.template.noise_dim)  # type: ignore[arg-type]
        self.batch_shape, self.event_shape = Size([fit.options.fits * n]), Size([fit.target.space.dim])

    def given_noise(self, noise: Tensor) -> Normal:
        """Return the normal of scale 0 at the samples of ``noise [..., F n, k]``."""
        by_fit = noise.reshape(-1, self.fit.options.fits, self.n, self.noise_dim).transpose(0, 1)
        (u,) = self.fit.q(by_fit.flatten(1, 2), n=by_fit.shape[1] * self.n, weights=self.fit.ema_weights)
        u = u.unflatten(1, (-1, self.n)).transpose(0, 1).reshape(*noise.shape[:-1], -1)
        return batched_normal(u, torch.tensor(-torch.inf).to(u))


@torch.inference_mode(False)
@torch.no_grad()
def certify_elbo(
    fit: VariationalFit,
    config: AISConfig = DEFAULT_CONFIG,
    num_latents: int = NUM_LATENTS,
    seed: int = 0,
    tick: Callable[[int], None] = lambda n: None,
) -> EvaluationResult:
    """Return lower and upper bounds on the ELBO of each fit, in nats, from ``num_latents`` samples of it.

    Args:
        fit: of a family without a density.
        config: chains per sample, temperatures, leapfrog steps and schedule.
        num_latents: per fit.
        seed: of all random numbers.
        tick: called with numbers of finished transitions.
    """
    fits, d = fit.options.fits, fit.target.space.dim
    q, result = FamilyGivenNoise(fit, num_latents), EvaluationResult()
    with seeded(seed, fit.target.device):
        (u,) = fit.q(n=NUM_STD_SAMPLES, weights=fit.ema_weights)
        std = (ADDED_STD_RATIO * u.std(1)).repeat_interleave(num_latents, 0)
        noise = torch.randn(fits * num_latents, q.noise_dim).to(u)
        own = q.given_noise(noise).mean
        wider = own + std * torch.randn_like(own)
        make_path, schedule = partial(noise_path, q, wider, std), config.schedule
        pilot = make_path(PILOT_CHAINS)
        tuned = tune_step_sizes(pilot, len(own), schedule, config.leapfrog_steps, tick)
        step_size = make_step_size_fn(tuned, schedule, config.chains)
        path, betas = make_path(config.chains), make_temperatures(config.temperatures, schedule)

        def log_mean_weight(start: Tensor, betas: list[float]) -> Tensor:
            log_w, _ = anneal(path, start, betas, step_size, config.leapfrog_steps, tick=tick)
            return torch.logsumexp(log_w.reshape(config.chains, -1), 0) - math.log(config.chains)

        forward = log_mean_weight(path.sample_initial(), betas)
        reverse = log_mean_weight(noise.repeat(config.chains, 1), betas[::-1])
        log_p, log_p_wider = (
            log_prob_in_u(fit.target, fit.affine, z.reshape(fits, -1, d), 1.0, all_rows=True)
            for z in (own, wider)
        )
    bounds: dict[str, tuple[Tensor, Kind]] = {
        "lower": (log_p_wider + reverse.reshape(fits, -1), "lower bound"),
        "upper": (log_p - forward.reshape(fits, -1), "diagnostic"),
    }
    protocol = {
        "estimator": "bidirectional Monte Carlo over the noise",
        "family": fit.options.family,
        "added_std": f"{ADDED_STD_RATIO} posterior std",
        "seed": seed,
        "chains": config.chains,
        "temperatures": config.temperatures,
        "schedule": schedule,
        "leapfrog_steps": config.leapfrog_steps,
    }
    for i in range(fits):
        for bound, (values, kind) in bounds.items():
            name, better = f"elbo-certified {bound}[fit {i}]", True if bound == "lower" else None
            estimate = from_per_example(
                values[i].cpu(),
                name,
                kind,
                "nats",
                protocol | {"fit": i},
                "posterior",
                higher_is_better=better,
            )
            result.append(replace(estimate, metric="elbo-certified", variant=f"{bound}, fit {i}"))
    return result
