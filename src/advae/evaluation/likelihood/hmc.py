"""Hamiltonian Monte Carlo, all chains in one batch (Neal 2011).

    z       position                     [N, d]
    v       momentum, v ~ N(0, I)        [N, d]
    H       −log π(z) + ½ ‖v‖²           [N]

The log density and its gradient are carried along with the position, so that a transition of L leapfrog steps costs L
gradients. Coordinates should have one scale: whiten them first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class HMCState:
    """Positions ``[N, d]``, log density up to a constant ``[N]``, and its gradient ``[N, d]``.

    A subclass may add more tensors ``[N, …]`` that belong to the positions.
    """

    z: Tensor
    log_prob: Tensor
    grad: Tensor


S = TypeVar("S", bound=HMCState)


def leapfrog(
    target: Callable[[Tensor], S], state: S, v: Tensor, step_size: Tensor, num_steps: int
) -> tuple[S, Tensor]:
    """Return state and momentum after ``num_steps`` leapfrog steps: reversible, of second order in ``step_size``.

    Args:
        target: positions ``[N, d]`` to a state.
        state: of the chains.
        v: momenta ``[N, d]``.
        step_size: ``[N, 1]``.
        num_steps: number of steps, each of which costs one gradient.
    """
    v = v + 0.5 * step_size * state.grad
    for i in range(num_steps):
        state = target(state.z + step_size * v)
        v = v + (step_size if i < num_steps - 1 else 0.5 * step_size) * state.grad
    return state, v


def transition(
    target: Callable[[Tensor], S], state: S, step_size: Tensor, num_steps: int
) -> tuple[S, Tensor]:
    """Make one transition that leaves ``target`` invariant; return also each chain's acceptance probability ``[N]``.

    A proposal whose energy is not finite is rejected.
    """
    v = torch.randn_like(state.z)
    proposal, v_new = leapfrog(target, state, v, step_size, num_steps)
    change = proposal.log_prob - state.log_prob - 0.5 * (v_new.square() - v.square()).sum(-1)
    accept_prob = torch.nan_to_num(change, nan=-torch.inf).clamp_max(0).exp()
    return select_states(torch.rand_like(accept_prob) < accept_prob, proposal, state), accept_prob


def select_states(condition: Tensor, a: S, b: S) -> S:
    """Return ``a`` where ``condition [N]`` is true, else ``b``."""
    column = condition.unsqueeze(-1)

    def select(name: str) -> Tensor:
        u, v = getattr(a, name), getattr(b, name)
        return torch.where(column if u.dim() > 1 else condition, u, v)

    return type(a)(*(select(field.name) for field in fields(a)))
