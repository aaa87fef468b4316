"""Hamiltonian Monte Carlo (Neal 2011), all chains in one batch.

    z       position                     [N, d]
    v       momentum, v ~ N(0, I)        [N, d]
    H       −log π(z) + ½ ‖v‖²           [N]

A target gives the log density and its gradient; they are carried along with the position, so that a transition of L
leapfrog steps costs L gradients. Coordinates are expected to be of one scale: whiten them first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class State:
    """Where chains are: positions ``[N, d]``, log density up to a constant ``[N]``, its gradient ``[N, d]``.

    A subclass may carry more about the positions, ``[N, …]`` each.
    """

    z: Tensor
    log_prob: Tensor
    grad: Tensor


S = TypeVar("S", bound=State)


def leapfrog(
    target: Callable[[Tensor], S], state: S, v: Tensor, step: Tensor, steps: int
) -> tuple[S, Tensor]:
    """``steps`` leapfrog steps from a position and momentum; reversible, and of second order in ``step``.

    Args:
        target: positions ``[N, d]`` to a state.
        state: where the chains are.
        v: momenta ``[N, d]``.
        step: step sizes ``[N, 1]``.
        steps: how many.
    """
    v = v + 0.5 * step * state.grad
    for i in range(steps):
        state = target(state.z + step * v)
        v = v + (step if i < steps - 1 else 0.5 * step) * state.grad
    return state, v


def transition(target: Callable[[Tensor], S], state: S, step: Tensor, steps: int) -> tuple[S, Tensor]:
    """One transition that leaves ``target`` invariant; also the acceptance probability of each chain ``[N]``.

    A proposal whose energy is not finite is refused.
    """
    v = torch.randn_like(state.z)
    proposal, v_new = leapfrog(target, state, v, step, steps)
    change = proposal.log_prob - state.log_prob - 0.5 * (v_new.square() - v.square()).sum(-1)
    accept = torch.nan_to_num(change, nan=-torch.inf).clamp_max(0).exp()
    return select(torch.rand_like(accept) < accept, proposal, state), accept


def select(taken: Tensor, a: S, b: S) -> S:
    """``a`` where ``taken [N]``, else ``b``."""
    wide = taken.unsqueeze(-1)

    def choose(name: str) -> Tensor:
        u, v = getattr(a, name), getattr(b, name)
        return torch.where(wide if u.dim() > 1 else taken, u, v)

    return type(a)(*(choose(field.name) for field in fields(a)))
