"""Reference samples by Hamiltonian Monte Carlo, with many chains in one batch.

    z = μ + L u          chains move in u; μ and L Lᵀ are the moments of all chains, updated during the warm-up

The chains begin over-dispersed, under a low power of the target that rises to 1, so that modes that are connected at a
higher temperature are filled in proportion. The step size and, through L, the mass matrix are adapted only in the
warm-up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from advae.errors import NotFiniteError
from advae.evaluation.likelihood.hmc import HMCState, transition
from advae.evaluation.likelihood.log_density_grad import value_and_grad
from advae.inference.preconditioner import AffineMap
from advae.inference.target import Target
from advae.metrics.mcmc_diagnostics import effective_sample_size, split_rhat
from advae.random import seeded

TARGET_ACCEPTANCE = 0.8  # above the 0.65 that is cheapest: steps must also suit narrow regions
INITIAL_LOG_STEP = -1.5
LOG_STEP_GAIN = 0.1  # change of the log step size per unit of acceptance error
INITIAL_SD = 2.0  # of the chains' starting points
INITIAL_POWER = 0.1  # of the target, at the start of the warm-up
MIN_LEAPFROGS, MAX_LEAPFROGS = 5, 25  # per transition, drawn at random: no orbit closes for ever
# Each chain draws its step size in every transition, between this fraction of the adapted one and all of it (Neal
# 2011), so that no chain gets stuck where the target is narrower than elsewhere.
MIN_STEP_FRACTION = 0.05
NUM_MASS_UPDATES = 8  # in the warm-up


@dataclass(frozen=True)
class HMCConfig:
    """Number and length of the chains."""

    chains: int = 64
    warmup: int = 800
    """Adaptive transitions."""
    samples: int = 500
    """Samples kept per chain."""
    thin: int = 4
    """Transitions per kept sample."""

    @property
    def num_transitions(self) -> int:
        """Transitions of one chain."""
        return self.warmup + self.samples * self.thin


@dataclass(frozen=True)
class HMCDraws:
    """Samples and their diagnostics.

    Attributes:
        z: unconstrained samples ``[C, n, d]``.
        acceptance: mean acceptance probability.
        rhat: largest R-hat over coordinates.
        ess: smallest effective sample size over coordinates.
    """

    z: Tensor
    acceptance: float
    rhat: float
    ess: float


@torch.inference_mode(False)
def sample_hmc(
    target: Target,
    config: HMCConfig | None = None,
    seed: int = 0,
    tick: Callable[[int], None] = lambda n: None,
) -> HMCDraws:
    """Sample the target, from all data; ``tick`` is called with numbers of finished transitions.

    Raises:
        NotFiniteError: no chain starts where the log density is finite.
    """
    config = config or HMCConfig()
    with seeded(seed, target.device):
        z, acceptance = _run_chains(target, config, tick)
    worst_rhat = torch.nan_to_num(split_rhat(z), nan=torch.inf).max()
    return HMCDraws(z, acceptance, float(worst_rhat), float(effective_sample_size(z).min()))


def _run_chains(target: Target, config: HMCConfig, tick: Callable[[int], None]) -> tuple[Tensor, float]:
    """Return the kept samples ``[C, n, d]`` and the mean acceptance probability."""
    z = INITIAL_SD * torch.randn(config.chains, target.space.dim, dtype=target.dtype, device=target.device)
    whitening = AffineMap.translation(torch.zeros_like(z[0]))
    log_step = torch.full((), INITIAL_LOG_STEP, dtype=z.dtype, device=z.device)
    mass_interval = max(1, config.warmup // NUM_MASS_UPDATES)
    samples: list[Tensor] = []
    recent: list[Tensor] = []
    total_acceptance, state, power = 0.0, None, INITIAL_POWER
    for t in range(config.num_transitions):
        warming_up = t < config.warmup
        if warming_up:
            power = min(1.0, INITIAL_POWER + (1 - INITIAL_POWER) * 2 * t / config.warmup)
            if t and t % mass_interval == 0:
                whitening, recent = AffineMap.from_samples(torch.cat(recent)), []
            state = None  # density and gradient belong to another power or mass matrix
        density = partial(_tempered_state, target, whitening, power)
        if state is None:
            state = density(whitening.inverse(z))
            if warming_up and bool(_is_stuck(state).any()):
                z = _restart(z, _is_stuck(state))
                state = density(whitening.inverse(z))
        leapfrogs = int(torch.randint(MIN_LEAPFROGS, MAX_LEAPFROGS + 1, ()))
        step_fractions = MIN_STEP_FRACTION ** torch.rand_like(z[:, :1])
        state, acceptance = transition(density, state, log_step.exp() * step_fractions, leapfrogs)
        z = whitening(state.z)
        if warming_up:
            log_step = log_step + LOG_STEP_GAIN * (acceptance.mean() - TARGET_ACCEPTANCE)
            recent = [*recent, z][-mass_interval // 2 :]
        else:
            total_acceptance += float(acceptance.mean())
            if (t - config.warmup) % config.thin == config.thin - 1:
                samples.append(z)
        tick(1)
    return torch.stack(samples, 1), total_acceptance / (config.samples * config.thin)


def _tempered_state(target: Target, whitening: AffineMap, power: float, u: Tensor) -> HMCState:
    log_prob, grad = value_and_grad(lambda u: power * target(whitening(u)), u)
    return HMCState(u, log_prob, grad)


def _is_stuck(state: HMCState) -> Tensor:
    """Return which chains have a log density or gradient that is not finite, ``[C]``: they could never move."""
    return ~(state.log_prob.isfinite() & state.grad.isfinite().all(1))


def _restart(z: Tensor, stuck: Tensor) -> Tensor:
    """Return ``z [C, d]`` with stuck chains moved to random positions of others.

    Raises:
        NotFiniteError: all chains are stuck.
    """
    if bool(stuck.all()):
        raise NotFiniteError(
            "The reference chains cannot start: the log joint is not finite at any starting point.",
            fix="check the scales of the parameters: chains start within a few units of 0",
        )
    restarted = z.clone()
    restarted[stuck] = z[~stuck][torch.randint(int((~stuck).sum()), (int(stuck.sum()),), device=z.device)]
    return restarted
