"""Annealing paths from a density that can be sampled to p(x, ·), for many chains in one batch (Neal 2001).

    z = μ + L u           latents and whitened coordinates; annealing runs in u, where f_0 has unit scale
    f_β(u)                f_0(u)^(1−β) p(x, z(u))^β |L|^β
    log w                 Σ_t (β_t − β_{t−1}) (log f_1(u_{t−1}) − log f_0(u_{t−1}))
    u_t                   one transition of Hamiltonian Monte Carlo on f_{β_t} from u_{t−1}

Forward, from β_0 = 0 to β_T = 1 and from u_0 ~ f_0, ``w`` is unbiased for p(x). In reverse, from an exact sample of the
posterior, the same sum over the same temperatures in reverse order is log 1/w, and 1/w is unbiased for 1/p(x).

Step sizes are tuned for each example by a pilot run with its own chains and temperatures, and then frozen: adapting
them within the chain would invalidate both statements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from advae.distributions.base import LOG_2PI
from advae.evaluation.eval_config import Schedule
from advae.evaluation.likelihood.hmc import HMCState, transition
from advae.evaluation.likelihood.log_density_grad import value_and_grad
from advae.evaluation.resumable import NOT_STORED, PartialResult
from advae.random import get_rng_state, set_rng_state

GEOMETRIC_RANGE = 1000.0  # of the geometric schedule: ratio of its last and first differences
SIGMOID_RANGE = 4.0  # the sigmoid schedule runs over ±4 (Wu et al. 2017): more temperatures near both ends
TARGET_ACCEPTANCE = 0.65  # at which HMC in many dimensions is most efficient (Neal 2011)
PILOT_TEMPERATURES, PILOT_CHAINS = 100, 4
INITIAL_STEP_SIZE, ADAPTATION_RATE = 0.2, 0.2


def make_temperatures(count: int, schedule: Schedule) -> list[float]:
    """Return ``β_0 = 0 … β_count = 1``."""
    t = torch.linspace(-1, 1, count + 1, dtype=torch.float64)
    if schedule == "linear":
        return ((t + 1) / 2).tolist()
    if schedule == "geometric":
        return ((GEOMETRIC_RANGE ** ((t + 1) / 2) - 1) / (GEOMETRIC_RANGE - 1)).tolist()
    s = torch.sigmoid(SIGMOID_RANGE * t)
    return ((s - s[0]) / (s[-1] - s[0])).tolist()


@dataclass(frozen=True)
class AnnealedState(HMCState):
    """A state of ``f_β``, with log densities ``[N]`` and gradients ``[N, d]`` of both ends at its positions."""

    log_0: Tensor
    log_1: Tensor
    grad_0: Tensor
    grad_1: Tensor

    def with_temperature(self, beta: float) -> AnnealedState:
        """Return the same positions under another temperature, without evaluating a density."""
        log_prob, grad = torch.lerp(self.log_0, self.log_1, beta), torch.lerp(self.grad_0, self.grad_1, beta)
        return AnnealedState(self.z, log_prob, grad, self.log_0, self.log_1, self.grad_0, self.grad_1)


@dataclass(frozen=True)
class AnnealingPath:
    """The densities between ``f_0`` and ``p(x, ·)`` for ``N`` chains, in whitened coordinates.

    Attributes:
        mean: ``μ [N, d]``.
        scale: ``L``, lower triangular ``[N, d, d]``, or its diagonal ``[N, d]``.
        log_joint: ``z [N, d]`` to ``log p(x, z) [N]``, each row for its own x.
        initial_log_prob, sample_initial_z: density and samples of the initial distribution; None for ``N(μ, L Lᵀ)``.
        final_and_grad: :meth:`log_final` and its gradient at ``u``; None uses autograd.
    """

    mean: Tensor
    scale: Tensor
    log_joint: Callable[[Tensor], Tensor]
    initial_log_prob: Callable[[Tensor], Tensor] | None = None
    sample_initial_z: Callable[[], Tensor] | None = None
    final_and_grad: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None

    @property
    def is_triangular(self) -> bool:
        """Whether L is a full lower triangle."""
        return self.scale.dim() == 3

    def to_latents(self, u: Tensor) -> Tensor:
        """Return ``z`` of whitened coordinates."""
        if self.is_triangular:
            return self.mean + torch.bmm(self.scale, u.unsqueeze(-1)).squeeze(-1)
        return self.mean + self.scale * u

    def whiten(self, z: Tensor) -> Tensor:
        """Return the whitened coordinates ``u`` of latents."""
        if self.is_triangular:
            centered = (z - self.mean).unsqueeze(-1)
            return torch.linalg.solve_triangular(self.scale, centered, upper=False).squeeze(-1)
        return (z - self.mean) / self.scale

    @property
    def log_volume(self) -> Tensor:
        """``log |L|``, ``[N]``."""
        diagonal = self.scale.diagonal(dim1=-2, dim2=-1) if self.is_triangular else self.scale
        return diagonal.log().sum(-1)

    def sample_initial(self) -> Tensor:
        """Return ``u ~ f_0``."""
        if self.sample_initial_z is None:
            return torch.randn_like(self.mean)
        return self.whiten(self.sample_initial_z())

    def log_final(self, u: Tensor) -> Tensor:
        """Return ``log f_1(u)``, ``[N]``."""
        return self.log_joint(self.to_latents(u)) + self.log_volume

    def state(self, u: Tensor, beta: float) -> AnnealedState:
        """Return the state of ``f_β`` at ``u``, with gradients."""
        log_1, grad_1 = self.final_and_grad(u) if self.final_and_grad else value_and_grad(self.log_final, u)
        if self.initial_log_prob is None:
            log_0, grad_0 = -0.5 * (u.square().sum(-1) + u.shape[-1] * LOG_2PI), -u
        else:
            log_prob, volume = self.initial_log_prob, self.log_volume
            log_0, grad_0 = value_and_grad(lambda u: log_prob(self.to_latents(u)) + volume, u)
        return AnnealedState(u, log_0, grad_0, log_0, log_1, grad_0, grad_1).with_temperature(beta)


class WeightTrace:
    """Log mean weight, and weighted mean of ``log f_1 − log f_0``, over each example's chains along a run.

    Args:
        steps: indices of the temperatures to record, increasing.
        num_examples: ``b``; chains are chain-major.

    Attributes:
        values: both for each of the temperatures, ``[len(steps), 2, b]`` in float64.
    """

    def __init__(self, steps: Sequence[int], num_examples: int) -> None:
        self._rows = {t: row for row, t in enumerate(steps)}
        self.values = torch.zeros(len(steps), 2, num_examples, dtype=torch.float64)

    def record(self, t: int, log_w: Tensor, log_ratio: Tensor) -> None:
        """Record step t, if it is one of ``steps``, from what the chains have there, ``[chains · b]`` each."""
        if t in self._rows:
            log_w, log_ratio = (v.reshape(-1, self.values.shape[-1]) for v in (log_w, log_ratio))
            log_mean = torch.logsumexp(log_w, 0) - math.log(len(log_w))
            self.values[self._rows[t]] = torch.stack([log_mean, (torch.softmax(log_w, 0) * log_ratio).sum(0)])


def anneal(
    path: AnnealingPath,
    u: Tensor,
    betas: Sequence[float],
    step_size: Callable[[float], Tensor],
    leapfrog_steps: int,
    on_accept: Callable[[Tensor], None] = lambda accept: None,
    tick: Callable[[int], None] = lambda n: None,
    partial_result: PartialResult = NOT_STORED,
    trace: WeightTrace | None = None,
) -> tuple[Tensor, Tensor]:
    """Run every chain along ``betas``; return the log weights ``[N]`` in float64 and mean acceptances ``[N]``.

    Args:
        path: the densities.
        u: initial positions, exact samples of ``f_β`` at the first of ``betas``.
        betas: temperatures, increasing or decreasing.
        step_size: step sizes ``[N, 1]`` at β; the weights are unbiased only if these were fixed beforehand.
        leapfrog_steps: per transition.
        on_accept: called with the acceptance probabilities ``[N]`` of each transition.
        tick: called with the number of transitions made.
        partial_result: where the state of the run, random state included, is stored for resuming.
        trace: records weights along the run.
    """
    trace = trace or WeightTrace((), 1)
    log_w = torch.zeros(len(u), dtype=torch.float64, device=u.device)
    accepted, begin = torch.zeros_like(u[:, 0]), 1
    if saved := partial_result.load_state():
        u, log_w, accepted = (saved[name].to(u.device) for name in ("u", "log_w", "accepted"))
        begin = int(saved["next"])
        set_rng_state(u.device, saved["random"])
        trace.values = saved.get("trace", trace.values)
        tick(begin - 1)
    state = path.state(u, betas[begin - 1])
    for t in range(begin, len(betas)):
        if partial_result.is_save_due:
            tensors = {"u": state.z, "log_w": log_w, "accepted": accepted, "next": torch.tensor(t)}
            partial_result.save_state(tensors | {"random": get_rng_state(u.device), "trace": trace.values})
        log_ratio = (state.log_1 - state.log_0).double()
        trace.record(t - 1, log_w, log_ratio)
        log_w = log_w + (betas[t] - betas[t - 1]) * log_ratio
        if t == len(betas) - 1:  # the position after the last transition would have no weight
            trace.record(t, log_w, log_ratio)
            break
        target, current = partial(path.state, beta=betas[t]), state.with_temperature(betas[t])
        state, accept = transition(target, current, step_size(betas[t]), leapfrog_steps)
        accepted = accepted + accept
        on_accept(accept)
        tick(1)
    return log_w, accepted / max(1, len(betas) - 2)


def tune_step_sizes(
    path: AnnealingPath,
    num_examples: int,
    schedule: Schedule,
    leapfrog_steps: int,
    tick: Callable[[int], None] = lambda n: None,
) -> Tensor:
    """Tune step sizes by a forward pilot run; return one per transition, ``[PILOT_TEMPERATURES − 1, num_examples]``.

    After each transition an example's log step size is adapted by the mean acceptance of its chains.
    """
    betas = make_temperatures(PILOT_TEMPERATURES, schedule)
    log_steps = [torch.full_like(path.mean[:num_examples, 0], math.log(INITIAL_STEP_SIZE))]

    def adapt(accept: Tensor) -> None:
        excess = accept.reshape(-1, num_examples).mean(0) - TARGET_ACCEPTANCE
        log_steps.append(log_steps[-1] + ADAPTATION_RATE * excess)

    def step_size(beta: float) -> Tensor:
        return log_steps[-1].exp().repeat(len(path.mean) // num_examples).unsqueeze(-1)

    anneal(path, path.sample_initial(), betas, step_size, leapfrog_steps, adapt, tick)
    return torch.stack(log_steps[1:]).exp()


def make_step_size_fn(step_sizes: Tensor, schedule: Schedule, chains: int) -> Callable[[float], Tensor]:
    """Return a function from β to the tuned step sizes at the next pilot temperature, ``[chains · examples, 1]``."""
    betas = torch.tensor(make_temperatures(PILOT_TEMPERATURES, schedule)[1:-1], dtype=torch.float32)

    def step_size(beta: float) -> Tensor:
        index = int(torch.searchsorted(betas, beta))
        return step_sizes[min(index, len(step_sizes) - 1)].repeat(chains).unsqueeze(-1)

    return step_size
