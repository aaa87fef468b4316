"""The normal over 8-bit values: the density integrated over each value's bin (AS-VAE section 5.1).

    p(x = i | z) = Φ(((i + 1)/256 − μ)/σ) − Φ((i/256 − μ)/σ),    i = 0 … 255

The two outermost bins take the tails, so that the 256 probabilities sum to one; the paper is silent on them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from advae.distributions.base import HEADS, sum_event
from advae.distributions.normal import Normal, NormalHead

LEVELS = 256
LOG_2 = math.log(2)


class DiscretisedNormal(Normal):
    """A normal read at 8 bits. Values lie in ``[0, 1]``; one in ``[i/256, (i+1)/256)`` is the level ``i``."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of the levels that hold ``value``, in nats, ``[..., B]``."""
        level = (value * LEVELS).floor().clamp(0, LEVELS - 1)
        inverse = torch.exp(-self.log_scale)
        lower = (level / LEVELS - self._mean) * inverse
        upper = ((level + 1) / LEVELS - self._mean) * inverse
        lower = torch.where(level > 0, lower, -torch.inf)
        upper = torch.where(level < LEVELS - 1, upper, torch.inf)
        return sum_event(log_normal_mass(lower, upper), len(self.event_shape))

    def density(self) -> Normal:
        return Normal(self._mean, self.log_scale)

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        """Levels, at the middle of their bins."""
        level = (super().sample(sample_shape) * LEVELS).floor().clamp(0, LEVELS - 1)
        return (level + 0.5) / LEVELS


def log_normal_mass(lower: Tensor, upper: Tensor) -> Tensor:
    """``log(Φ(upper) − Φ(lower))`` for ``lower < upper``, exact in both tails.

    An interval on the positive side is mirrored, because Φ is resolved only near zero.
    """
    mirror = lower > 0
    lower, upper = torch.where(mirror, -upper, lower), torch.where(mirror, -lower, upper)
    open_below, open_above = torch.isneginf(lower), torch.isposinf(upper)
    log_upper = torch.where(open_above, 0.0, torch.special.log_ndtr(torch.where(open_above, 0.0, upper)))
    log_lower = torch.special.log_ndtr(torch.where(open_below, -1.0, lower))
    gap = torch.where(open_below, 1.0, log_upper - log_lower).clamp_min(1e-38)
    return log_upper + torch.where(open_below, 0.0, log1mexp(gap))


def log1mexp(x: Tensor) -> Tensor:
    """``log(1 − exp(−x))`` for ``x > 0``, in the form that keeps its digits on each side of log 2."""
    small = x < LOG_2
    near = torch.log(-torch.expm1(-torch.where(small, x, LOG_2)))
    far = torch.log1p(-torch.exp(-torch.where(small, LOG_2, x)))
    return torch.where(small, near, far)


@HEADS.register("discretised-normal")
class DiscretisedNormalHead(NormalHead):
    """As the normal, scored by the probability of 8-bit values instead of a density."""

    support = "8-bit"
    distribution = DiscretisedNormal
