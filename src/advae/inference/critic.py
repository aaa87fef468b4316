"""The critic of inference: it is told the target, and learns only how q differs from it.

    T(u) = a κ(u) + t(ū, κ)            log q(u) / r(u), where it is right
    κ    = log p(u) − log r(u) − c     known but for the constant c; held between LOWEST and FAR
    a    a learned number              from 0, where q is r, to 1, where q is p up to its normaliser

"Let a critic learn only what is not known": at first q is its own normal r and nothing is to be learned; where q comes
to the posterior, log q/r is κ but for a constant, and nothing is to be learned again. A plain critic must draw the
whole posterior by heart, in a network that knows nothing of where it is narrow (measured in docs/inference.md).

κ is held below because draws of r lie where p is e^−1000 of itself; there T is t alone. Above it goes on: in a heavy
tail p is far above r, log r falls as a square, and where κ were held, what draws minimise (T + log r − log p) would
only reward them for going further out. t is shown κ up to HIGHEST.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advae.networks.residual_mlp import ResidualCritic

LOWEST, HIGHEST = -15.0, 10.0  # nats: beyond, a logistic critic is sure anyway
FAR = 100.0  # nats: where κ ends, so that nothing overflows
INPUT = 0.1  # factor by which κ enters the network: of the size of ū


class Critic(nn.Module):
    """One critic.

    Args:
        d: length of u.
        width, blocks: of its network.
    """

    def __init__(self, d: int, width: int, blocks: int) -> None:
        super().__init__()
        self.residual = ResidualCritic((1,), (d,), width=width, blocks=blocks)
        self.share = nn.Parameter(torch.zeros(()))

    def forward(self, known: Tensor, bar: Tensor) -> Tensor:
        """``T [n]`` of ``κ [n]`` and ``ū [n, d]``."""
        seen = known.clamp(max=HIGHEST).unsqueeze(-1)
        return self.residual(INPUT * seen, bar) + self.share * known


def held(ratio: Tensor) -> Tensor:
    """``κ`` from ``log p − log r − c``; where it is held, no gradient passes."""
    return torch.nan_to_num(ratio, nan=LOWEST, neginf=LOWEST).clamp(LOWEST, FAR)
