"""Contrast losses for learning log density ratios.

A critic ``T`` sees samples of P and of Q and returns one number per sample, ``[B]``. In nats:

    logistic   max_T  E_P[log σ(T)] + E_Q[log σ(−T)]     T* = log P − log Q       AS-VAE lemma 1, AVB (3.3)
    kl         max_T  E_P[T] − E_Q[exp(T − 1)]           T* = 1 + log P − log Q   BAVAE (6), (14)

The log ratio is *known terms + a learned residual*: log densities that the models can compute are
added to the critic's output, and only the rest is learned. Adding any function of the sample does not move the
optimum of the sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

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
    """

    loss: Tensor
    log_ratio_p: Tensor
    log_ratio_q: Tensor

    def diagnostics(self, prefix: str) -> dict[str, Tensor]:
        """Return detached diagnostics, ``[B]`` each: accuracy, saturation and the log ratios on P and on Q."""
        p, q = self.log_ratio_p.detach(), self.log_ratio_q.detach()
        return {
            f"{prefix}/accuracy": 0.5 * ((p > 0).float() + (q < 0).float()),
            f"{prefix}/saturation": 0.5
            * ((p.abs() > SATURATION_NATS).float() + (q.abs() > SATURATION_NATS).float()),
            f"{prefix}/log_ratio_p": p,
            f"{prefix}/log_ratio_q": q,
        }


def logistic_contrast(t_p: Tensor, t_q: Tensor) -> Contrast:
    """Return the logistic contrast of critic values at samples of P and of Q, ``[B]`` each."""
    return Contrast(logistic_loss(t_p, t_q), t_p, t_q)


def kl_contrast(t_p: Tensor, t_q: Tensor) -> Contrast:
    """Return the KL contrast of critic values at samples of P and of Q, ``[B]`` each."""
    return Contrast(kl_loss(t_p, t_q), t_p - 1, t_q - 1)
