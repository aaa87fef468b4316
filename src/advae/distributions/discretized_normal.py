"""Normal distribution over 8-bit values, integrated over each value's bin (AS-VAE section 5.1).

    p(x = i | z) = Φ(((i + 1)/256 − μ)/σ) − Φ((i/256 − μ)/σ),    i = 0 … 255

The two outermost bins take the tails, so that the 256 probabilities sum to one; the paper does not mention them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from advae.distributions.base import HEADS, sum_event
from advae.distributions.normal import Normal, NormalHead

NUM_LEVELS = 256
LOG_2 = math.log(2)
MIN_LOG_GAP = 1e-38  # of the log of two cumulative probabilities: keeps log(1 − exp(−x)) finite


class DiscretizedNormal(Normal):
    """A normal discretized to 8 bits. Values are in ``[0, 1]``; those in ``[i/256, (i+1)/256)`` are level ``i``."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log probability of the levels of ``value``, in nats, ``[..., B]``."""
        level = (value * NUM_LEVELS).floor().clamp(0, NUM_LEVELS - 1)
        inverse = torch.exp(-self.log_scale)
        lower = (level / NUM_LEVELS - self._mean) * inverse
        upper = ((level + 1) / NUM_LEVELS - self._mean) * inverse
        lower = torch.where(level > 0, lower, -torch.inf)
        upper = torch.where(level < NUM_LEVELS - 1, upper, torch.inf)
        return sum_event(log_normal_mass(lower, upper), len(self.event_shape))

    def as_density(self) -> Normal:
        return Normal(self._mean, self.log_scale)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Return samples at the centers of their bins."""
        level = (super().sample(sample_shape) * NUM_LEVELS).floor().clamp(0, NUM_LEVELS - 1)
        return (level + 0.5) / NUM_LEVELS


def log_normal_mass(lower: Tensor, upper: Tensor) -> Tensor:
    """Return ``log(Φ(upper) − Φ(lower))`` for ``lower < upper``, exact in both tails.

    An interval on the positive side is mirrored, because floating-point numbers resolve Φ near 0, but not near 1.
    """
    mirror = lower > 0
    lower, upper = torch.where(mirror, -upper, lower), torch.where(mirror, -lower, upper)
    open_below, open_above = torch.isneginf(lower), torch.isposinf(upper)
    log_upper = torch.where(open_above, 0.0, torch.special.log_ndtr(torch.where(open_above, 0.0, upper)))
    log_lower = torch.special.log_ndtr(torch.where(open_below, -1.0, lower))
    gap = torch.where(open_below, 1.0, log_upper - log_lower).clamp_min(MIN_LOG_GAP)
    return log_upper + torch.where(open_below, 0.0, log1mexp(gap))


def log1mexp(x: Tensor) -> Tensor:
    """Return ``log(1 − exp(−x))`` for ``x > 0``, in the form that is accurate on each side of log 2."""
    small = x < LOG_2
    near = torch.log(-torch.expm1(-torch.where(small, x, LOG_2)))
    far = torch.log1p(-torch.exp(-torch.where(small, LOG_2, x)))
    return torch.where(small, near, far)


@HEADS.register("discretized-normal")
class DiscretizedNormalHead(NormalHead):
    """A normal, evaluated by the probability of 8-bit values instead of a density."""

    support = "8-bit"
    distribution = DiscretizedNormal
