"""Normal distributions with a diagonal covariance: the usual posterior, and a likelihood of real values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Size, Tensor, nn

from advae.distributions.base import HEADS, LOG_2PI, Distribution, Head, sum_event, wide
from advae.errors import ConfigError

MIN_SCALE = 1e-3  # below it a density explodes on constant pixels


class Normal(Distribution):
    """Independent normals, ``N(mean, exp(log_scale)²)``.

    Args:
        mean: ``[B, *event]``.
        log_scale: log standard deviation, broadcast to ``mean``.
    """

    def __init__(self, mean: Tensor, log_scale: Tensor) -> None:
        self._mean = wide(mean)
        self.log_scale = log_scale.to(self._mean.dtype).expand_as(self._mean)
        self.batch_shape, self.event_shape = Size(mean.shape[:1]), Size(mean.shape[1:])

    @property
    def mean(self) -> Tensor:
        return self._mean

    @property
    def scale(self) -> Tensor:
        """Standard deviation, ``[B, *event]``."""
        return self.log_scale.exp()

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = (*sample_shape, *self._mean.shape)
        noise = torch.randn(shape, dtype=self._mean.dtype, device=self._mean.device)
        return self._mean + self.scale * noise

    def log_prob(self, value: Tensor) -> Tensor:
        standardised = (value - self._mean) * torch.exp(-self.log_scale)
        return sum_event(-0.5 * (standardised.square() + LOG_2PI) - self.log_scale, len(self.event_shape))

    def moments(self, full: bool = False) -> tuple[Tensor, Tensor]:
        variance = (2 * self.log_scale).exp()
        return self._mean, torch.diag_embed(variance) if full else variance

    def fixed(self) -> Normal:
        return type(self)(self._mean.detach(), self.log_scale.detach())

    def kl_to_standard(self) -> Tensor:
        """``KL(self ‖ N(0, I))`` for each coordinate of the event, in nats, ``[B, *event]``."""
        return 0.5 * (self._mean.square() + (2 * self.log_scale).exp() - 1) - self.log_scale


@HEADS.register("normal")
class NormalHead(Head):
    """A normal whose mean comes from the network, and whose standard deviation may.

    Args:
        event_shape: shape of one event.
        variance: "pixel": one for every number of every event, from the network; "shared": one learned
            number for all; "fixed": ``scale`` for ever.
        scale: the standard deviation that training starts from, or stays at.
        min_scale: lower limit of a learned standard deviation.
        max_scale: upper limit of it; 0 for none. A network that has never seen the like of an image may give it a scale
            of e⁴⁰, and the image a loss that outweighs all others.
        squash: put the mean through a sigmoid, to lie in (0, 1) as the pixels of images do.
    """

    distribution: type[Normal] = Normal

    def __init__(
        self,
        event_shape: Sequence[int],
        variance: Literal["pixel", "shared", "fixed"] = "pixel",
        scale: float = 1.0,
        min_scale: float = MIN_SCALE,
        max_scale: float = 0.0,
        squash: Literal["none", "sigmoid"] = "none",
    ) -> None:
        super().__init__(event_shape)
        if variance != "fixed" and not min_scale < scale < (max_scale or math.inf):
            raise ConfigError(
                "a learned scale must start between its limits",
                given=f"scale {scale}, min_scale {min_scale}"
                + (f", max_scale {max_scale}" if max_scale else ""),
            )
        self.variance, self.floor = variance, math.log(min_scale)
        self.ceiling = math.log(max_scale) if max_scale else math.inf
        self.start = math.log(scale) if variance == "fixed" else self._raw(math.log(scale))
        self.squash = squash
        if squash == "sigmoid" and self.support == "real":
            self.support = "interval"
        self.values = 2 if variance == "pixel" else 1
        if variance == "shared":
            self.log_scale = nn.Parameter(torch.tensor(self.start))
        elif variance == "fixed":
            self.register_buffer("log_scale", torch.tensor(self.start))

    def forward(self, network: Callable[..., Any], inputs: Tensor) -> Distribution:
        raw = wide(network(inputs))
        mean = torch.sigmoid(raw[:, 0]) if self.squash == "sigmoid" else raw[:, 0]
        if self.variance == "fixed":
            return self.distribution(mean, self.log_scale)
        log_scale = raw[:, 1] + self.start if self.variance == "pixel" else self.log_scale
        if self.ceiling < math.inf:
            log_scale = -soft_floor(-log_scale, -self.ceiling)
        return self.distribution(mean, soft_floor(log_scale, self.floor))

    def _raw(self, log_scale: float) -> float:
        """What the soft limits map to this log standard deviation."""
        raw = self.floor + math.log(math.expm1(log_scale - self.floor))
        return raw if self.ceiling == math.inf else self.ceiling - math.log(math.expm1(self.ceiling - raw))


def soft_floor(values: Tensor, floor: float) -> Tensor:
    """``values`` where they are well above ``floor``, never below it, with a gradient everywhere."""
    return floor + nn.functional.softplus(values - floor)
