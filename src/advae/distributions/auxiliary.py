"""A posterior with an auxiliary variable (Maaløe, Sønderby, Sønderby and Winther 2016): a mixture of normals.

    a          auxiliary variable                              [B, m]
    z          code                                            [B, n]
    q(a|x)     N(μ_a(x), σ_a(x)²)
    q(z|a,x)   N(μ_z(x) + f(a, x), (σ_z(x) e^g(a, x))²)
    q(z|x)     ∫ q(a|x) q(z|a,x) da                            no closed form
    r(a|x,z)   N(μ_a(x) + h(x, z), (σ_a(x) e^k(x, z))²)        the reverse model

    q̂(z|x)     log q̂ = log q(a|x) + log q(z|a,x) − log r(a|x,z),      a, z drawn in this order

What q̂ is. Given x and z, a has the density q(a|x) q(z|a,x) / q(z|x), so E[1/q̂ | z] = 1/q(z|x) whatever r is, as
long as it integrates to one. Hence E[log q̂ | z] ≥ log q(z|x), by KL(q(a|x,z) ‖ r(a|x,z)): the evidence lower bound
with log q̂ in place of log q(z|x) is a lower bound still, Maaløe's, and tight in a where r is exact. And
E[p(x, z)/q̂] = p(x): importance weights stay unbiased, in the space of a and z.

Maaløe et al. give each density a network of its own. Here the encoder is read once, and two small networks of the
head's correct what it says. They begin small: training starts near a normal posterior, with r nearly exact. Fitted to
a bent posterior of two dimensions, nine seeds then leave a gap of at most 0.05 nats; begun at full size, one in three
gets stuck, at up to 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Size, Tensor, nn

from advae.distributions.base import HEADS, Distribution, Head, SampledOnly, wide
from advae.distributions.flow import base_normal
from advae.distributions.implicit import ByDraws
from advae.distributions.normal import MIN_SCALE, Normal, soft_floor
from advae.errors import ConfigError

START = 0.3  # what the last layers' first weights are multiplied by; 0.1 does as well, 1 gets stuck


def normal(mean: Tensor, log_scale: Tensor) -> Normal:
    """Normals over the last axis alone of ``mean [..., B, k]``, one for every draw of what they are given."""
    made = Normal(mean, log_scale)
    made.batch_shape, made.event_shape = mean.shape[:-1], mean.shape[-1:]
    return made


class Auxiliary(ByDraws, SampledOnly):
    """``z`` drawn by way of ``a``: without a density, but every draw comes with an estimate of its own, q̂.

    Args:
        first: ``q(a|x)``, over ``a [B, m]``.
        second: ``q(z|a,x)`` over ``z [..., B, n]`` of ``a [..., B, m]``, by :func:`normal`.
        reverse: ``r(a|x,z)`` over ``a [..., B, m]`` of ``z [..., B, n]``, by :func:`normal`.
        event_shape: shape of one event, n numbers.
        moment_samples: how many draws :meth:`moments` and :attr:`mean` use.
    """

    scores_draws = True

    def __init__(
        self,
        first: Normal,
        second: Callable[[Tensor], Normal],
        reverse: Callable[[Tensor], Normal],
        event_shape: Sequence[int],
        moment_samples: int = 64,
    ) -> None:
        self.first, self.second, self.reverse = first, second, reverse
        self.batch_shape, self.event_shape = first.batch_shape, Size(event_shape)
        self.moment_samples = moment_samples

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        z = self.second(self.first.rsample(sample_shape)).rsample()
        return z.unflatten(-1, self.event_shape)

    def rsample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """A draw ``[*sample_shape, B, *event]`` and ``log q̂ [*sample_shape, B]``, not its log density.

        Each draw has an ``a`` of its own. The gradient is the whole one, through the draws and all parameters.
        """
        a = self.first.rsample(sample_shape)
        second = self.second(a)
        z = second.rsample()
        log_q = self.first.log_prob(a) + second.log_prob(z) - self.reverse(z).log_prob(a)
        return z.unflatten(-1, self.event_shape), log_q


class Correction(nn.Module):
    """What a given value changes in a normal's mean and log scale: a small network of the value and a context.

    Args:
        context: length of the context.
        given: length of the value.
        size: how many numbers the normal is over.
        hidden: widths of the hidden layers (ELU).
    """

    def __init__(self, context: int, given: int, size: int, hidden: Sequence[int]) -> None:
        super().__init__()
        widths = [*hidden, 2 * size]
        self.of_context = nn.Linear(context, widths[0])
        self.of_given = nn.Linear(given, widths[0], bias=False)
        self.rest = nn.Sequential(*(m for a, b in pairwise(widths) for m in (nn.ELU(), nn.Linear(a, b))))
        last = self.rest[-1].parameters() if hidden else self.parameters()
        with torch.no_grad():
            for weights in last:
                weights.mul_(START)

    def forward(self, raw: Tensor, context: Tensor, given: Tensor) -> Normal:
        """The normal of ``raw [B, 2, size]``, mean and log scale, corrected for ``given [..., B, n]``.

        The context ``[B, C]`` goes through its layer once, however many draws there are. In low precision a draw
        and its score still are of the same normals: whatever these layers round is a part of them.
        """
        precision = self.of_given.weight.dtype
        first = self.of_context(context.to(precision)) + self.of_given(given.to(precision))
        shift, change = wide(self.rest(first)).chunk(2, -1)
        return normal(raw[:, 0] + shift, soft_floor(raw[:, 1] + change, math.log(MIN_SCALE)))


@HEADS.register("auxiliary")
class AuxiliaryHead(Head):
    """A normal behind an auxiliary variable, with a reverse model; both of the head's own weights.

    The rows of the network's output: mean and log scale of z, ``context`` rows that both small networks are given,
    and as many as hold mean and log scale of a.

    Args:
        event_shape: shape of one event.
        auxiliary: how many numbers a has; 0 for as many as an event has.
        hidden: widths of each small network.
        context: rows of context.
        moment_samples: draws from which mean and moments are estimated where they are needed.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        auxiliary: int = 0,
        hidden: Sequence[int] = (128, 128),
        context: int = 4,
        moment_samples: int = 64,
    ) -> None:
        super().__init__(event_shape)
        for name, count, least in (("auxiliary", auxiliary, 0), ("context", context, 1)):
            if count < least:
                raise ConfigError(
                    f"a posterior with an auxiliary variable needs {name}",
                    given=count,
                    expected=f"{least} or more",
                )
        n = self.event_shape.numel()
        self.auxiliary, self.context, self.moment_samples = auxiliary or n, context, moment_samples
        self.values = 2 + context + math.ceil(2 * self.auxiliary / n)
        self.forth = Correction(n * context, self.auxiliary, n, hidden)
        self.back = Correction(n * context, n, self.auxiliary, hidden)

    def forward(self, network: Callable[..., Any], inputs: Tensor) -> Distribution:
        raw = wide(network(inputs)).flatten(2)
        raw_z, context = raw[:, :2], raw[:, 2 : 2 + self.context].flatten(1)
        raw_a = raw[:, 2 + self.context :].flatten(1)[:, : 2 * self.auxiliary].unflatten(1, (2, -1))

        def second(a: Tensor) -> Normal:
            return self.forth(raw_z, context, a)

        def reverse(z: Tensor) -> Normal:
            return self.back(raw_a, context, z)

        return Auxiliary(base_normal(raw_a), second, reverse, self.event_shape, self.moment_samples)
