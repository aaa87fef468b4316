"""Annealing between a density that can be drawn from and p(x, ·) (Neal 2001), many chains in one batch.

    z = μ + L u           codes and whitened coordinates; annealing runs in u, where f_0 is of unit scale
    f_β(u)                f_0(u)^(1−β) p(x, z(u))^β |L|^β
    log w                 Σ_t (β_t − β_{t−1}) (log f_1(u_{t−1}) − log f_0(u_{t−1}))
    u_t                   one transition of Hamiltonian Monte Carlo on f_{β_t} from u_{t−1}

Upwards, β_0 = 0 to β_T = 1 from u_0 ~ f_0, ``w`` is unbiased for p(x). Downwards, from an exact draw of the
posterior, the same sum over the same temperatures in reverse order is log 1/w, and 1/w is unbiased for 1/p(x).

Step sizes are tuned for each image by a pilot run of chains of their own, at temperatures of its own, and then
frozen: adapting them inside the chain would void both statements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from advae.distributions.base import LOG_2PI
from advae.evaluation.likelihood.hmc import State, transition
from advae.evaluation.likelihood.log_density_grad import with_gradient
from advae.evaluation.resumable import NOWHERE, Slot

Schedule = Literal["sigmoid", "linear"]
SIGMOID_ENDS = 4.0  # the sigmoid schedule runs over ±4 (Wu et al. 2017): more temperatures near both ends
ACCEPTANCE = 0.65  # the rate at which HMC in many dimensions is most efficient (Neal 2011)
PILOT_TEMPERATURES, PILOT_CHAINS, FIRST_STEP, GAIN = 100, 4, 0.2, 0.2


def temperatures(count: int, schedule: Schedule) -> list[float]:
    """``β_0 = 0 … β_count = 1``."""
    t = torch.linspace(-1, 1, count + 1, dtype=torch.float64)
    if schedule == "linear":
        return ((t + 1) / 2).tolist()
    s = torch.sigmoid(SIGMOID_ENDS * t)
    return ((s - s[0]) / (s[-1] - s[0])).tolist()


@dataclass(frozen=True)
class Between(State):
    """A state of ``f_β``, with what both ends say of its positions: log densities ``[N]``, gradients ``[N, d]``."""

    log_0: Tensor
    log_1: Tensor
    grad_0: Tensor
    grad_1: Tensor

    def at(self, beta: float) -> Between:
        """The same positions under another temperature; nothing is computed anew."""
        log_prob, grad = torch.lerp(self.log_0, self.log_1, beta), torch.lerp(self.grad_0, self.grad_1, beta)
        return Between(self.z, log_prob, grad, self.log_0, self.log_1, self.grad_0, self.grad_1)


@dataclass(frozen=True)
class Path:
    """The densities between ``f_0`` and ``p(x, ·)`` for ``N`` chains, in whitened coordinates.

    Attributes:
        mean: ``μ [N, d]``.
        factor: ``L``, lower triangular ``[N, d, d]``, or its diagonal ``[N, d]``.
        log_joint: ``z [N, d]`` to ``log p(x, z) [N]``, each row under its own x.
        log_start: ``z [N, d]`` to the log density of the start; None where that is ``N(μ, L Lᵀ)``.
        draw: codes from the start, ``[N, d]``; None where that is ``N(μ, L Lᵀ)``.
        gradient: :meth:`log_end` and its gradient at ``u``; None: as autograd finds it.
    """

    mean: Tensor
    factor: Tensor
    log_joint: Callable[[Tensor], Tensor]
    log_start: Callable[[Tensor], Tensor] | None = None
    draw: Callable[[], Tensor] | None = None
    gradient: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None

    @property
    def triangular(self) -> bool:
        """Whether L is a whole triangle."""
        return self.factor.dim() == 3

    def z(self, u: Tensor) -> Tensor:
        """Codes of whitened coordinates."""
        if self.triangular:
            return self.mean + torch.bmm(self.factor, u.unsqueeze(-1)).squeeze(-1)
        return self.mean + self.factor * u

    def u(self, z: Tensor) -> Tensor:
        """Whitened coordinates of codes."""
        if self.triangular:
            centred = (z - self.mean).unsqueeze(-1)
            return torch.linalg.solve_triangular(self.factor, centred, upper=False).squeeze(-1)
        return (z - self.mean) / self.factor

    @property
    def log_volume(self) -> Tensor:
        """``log |L|``, ``[N]``."""
        diagonal = self.factor.diagonal(dim1=-2, dim2=-1) if self.triangular else self.factor
        return diagonal.log().sum(-1)

    def first(self) -> Tensor:
        """A draw of ``u`` from ``f_0``."""
        return torch.randn_like(self.mean) if self.draw is None else self.u(self.draw())

    def log_end(self, u: Tensor) -> Tensor:
        """``log f_1(u)``, ``[N]``."""
        return self.log_joint(self.z(u)) + self.log_volume

    def state(self, u: Tensor, beta: float) -> Between:
        """``f_β`` at ``u``, with gradients."""
        log_1, grad_1 = self.gradient(u) if self.gradient else with_gradient(self.log_end, u)
        if self.log_start is None:
            log_0, grad_0 = -0.5 * (u.square().sum(-1) + u.shape[-1] * LOG_2PI), -u
        else:
            density, volume = self.log_start, self.log_volume
            log_0, grad_0 = with_gradient(lambda u: density(self.z(u)) + volume, u)
        return Between(u, log_0, grad_0, log_0, log_1, grad_0, grad_1).at(beta)


def anneal(
    path: Path,
    u: Tensor,
    betas: Sequence[float],
    step: Callable[[float], Tensor],
    leapfrogs: int,
    observe: Callable[[Tensor], None] = lambda accept: None,
    tick: Callable[[int], None] = lambda n: None,
    slot: Slot = NOWHERE,
) -> tuple[Tensor, Tensor]:
    """One run of every chain along ``betas``: the sum of log weights ``[N]`` in float64, mean acceptance ``[N]``.

    Args:
        path: from where to where.
        u: where the chains start, an exact draw of ``f_β`` at the first of ``betas``.
        betas: temperatures, rising or falling.
        step: step sizes ``[N, 1]`` at β; the weights are unbiased only if they were fixed beforehand.
        leapfrogs: leapfrog steps a transition.
        observe: is given the acceptance probabilities ``[N]`` of each transition.
        tick: is told how many transitions were made.
        slot: where the run is kept, to go on from; random numbers go on too.
    """
    log_w = torch.zeros(len(u), dtype=torch.float64, device=u.device)
    accepted, begin = torch.zeros_like(u[:, 0]), 1
    if kept := slot.state():
        u, log_w, accepted = (kept[name].to(u.device) for name in ("u", "log_w", "accepted"))
        begin = int(kept["next"])
        set_random_state(u.device, kept["random"])
        tick(begin - 1)
    state = path.state(u, betas[begin - 1])
    for t in range(begin, len(betas)):
        if slot.due:
            found = {"u": state.z, "log_w": log_w, "accepted": accepted, "next": torch.tensor(t)}
            slot.keep(found | {"random": random_state(u.device)})
        log_w = log_w + (betas[t] - betas[t - 1]) * (state.log_1 - state.log_0).double()
        if t == len(betas) - 1:  # where the last transition would lead has no weight
            break
        target, here = partial(path.state, beta=betas[t]), state.at(betas[t])
        state, accept = transition(target, here, step(betas[t]), leapfrogs)
        accepted = accepted + accept
        observe(accept)
        tick(1)
    return log_w, accepted / max(1, len(betas) - 2)


def random_state(device: torch.device) -> Tensor:
    """The state of the random numbers that are drawn on a device."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def set_random_state(device: torch.device, state: Tensor) -> None:
    """Go on with the random numbers of a device from ``state``."""
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


def tuned_steps(
    path: Path, images: int, schedule: Schedule, leapfrogs: int, tick: Callable[[int], None] = lambda n: None
) -> Tensor:
    """Step sizes by a pilot run upwards, ``[PILOT_TEMPERATURES − 1, images]``: one for each transition of it.

    At each an image's step grows or shrinks by its chains' mean acceptance.
    """
    betas = temperatures(PILOT_TEMPERATURES, schedule)
    first = torch.full((images,), math.log(FIRST_STEP), device=path.mean.device)
    record = [first]

    def adapt(accept: Tensor) -> None:
        record.append(record[-1] + GAIN * (accept.reshape(-1, images).mean(0) - ACCEPTANCE))

    def step(beta: float) -> Tensor:
        return record[-1].exp().repeat(len(path.mean) // images).unsqueeze(-1)

    anneal(path, path.first(), betas, step, leapfrogs, adapt, tick)
    return torch.stack(record[1:]).exp()


def steps_at(steps: Tensor, schedule: Schedule, chains: int) -> Callable[[float], Tensor]:
    """The tuned steps read off at any β, for ``chains`` chains an image, ``[N, 1]``."""
    betas = torch.tensor(temperatures(PILOT_TEMPERATURES, schedule)[1:-1])

    def step(beta: float) -> Tensor:
        nearest = int(torch.searchsorted(betas, beta))
        return steps[min(nearest, len(steps) - 1)].repeat(chains).unsqueeze(-1)

    return step
