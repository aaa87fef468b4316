"""Normal distributions with a diagonal covariance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Size, Tensor, nn
from torch.nn.functional import softplus

from advae.distributions.base import HEADS, LOG_2PI, Distribution, Head, at_least_float32, sum_event
from advae.errors import ConfigError

MIN_SCALE = 1e-3  # a smaller standard deviation lets the density diverge on constant pixels


class Normal(Distribution):
    """Independent normals, ``N(mean, exp(log_scale)²)``.

    Args:
        mean: ``[B, *event]``.
        log_scale: log standard deviation, broadcast to ``mean``.
    """

    def __init__(self, mean: Tensor, log_scale: Tensor) -> None:
        self._mean = at_least_float32(mean)
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
        standardized = (value - self._mean) * torch.exp(-self.log_scale)
        return sum_event(-0.5 * (standardized.square() + LOG_2PI) - self.log_scale, len(self.event_shape))

    def moments(self, full: bool = False) -> tuple[Tensor, Tensor]:
        variance = (2 * self.log_scale).exp()
        return self._mean, torch.diag_embed(variance) if full else variance

    def detach(self) -> Normal:
        return type(self)(self._mean.detach(), self.log_scale.detach())

    def kl_to_standard(self) -> Tensor:
        """Return ``KL(self ‖ N(0, I))`` for each element of the event, in nats, ``[B, *event]``."""
        return 0.5 * (self._mean.square() + (2 * self.log_scale).exp() - 1) - self.log_scale


def batched_normal(mean: Tensor, log_scale: Tensor) -> Normal:
    """Return one normal over vectors ``[d]`` for each of ``[..., B]``."""
    normal = Normal(mean, log_scale)
    normal.batch_shape, normal.event_shape = mean.shape[:-1], mean.shape[-1:]
    return normal


@HEADS.register("normal")
class NormalHead(Head):
    """A normal whose mean, and optionally whose standard deviation, comes from the network.

    Args:
        variance: "pixel": one per element of each event, from the network; "shared": one learned number for all;
            "feature": a learned number for each element, such as a column of a table; "fixed": ``scale``, not learned.
        scale: initial standard deviation, or the constant one.
        min_scale: lower limit of a learned standard deviation.
        max_scale: upper limit of a learned standard deviation; 0 for none. For an image unlike the training data a
            network may return a scale of e⁴⁰, and the loss of that image outweighs all others.
        squash: "sigmoid" maps the mean to (0, 1), the range of pixels.
    """

    distribution: type[Normal] = Normal

    def __init__(
        self,
        event_shape: Sequence[int],
        variance: Literal["pixel", "shared", "feature", "fixed"] = "pixel",
        scale: float = 1.0,
        min_scale: float = MIN_SCALE,
        max_scale: float = 0.0,
        squash: Literal["none", "sigmoid"] = "none",
    ) -> None:
        super().__init__(event_shape)
        if variance != "fixed" and not min_scale < scale < (max_scale or math.inf):
            raise ConfigError(
                "The initial value of a learned scale must be between its limits.",
                given=f"scale {scale}, min_scale {min_scale}, max_scale {max_scale or 'none'}",
                expected="min_scale < scale < max_scale",
            )
        self.variance, self.min_log_scale = variance, math.log(min_scale)
        self.max_log_scale = math.log(max_scale) if max_scale else math.inf
        log_scale = math.log(scale)
        self.initial_log_scale = log_scale if variance == "fixed" else self._unclamp(log_scale)
        self.squash = squash
        if squash == "sigmoid" and self.support == "real":
            self.support = "interval"
        self.num_params = 2 if variance == "pixel" else 1
        if variance in ("shared", "feature"):
            shape = event_shape if variance == "feature" else ()
            self.log_scale = nn.Parameter(torch.full(tuple(shape), self.initial_log_scale))
        elif variance == "fixed":
            self.register_buffer("log_scale", torch.tensor(self.initial_log_scale))

    def forward(self, network: Callable[..., Any], inputs: Tensor) -> Distribution:
        raw = at_least_float32(network(inputs))
        mean = torch.sigmoid(raw[:, 0]) if self.squash == "sigmoid" else raw[:, 0]
        if self.variance == "fixed":
            return self.distribution(mean, self.log_scale)
        log_scale = raw[:, 1] + self.initial_log_scale if self.variance == "pixel" else self.log_scale
        if self.max_log_scale < math.inf:
            log_scale = -soft_clamp_min(-log_scale, -self.max_log_scale)
        return self.distribution(mean, soft_clamp_min(log_scale, self.min_log_scale))

    @torch.no_grad()
    def start_offsets(self, std: Tensor) -> Tensor:
        low, high = math.exp(self.min_log_scale), math.exp(self.max_log_scale)
        log_std = std.clamp(1.01 * low, 0.99 * high).log().double()
        raw = log_std.detach().apply_(self._unclamp).to(std.dtype)
        if self.variance == "pixel":
            return (raw - self.initial_log_scale).expand(1, *self.event_shape)
        if self.variance in ("shared", "feature"):
            self.log_scale.copy_(raw.mean() if self.variance == "shared" else raw)
        return super().start_offsets(std)

    def _unclamp(self, log_scale: float) -> float:
        """Return the number that the soft limits map to this log standard deviation."""
        raw = self.min_log_scale + math.log(math.expm1(log_scale - self.min_log_scale))
        if self.max_log_scale == math.inf:
            return raw
        return self.max_log_scale - math.log(math.expm1(self.max_log_scale - raw))


def soft_clamp_min(values: Tensor, minimum: float) -> Tensor:
    """Return a smooth maximum of ``values`` and ``minimum``, with a nonzero gradient everywhere."""
    return minimum + softplus(values - minimum)


def normal_from_raw(raw: Tensor) -> Normal:
    """Return the normal whose mean and log scale are the two rows of a network's output ``[B, 2, n]``."""
    return Normal(raw[:, 0], soft_clamp_min(raw[:, 1], math.log(MIN_SCALE)))
