"""Hamiltonian Monte Carlo (Neal 2011), all chains in one batch.

    z       position                                [N, d]
    v       momentum, v ~ N(0, M), M = diag(1/s²)   [N, d]
    H       −log π(z) + ½ Σ (s v)²                  [N]

A target gives the log density and its gradient; the gradient at the current position is carried along, so that a
transition of L leapfrog steps costs L gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Target = Callable[[Tensor], tuple[Tensor, Tensor]]
"""``z [N, d]`` to ``log π(z) [N]`` up to a constant and its gradient ``[N, d]``."""


@dataclass(frozen=True)
class State:
    """Where chains are: positions ``[N, d]``, log density ``[N]`` and its gradient ``[N, d]``."""

    z: Tensor
    log_prob: Tensor
    grad: Tensor


def leapfrog(
    target: Target, state: State, v: Tensor, step: Tensor, scale: Tensor, steps: int
) -> tuple[State, Tensor]:
    """``steps`` leapfrog steps from a position and momentum; reversible, and of second order in ``step``.

    Args:
        target: log density and gradient.
        state: where the chains are.
        v: momenta ``[N, d]``.
        step: step sizes ``[N, 1]``.
        scale: ``s``, length scales of the coordinates, broadcast to ``[N, d]``.
        steps: how many.
    """
    z, log_prob, grad = state.z, state.log_prob, state.grad
    v = v + 0.5 * step * grad
    for i in range(steps):
        z = z + step * scale.square() * v
        log_prob, grad = target(z)
        v = v + (step if i < steps - 1 else 0.5 * step) * grad
    return State(z, log_prob, grad), v


def kinetic(v: Tensor, scale: Tensor) -> Tensor:
    """``½ Σ (s v)²``, ``[N]``."""
    return 0.5 * (scale * v).square().sum(-1)


def transition(target: Target, state: State, step: Tensor, scale: Tensor, steps: int) -> tuple[State, Tensor]:
    """One transition that leaves ``target`` invariant; also the acceptance probability of each chain ``[N]``.

    A proposal whose energy is not finite is refused.
    """
    v = torch.randn_like(state.z) / scale
    proposal, v_new = leapfrog(target, state, v, step, scale, steps)
    change = proposal.log_prob - kinetic(v_new, scale) - state.log_prob + kinetic(v, scale)
    accept = torch.nan_to_num(change, nan=-torch.inf).clamp_max(0).exp()
    taken = torch.rand_like(accept) < accept
    return select(taken, proposal, state), accept


def select(taken: Tensor, a: State, b: State) -> State:
    """``a`` where ``taken [N]``, else ``b``."""
    wide = taken.unsqueeze(-1)
    return State(
        torch.where(wide, a.z, b.z),
        torch.where(taken, a.log_prob, b.log_prob),
        torch.where(wide, a.grad, b.grad),
    )
