"""Mixture of discretized logistics over 8-bit images (Salimans, Karpathy, Chen and Kingma 2017).

    x        level i = 0 … 255, scaled: x = 2i/255 − 1
    k        one of K components, the same for all channels of a pixel
    π, μ, s  weights [K], means and scales [C, K]
    α        coefficients of a channel's mean for the channels before it, after a tanh    [C (C − 1)/2, K]

    (2)      P_k(x) = σ((x + 1/255 − μ_k)/s_k) − σ((x − 1/255 − μ_k)/s_k)
    (3)      p(x_i | x_<i) = Σ_k π_k Π_c P_kc(x_c),  with μ_kc + Σ_{j<c} α_kcj x_j for μ_kc

The outermost levels take the tails, so that the 256 probabilities sum to one. The network's input is levels only: the
position of a value within its bin of width 1/256 does not matter. A component has 3 parameters for a pixel of one
channel, 10 for one of three. If they do not fill the network's output for the C channels, the last numbers are unused.
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
    condition_on_channels,
    num_channel_pairs,
)
from advae.distributions.base import HEADS
from advae.distributions.discretized_normal import MIN_LOG_GAP, NUM_LEVELS, log1mexp
from advae.distributions.normal import soft_clamp_min
from advae.errors import ConfigError

MIN_LOG_SCALE = -7.0  # 97% of such a logistic are within one level (the authors' constant)


class MixtureParams(NamedTuple):
    """Parameters of pixels; the axes after K are those of the image, or none."""

    log_weight: Tensor  # [N, K, …]
    mean: Tensor  # [N, C, K, …]
    log_scale: Tensor  # [N, C, K, …]
    coefficients: Tensor  # [N, C (C − 1)/2, K, …]


def params_per_component(channels: int) -> int:
    """Return the number of parameters of a component for one pixel."""
    return 1 + 2 * channels + num_channel_pairs(channels)


def parse_mixture(raw: Tensor, num_components: int) -> MixtureParams:
    """Return the parameters given by a network's output ``[N, k, C, …]``."""
    c = raw.shape[2]
    count = params_per_component(c)
    flat = raw.flatten(1, 2)[:, : count * num_components].unflatten(1, (count, num_components))
    weight, mean, raw_log_scale, coefficients = flat.split([1, c, c, num_channel_pairs(c)], 1)
    log_scale = soft_clamp_min(raw_log_scale, MIN_LOG_SCALE)
    return MixtureParams(torch.log_softmax(weight[:, 0], 1), mean, log_scale, torch.tanh(coefficients))


def log_logistic_mass(x: Tensor, mean: Tensor, log_scale: Tensor, levels: int = NUM_LEVELS) -> Tensor:
    """Return ``log P_k(x)`` of (2), in nats; all arguments are broadcast.

    With the level's standardized bounds a < b, ``σ(b) − σ(a) = σ(b) σ(−a) (1 − e^{−(b − a)})``, and b − a does not
    depend on x: there is no cancellation, even far from the mean.
    """
    half_bin = 1 / (levels - 1)
    inverse = torch.exp(-log_scale)
    lower, upper = (x - half_bin - mean) * inverse, (x + half_bin - mean) * inverse
    log_above_lower, log_below_upper = logsigmoid(-lower), logsigmoid(upper)
    width = (2 * half_bin * inverse).clamp_min(MIN_LOG_GAP)
    inner = log_above_lower + log_below_upper + log1mexp(width)
    lowest, highest = x < half_bin - 1, x > 1 - half_bin
    return torch.where(lowest, log_below_upper, torch.where(highest, log_above_lower, inner))


def mixture_log_prob(params: MixtureParams, inputs: Tensor, levels: int = NUM_LEVELS) -> Tensor:
    """Return ``log p(x_i | x_<i)`` of (3) for pixels ``[N, C, …]``, ``[N, …]``."""
    x = inputs.unsqueeze(2)
    mean = condition_on_channels(params.mean, params.coefficients, x)
    log_mass = log_logistic_mass(x, mean, params.log_scale, levels).sum(1)
    return torch.logsumexp(params.log_weight + log_mass, 1)


def sample_mixture(params: MixtureParams, uniform: Tensor, levels: int = NUM_LEVELS) -> Tensor:
    """Return pixels ``[N, C]`` of (3), from ``uniform [N, 1 + C]``: a component, then one channel after the other."""
    cumulative = params.log_weight.exp().cumsum(1)[:, :-1]
    k = (uniform[:, :1] >= cumulative).sum(1)
    rows = torch.arange(len(k), device=k.device)
    mean, scale, coefficients = (
        p[rows, :, k] for p in (params.mean, params.log_scale.exp(), params.coefficients)
    )
    pixel = torch.zeros_like(mean)
    for c in range(mean.shape[1]):
        center = condition_on_channels(mean, coefficients, pixel)[:, c]
        pixel[:, c] = nearest_level(center + scale[:, c] * torch.logit(uniform[:, 1 + c]), levels)
    return pixel


def nearest_level(value: Tensor, levels: int = NUM_LEVELS) -> Tensor:
    """Return the level nearest to ``value``, scaled to the range from −1 to 1."""
    level = ((value + 1) * ((levels - 1) / 2) + 0.5).floor().clamp(0, levels - 1)
    return level * (2 / (levels - 1)) - 1


class AutoregressiveLogisticMixture(Autoregressive):
    """8-bit images. Values are in ``[0, 1]``; those in ``[i/256, (i + 1)/256)`` are level ``i``."""

    def __init__(
        self,
        network: nn.Module,
        like: Tensor,
        event_shape: Sequence[int],
        detached: bool = False,
        *,
        num_components: int = 10,
        levels: int = NUM_LEVELS,
    ) -> None:
        super().__init__(network, like, event_shape, detached)
        self.num_components, self.levels = num_components, levels

    @property
    def num_uniforms(self) -> int:  # type: ignore[override]
        return 1 + self.event_shape[0]

    def to_network(self, value: Tensor) -> Tensor:
        level = (value * self.levels).floor().clamp(0, self.levels - 1)
        return level * (2 / (self.levels - 1)) - 1

    def from_network(self, inputs: Tensor) -> Tensor:
        """Return levels at the centers of their bins."""
        return (((inputs + 1) * ((self.levels - 1) / 2)).round() + 0.5) / self.levels

    def pixel_log_prob(self, raw: Tensor, inputs: Tensor) -> Tensor:
        return mixture_log_prob(parse_mixture(raw, self.num_components), inputs, self.levels)

    def sample_pixel(self, raw: Tensor, uniform: Tensor) -> Tensor:
        return sample_mixture(parse_mixture(raw, self.num_components), uniform, self.levels)

    def _copy(self, detached: bool) -> Autoregressive:
        options = {"num_components": self.num_components, "levels": self.levels}
        return type(self)(self.network, self.like, self.event_shape, detached, **options)


@HEADS.register("autoregressive-logistic-mixture")
class AutoregressiveLogisticMixtureHead(AutoregressiveHead):
    """8-bit pixels, each given those before it: a mixture of discretized logistics.

    Args:
        num_components: components of the mixture (the paper: 10 for CIFAR-10).
    """

    support = "8-bit"
    distribution = AutoregressiveLogisticMixture

    def __init__(self, event_shape: Sequence[int], num_components: int = 10) -> None:
        super().__init__(event_shape)
        if num_components < 1:
            raise ConfigError(
                "A mixture needs at least one component.", given=f"num_components {num_components}"
            )
        self.num_components = num_components
        channels = self.event_shape[0]
        self.num_params = math.ceil(params_per_component(channels) * num_components / channels)

    def make_distribution(self, network: nn.Module, inputs: Tensor) -> Autoregressive:
        return AutoregressiveLogisticMixture(
            network, inputs, self.event_shape, num_components=self.num_components
        )
