"""Contrast losses for learning log density ratios.

A critic ``T`` sees samples of P and of Q and returns one number per sample, ``[B]``. In nats:

    logistic   max_T  E_P[log σ(T)] + E_Q[log σ(−T)]     T* = log P − log Q       AS-VAE lemma 1, AVB (3.3)
    kl         max_T  E_P[T] − E_Q[exp(T − 1)]           T* = 1 + log P − log Q   BAVAE (6), (14)

The log ratio is *known terms + a learned residual*: log densities that the models can compute are
added to the critic's output, and only the rest is learned. Adding any function of the sample does not move the
optimum of the sum.

A batch of n pairs shows a log ratio up to about log n nats only. Larger ones are *telescoped* (Rhodes, Xu and Gutmann
2020): a critic with K outputs learns the log ratios between neighbors in a chain of waymarks from P to Q, its bridges,

    log P/Q = Σ_k log p_k/p_k+1,    p_0 = P,  p_K = Q,    p_k the law of x_k = √(1 − a_k²) p + a_k q

by a logistic contrast each. Here a_k = sin φ_k with φ_k = (1 − cos(πk/K)) π/4: the chain is the same from Q to P, and
its steps are short near both ends, where the laws may be narrow.

Zero-centered penalties limit the slope of a critic T, an alternative to spectral normalization:

    R1, R2     γ/2 E_P‖∇T‖²,  γ/2 E_Q‖∇T‖²       Mescheder, Geiger and Nowozin 2018, (9) and (10)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from advae.errors import ConfigError

SATURATION_NATS = 10.0  # beyond it a logistic critic's error is below 1 in 20,000, and so is its gradient


def logistic_loss(t_p: Tensor, t_q: Tensor) -> Tensor:
    """Return the logistic contrast as a loss to minimize, ``[B]``; 2 log 2 where P and Q cannot be told apart."""
    return softplus(-t_p) + softplus(t_q)


def kl_loss(t_p: Tensor, t_q: Tensor) -> Tensor:
    """Return the KL contrast as a loss to minimize, ``[B]``; at its optimum ``−KL(P‖Q)``.

    BAVAE prints it twice: (14) as here, and (6) with ``D = 1 − T`` in place of T.
    """
    return torch.exp(t_q - 1) - t_p


@dataclass(frozen=True)
class Contrast:
    """A critic's loss on one batch from P and one from Q, with its log ratios.

    Attributes:
        loss: the critic's loss, ``[B]``.
        log_ratio_p: ``log P/Q`` at samples of P, ``[B]``.
        log_ratio_q: ``log P/Q`` at samples of Q, ``[B]``.
        bridges: of a telescoped critic, each bridge's contrast between its two waymarks; otherwise empty.
    """

    loss: Tensor
    log_ratio_p: Tensor
    log_ratio_q: Tensor
    bridges: tuple[Contrast, ...] = ()

    def diagnostics(self, prefix: str) -> dict[str, Tensor]:
        """Return detached diagnostics, ``[B]`` each: accuracy, saturation and the log ratios on P and on Q.

        Those of a bridge, at its own waymarks, follow under ``PREFIX/bridge_K``.
        """
        p, q = self.log_ratio_p.detach(), self.log_ratio_q.detach()
        diagnostics = {
            f"{prefix}/accuracy": 0.5 * ((p > 0).float() + (q < 0).float()),
            f"{prefix}/saturation": 0.5
            * ((p.abs() > SATURATION_NATS).float() + (q.abs() > SATURATION_NATS).float()),
            f"{prefix}/log_ratio_p": p,
            f"{prefix}/log_ratio_q": q,
        }
        for number, bridge in enumerate(self.bridges, 1):
            diagnostics |= bridge.diagnostics(f"{prefix}/bridge_{number}")
        return diagnostics


def logistic_contrast(t_p: Tensor, t_q: Tensor) -> Contrast:
    """Return the logistic contrast of critic values at samples of P and of Q, ``[B]`` each."""
    return Contrast(logistic_loss(t_p, t_q), t_p, t_q)


def kl_contrast(t_p: Tensor, t_q: Tensor) -> Contrast:
    """Return the KL contrast of critic values at samples of P and of Q, ``[B]`` each."""
    return Contrast(kl_loss(t_p, t_q), t_p - 1, t_q - 1)


def add_known_terms(residual: Tensor, known: Tensor | float) -> Tensor:
    """Return known terms + residual, ``[B]``.

    Raises:
        ConfigError: the residual has bridges. Their laws are not known, and neighbors differ little as they are.
    """
    if residual.dim() > 1:
        raise ConfigError(
            "A critic with bridges cannot have known terms.",
            given=f"model.critic.num_bridges = {residual.shape[1]}",
            fix="set method.known to none, or model.critic.num_bridges to 1",
        )
    return residual + known


def interpolate_waymarks(p: Tensor, q: Tensor, num_bridges: int) -> list[Tensor]:
    """Return the waymarks between samples of P and of Q, ``[B, ...]`` each, without the ends and without gradients."""
    angles = [math.pi / 4 * (1 - math.cos(math.pi * k / num_bridges)) for k in range(1, num_bridges)]
    return [(math.cos(angle) * p + math.sin(angle) * q).detach() for angle in angles]


def telescoped_contrast(critic: Callable[..., Tensor], p: Sequence[Tensor], q: Sequence[Tensor]) -> Contrast:
    """Return the contrast of a critic with any number of bridges between samples of P and of Q.

    Args:
        critic: the log ratio ``[B]`` as a function of one or more inputs, which gives the plain logistic contrast; or
            ``[B, K]``, K bridges from P to Q. Their sum is the log ratio, and the sum of their contrasts the loss.
        p, q: inputs of the critic, ``[B, ...]`` each, from P and from Q. Waymark k mixes each of them.
    """
    t_p, t_q = critic(*p), critic(*q)
    if t_p.dim() == 1:
        return logistic_contrast(t_p, t_q)
    waymarks = zip(
        *(interpolate_waymarks(a, b, t_p.shape[1]) for a, b in zip(p, q, strict=True)), strict=True
    )
    t = [t_p, *(critic(*waymark) for waymark in waymarks), t_q]
    bridges = tuple(logistic_contrast(t[k][:, k], t[k + 1][:, k]) for k in range(len(t) - 1))
    loss = torch.stack([bridge.loss for bridge in bridges]).sum(0)
    return Contrast(loss, t_p.sum(1), t_q.sum(1), bridges)


def input_gradient(critic: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Return ``∇T [B, n]`` with respect to all n numbers of the inputs, ``[B, ...]`` each.

    Differentiable in the critic's parameters where gradients are enabled; elsewhere, as in validation, the derivative
    is computed all the same. A critic's output for one example must not depend on the others.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = tuple(value.detach().requires_grad_() for value in inputs)
        gradients = torch.autograd.grad(critic(*inputs).sum(), inputs, create_graph=create_graph)
    return torch.cat([gradient.flatten(1) for gradient in gradients], 1)


def zero_centered_penalty(
    critic: Callable[..., Tensor], p: Sequence[Tensor], q: Sequence[Tensor], weight: float
) -> Tensor:
    """Return ``γ/2 (‖∇T‖² at P + ‖∇T‖² at Q) [B]``, R1 + R2 with ``γ = weight``."""
    squared = [input_gradient(critic, *inputs).square().sum(1) for inputs in (p, q)]
    return 0.5 * weight * (squared[0] + squared[1])
