"""Contrast losses, and the log density ratios that a critic trained by them estimates.

A critic ``T`` sees pairs drawn from P and from Q and gives one number a pair, ``[B]``. In nats:

    logistic   max_T  E_P[log σ(T)] + E_Q[log σ(−T)]     T* = log P − log Q       AS-VAE lemma 1, AVB (3.3)
    kl         max_T  E_P[T] − E_Q[exp(T − 1)]           T* = 1 + log P − log Q   BAVAE (6), (14)

The log ratio is *known terms + a learned residual*: whatever log densities the models at hand can compute are
added to the critic's output, and only the rest is the critic's to learn. Any function of the pair may be
added without moving the optimum of the sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

SATURATED = 10.0  # nats: beyond it a logistic critic is sure to one part in 20,000 and its gradient is gone


def logistic_loss(t_p: Tensor, t_q: Tensor) -> Tensor:
    """The logistic contrast as a loss to minimise, ``[B]``; 2 log 2 where P and Q cannot be told apart."""
    return softplus(-t_p) + softplus(t_q)


def kl_loss(t_p: Tensor, t_q: Tensor) -> Tensor:
    """The KL contrast as a loss to minimise, ``[B]``; at its optimum ``−KL(P‖Q)``.

    BAVAE prints it twice: (14) as here, and (6) with ``D = 1 − T`` in place of T.
    """
    return torch.exp(t_q - 1) - t_p


@dataclass(frozen=True)
class Contrast:
    """What a critic said of a batch of pairs from P and one from Q, as its loss was made from it.

    Attributes:
        loss: the critic's loss, ``[B]``.
        log_ratio_p: ``log P/Q`` at the pairs from P, ``[B]``.
        log_ratio_q: ``log P/Q`` at the pairs from Q, ``[B]``.
    """

    loss: Tensor
    log_ratio_p: Tensor
    log_ratio_q: Tensor

    def report(self, prefix: str) -> dict[str, Tensor]:
        """Detached diagnostics: accuracy, saturation and mean log ratio on each side, ``[B]`` each."""
        p, q = self.log_ratio_p.detach(), self.log_ratio_q.detach()
        return {
            f"{prefix}/accuracy": 0.5 * ((p > 0).float() + (q < 0).float()),
            f"{prefix}/saturation": 0.5 * ((p.abs() > SATURATED).float() + (q.abs() > SATURATED).float()),
            f"{prefix}/log_ratio_p": p,
            f"{prefix}/log_ratio_q": q,
        }


def logistic_contrast(t_p: Tensor, t_q: Tensor) -> Contrast:
    """The logistic contrast of critic values at pairs from P and from Q, ``[B]`` each."""
    return Contrast(logistic_loss(t_p, t_q), t_p, t_q)


def kl_contrast(t_p: Tensor, t_q: Tensor) -> Contrast:
    """The KL contrast of critic values at pairs from P and from Q, ``[B]`` each."""
    return Contrast(kl_loss(t_p, t_q), t_p - 1, t_q - 1)
