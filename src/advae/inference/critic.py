"""Critic that is given the target density and learns only how q differs from it.

    T(u) = a κ(u) + t(ū, κ)            at the optimum log q(u) / r(u)
    κ    = log p(u) − log r(u) − c     known except for the constant c; clamped to [MIN_LOG_RATIO, MAX_LOG_RATIO]
    a    a learned number              from 0 (q = r) to 1 (q = p up to its normalizer)

A critic should learn only what is not known. At first q equals its normal r and the log ratio is zero. When q reaches
the posterior, log q/r equals κ up to a constant, and again nothing remains to be learned. A critic without κ must
represent the whole posterior in a network that knows nothing of its scales (measured in docs/reference/inference.md).

κ is clamped below because samples of r reach places where p is e^−1000 of itself; there T is t alone. It is clamped
above only at MAX_LOG_RATIO: in a heavy tail p is far above r and log r falls quadratically, so that with a small upper
limit samples would be rewarded for moving outward. The input of t is clamped at MAX_INPUT_LOG_RATIO.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advae.networks.residual_mlp import ResidualCritic

MIN_LOG_RATIO, MAX_INPUT_LOG_RATIO = -15.0, 10.0  # nats: beyond, a logistic critic is saturated anyway
MAX_LOG_RATIO = 100.0  # nats: prevents overflow
INPUT_SCALE = 0.1  # brings κ as an input of t to the scale of ū


class PosteriorCritic(nn.Module):
    """One critic.

    Args:
        d: length of u.
        width, blocks: of the residual network t.
    """

    def __init__(self, d: int, width: int, blocks: int) -> None:
        super().__init__()
        self.residual = ResidualCritic((1,), (d,), width=width, num_blocks=blocks)
        self.slope = nn.Parameter(torch.zeros(()))

    def forward(self, known: Tensor, whitened: Tensor) -> Tensor:
        """Return ``T [n]`` for ``κ [n]`` and ``ū [n, d]``."""
        known_input = known.clamp(max=MAX_INPUT_LOG_RATIO).unsqueeze(-1)
        return self.residual(INPUT_SCALE * known_input, whitened) + self.slope * known


def clamp_log_ratio(log_ratio: Tensor) -> Tensor:
    """Return ``κ`` for ``log p − log r − c``; no gradient passes where it is clamped."""
    finite = torch.nan_to_num(log_ratio, nan=MIN_LOG_RATIO, neginf=MIN_LOG_RATIO)
    return finite.clamp(MIN_LOG_RATIO, MAX_LOG_RATIO)
