"""The mixture of discretised logistics over 8-bit images (Salimans, Karpathy, Chen and Kingma 2017).

    x        level i = 0 … 255 on a line: x = 2i/255 − 1
    k        one of K components, the same for all channels of a pixel
    π, μ, s  weights [K], means and scales [C, K]
    α        slopes of a channel's mean in those before it, tanh of the network's numbers    [C (C − 1)/2, K]

    (2)      P_k(x) = σ((x + 1/255 − μ_k)/s_k) − σ((x − 1/255 − μ_k)/s_k)
    (3)      p(x_i | x_<i) = Σ_k π_k Π_c P_kc(x_c),  with μ_kc + Σ_{j<c} α_kcj x_j for μ_kc

The outermost levels take the tails, so that the 256 probabilities sum to one. The network is shown levels alone: where
within its bin of width 1/256 a value lies changes nothing. A component has 3 numbers for a pixel of one channel, 10 for
one of three; where they do not fill the network's output for the C channels, its last numbers are not used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from advae.distributions.autoregressive import (
    Autoregressive,
    AutoregressiveHead,
    pairs,
    with_channels_before,
)
from advae.distributions.base import HEADS
from advae.distributions.discretized_normal import LEVELS, log1mexp
from advae.distributions.normal import soft_floor
from advae.errors import ConfigError

MIN_LOG_SCALE = -7.0  # 97% of such a logistic lie within one level (the authors' constant)


class Mixture(NamedTuple):
    """Parameters of pixels; the axes after K are those of the image, or none."""

    log_weight: Tensor  # [N, K, …]
    mean: Tensor  # [N, C, K, …]
    log_scale: Tensor  # [N, C, K, …]
    slope: Tensor  # [N, C (C − 1)/2, K, …]


def numbers(channels: int) -> int:
    """How many numbers a component has for one pixel."""
    return 1 + 2 * channels + pairs(channels)


def mixture(raw: Tensor, components: int) -> Mixture:
    """The parameters in a network's numbers ``[N, k, C, …]``."""
    c = raw.shape[2]
    flat = raw.flatten(1, 2)[:, : numbers(c) * components].unflatten(1, (numbers(c), components))
    weight, mean, scale, slope = flat.split([1, c, c, pairs(c)], 1)
    log_scale = soft_floor(scale, MIN_LOG_SCALE)
    return Mixture(torch.log_softmax(weight[:, 0], 1), mean, log_scale, torch.tanh(slope))


def log_logistic_mass(x: Tensor, mean: Tensor, log_scale: Tensor, levels: int = LEVELS) -> Tensor:
    """``log P_k(x)`` of (2), in nats; all arguments are broadcast.

    With the level's bounds standardised to a < b, ``σ(b) − σ(a) = σ(b) σ(−a) (1 − e^{−(b − a)})``, and b − a does not
    depend on x: nothing cancels, however far out the level lies.
    """
    half = 1 / (levels - 1)
    inverse = torch.exp(-log_scale)
    below, above = (x - half - mean) * inverse, (x + half - mean) * inverse
    over, under = logsigmoid(-below), logsigmoid(above)  # more than the lower bound, less than the upper
    inner = over + under + log1mexp((2 * half * inverse).clamp_min(1e-38))
    lowest, highest = x < half - 1, x > 1 - half
    return torch.where(lowest, under, torch.where(highest, over, inner))


def log_mixture(parameters: Mixture, shown: Tensor, levels: int = LEVELS) -> Tensor:
    """``log p(x_i | x_<i)`` of (3) for pixels ``shown [N, C, …]``, ``[N, …]``."""
    x = shown.unsqueeze(2)
    mean = with_channels_before(parameters.mean, parameters.slope, x)
    log_mass = log_logistic_mass(x, mean, parameters.log_scale, levels).sum(1)
    return torch.logsumexp(parameters.log_weight + log_mass, 1)


def draw_mixture(parameters: Mixture, uniform: Tensor, levels: int = LEVELS) -> Tensor:
    """Pixels ``[N, C]`` of (3), from ``uniform [N, 1 + C]``: a component, then the channels one after the other."""
    weights = parameters.log_weight.exp().cumsum(1)[:, :-1]
    k = (uniform[:, :1] >= weights).sum(1)
    own = torch.arange(len(k), device=k.device)
    mean, scale, slope = (
        p[own, :, k] for p in (parameters.mean, parameters.log_scale.exp(), parameters.slope)
    )
    shown = torch.zeros_like(mean)
    for c in range(mean.shape[1]):
        centre = with_channels_before(mean, slope, shown)[:, c]
        shown[:, c] = nearest_level(centre + scale[:, c] * torch.logit(uniform[:, 1 + c]), levels)
    return shown


def nearest_level(value: Tensor, levels: int = LEVELS) -> Tensor:
    """The level whose share of the line holds ``value``, where it stands on the line from −1 to 1."""
    level = ((value + 1) * ((levels - 1) / 2) + 0.5).floor().clamp(0, levels - 1)
    return level * (2 / (levels - 1)) - 1


class AutoregressiveLogistics(Autoregressive):
    """8-bit images. Values lie in ``[0, 1]``; one in ``[i/256, (i + 1)/256)`` is the level ``i``.

    Args:
        network, like, event_shape, constant: see :class:`Autoregressive`.
        components: K.
        levels: how many levels there are.
    """

    def __init__(
        self,
        network: nn.Module,
        like: Tensor,
        event_shape: Sequence[int],
        constant: bool = False,
        *,
        components: int = 10,
        levels: int = LEVELS,
    ) -> None:
        super().__init__(network, like, event_shape, constant)
        self.components, self.levels = components, levels

    @property
    def uniforms(self) -> int:  # type: ignore[override]
        return 1 + self.event_shape[0]

    def shown(self, value: Tensor) -> Tensor:
        level = (value * self.levels).floor().clamp(0, self.levels - 1)
        return level * (2 / (self.levels - 1)) - 1

    def observed(self, shown: Tensor) -> Tensor:
        """Levels, at the middle of their bins."""
        return (((shown + 1) * ((self.levels - 1) / 2)).round() + 0.5) / self.levels

    def score(self, raw: Tensor, shown: Tensor) -> Tensor:
        return log_mixture(mixture(raw, self.components), shown, self.levels)

    def draw(self, raw: Tensor, uniform: Tensor) -> Tensor:
        return draw_mixture(mixture(raw, self.components), uniform, self.levels)

    def _like_this(self, constant: bool) -> Autoregressive:
        options = {"components": self.components, "levels": self.levels}
        return type(self)(self.network, self.like, self.event_shape, constant, **options)


@HEADS.register("autoregressive-logistics")
class AutoregressiveLogisticsHead(AutoregressiveHead):
    """8-bit pixels, each given those before it: a mixture of discretised logistics.

    Args:
        event_shape: ``(C, H, W)``.
        mixtures: components of the mixture (the paper: 10 for CIFAR-10).
    """

    support = "8-bit"
    distribution = AutoregressiveLogistics

    def __init__(self, event_shape: Sequence[int], mixtures: int = 10) -> None:
        super().__init__(event_shape)
        if mixtures < 1:
            raise ConfigError("a mixture needs at least one component", given=f"mixtures {mixtures}")
        self.mixtures = mixtures
        self.values = math.ceil(numbers(self.event_shape[0]) * mixtures / self.event_shape[0])

    def made(self, network: nn.Module, inputs: Tensor) -> Autoregressive:
        return AutoregressiveLogistics(network, inputs, self.event_shape, components=self.mixtures)
