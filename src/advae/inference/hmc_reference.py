"""A long run of Hamiltonian Monte Carlo to set beside a posterior: the project's own transitions, tuned in a warm-up.

    z = μ + L u          chains move in u; μ and L Lᵀ are the moments of all chains, taken anew in the warm-up

The chains begin at an over-dispersed start, under a low power of the target that rises to 1, so that modes that hang
together at a higher temperature are filled in proportion. What is tuned (step size, and with L the mass) is tuned in
the warm-up alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from advae.errors import NotFiniteError
from advae.evaluation.likelihood.annealing import with_gradient
from advae.evaluation.likelihood.hmc import State, transition
from advae.inference.target import Target
from advae.metrics.rhat import effective_size, rhat
from advae.model import seeded

ACCEPTANCE = 0.8  # aimed at: above the 0.65 that is cheapest, as steps must also serve narrow places
GAIN = 0.1  # by which the log step follows the acceptance
STARTS, COLD = 2.0, 0.1  # standard deviation of the start; the power that the warm-up begins with
FEWEST, MOST = 5, 25  # leapfrog steps of a transition, drawn anew each time: no orbit closes for ever
# The smallest of the step sizes, as a share of the largest: each chain draws its own every time (Neal 2011), so that no
# chain stays where the target is narrower than elsewhere.
SMALLEST = 0.05
RENEWED = 8  # times that the mass is taken anew in the warm-up


@dataclass(frozen=True)
class Reference:
    """What the chains gave.

    Attributes:
        z: unconstrained draws ``[C, n, d]``.
        acceptance: the mean share of proposals that were taken.
        rhat, ess: the worst over coordinates.
    """

    z: Tensor
    acceptance: float
    rhat: float
    ess: float


@dataclass(frozen=True)
class HMC:
    """How long.

    Attributes:
        chains: side by side.
        warmup: transitions that tune.
        draws: of each chain that are kept.
        thin: transitions between two of them.
    """

    chains: int = 64
    warmup: int = 800
    draws: int = 500
    thin: int = 4

    @property
    def ticks(self) -> int:
        """Transitions in all."""
        return self.warmup + self.draws * self.thin


def hmc(
    target: Target, options: HMC | None = None, seed: int = 0, tick: Callable[[int], None] = lambda n: None
) -> Reference:
    """Draws of the posterior by many chains.

    Args:
        target: its log density; all of the data are used.
        options: how long.
        seed: of everything random.
        tick: is told of every transition.

    Raises:
        NotFiniteError: no chain could begin.
    """
    options = options or HMC()
    with seeded(seed, target.device):
        return _run(target, options, tick)


def _run(target: Target, options: HMC, tick: Callable[[int], None]) -> Reference:
    d = target.space.dim
    z = STARTS * torch.randn(options.chains, d, dtype=target.dtype, device=target.device)
    mean, factor = torch.zeros_like(z[0]), torch.eye(d, dtype=z.dtype, device=z.device)
    log_step = torch.full((), -1.5, dtype=z.dtype, device=z.device)
    every = max(1, options.warmup // RENEWED)
    kept: list[Tensor] = []
    recent: list[Tensor] = []
    accepted, state, power = 0.0, None, COLD
    for t in range(options.ticks):
        warm = t < options.warmup
        if warm:
            power = min(1.0, COLD + (1 - COLD) * 2 * t / options.warmup)
            if t and t % every == 0:
                mean, factor = moments(torch.cat(recent))
                recent = []
            state = None  # another power, or another mass: what is known of the position is stale

        def log_density(u: Tensor) -> State:
            value, grad = with_gradient(lambda u: power * target(mean + u @ factor.mT), u)  # noqa: B023
            return State(u, value, grad)

        if state is None:
            state = log_density(whitened(z, mean, factor))
            if warm and bool(lost(state).any()):
                z = restarted(z, lost(state))
                state = log_density(whitened(z, mean, factor))
        steps = int(torch.randint(FEWEST, MOST + 1, ()))
        shares = SMALLEST ** torch.rand_like(z[:, :1])
        state, accept = transition(log_density, state, log_step.exp() * shares, steps)
        z = mean + state.z @ factor.mT
        if warm:
            log_step = log_step + GAIN * (accept.mean() - ACCEPTANCE)
            recent.append(z)
            recent = recent[-every // 2 :]
        else:
            accepted += float(accept.mean())
            if (t - options.warmup) % options.thin == options.thin - 1:
                kept.append(z)
        tick(1)
    draws = torch.stack(kept, 1)
    worst = float(torch.nan_to_num(rhat(draws), nan=torch.inf).max())
    return Reference(
        draws, accepted / (options.draws * options.thin), worst, float(effective_size(draws).min())
    )


def moments(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``[d]`` and a lower triangular factor ``[d, d]`` of the covariance of ``z [N, d]``, never singular."""
    mean, eye = z.mean(0), torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    cov = (z - mean).mT @ (z - mean) / len(z)
    return mean, torch.linalg.cholesky(cov + 1e-6 * cov.diagonal().mean() * eye)


def whitened(z: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """``u [N, d]`` of ``z [N, d]``."""
    return torch.linalg.solve_triangular(factor, (z - mean).mT, upper=False).mT


def lost(state: State) -> Tensor:
    """Chains that stand where the log density or its gradient is not finite, ``[C]``: from there none ever moves."""
    return ~(state.log_prob.isfinite() & state.grad.isfinite().all(1))


def restarted(z: Tensor, lost: Tensor) -> Tensor:
    """``z [C, d]`` with the lost chains where others are, drawn at random.

    Raises:
        NotFiniteError: all of them are lost.
    """
    if bool(lost.all()):
        raise NotFiniteError(
            "the reference chains cannot begin: the log joint is finite at none of their starts",
            remedy="check the scales of the parameters: they begin within a few units of 0",
        )
    found = z.clone()
    found[lost] = z[~lost][torch.randint(int((~lost).sum()), (int(lost.sum()),), device=z.device)]
    return found
