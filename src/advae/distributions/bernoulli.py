"""Independent Bernoulli pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Size, Tensor
from torch.nn.functional import softplus

from advae.distributions.base import HEADS, Distribution, Head, at_least_float32, sum_event


class Bernoulli(Distribution):
    """Bernoulli pixels given by their logits.

    The log probability of values in (0, 1) is the cross-entropy ``x log p + (1 − x) log(1 − p)``: the expectation over
    binary images with probabilities x.

    Binary samples cannot be reparameterized, so :meth:`rsample` returns a relaxation: the "mean", or a "concrete"
    sample with a temperature (Maddison et al. 2017).
    """

    def __init__(self, logits: Tensor, relaxation: str = "mean", temperature: float = 0.5) -> None:
        self.logits = at_least_float32(logits)
        self.relaxation, self.temperature = relaxation, temperature
        self.batch_shape, self.event_shape = Size(logits.shape[:1]), Size(logits.shape[1:])

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(self.logits)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = (*sample_shape, *self.logits.shape)
        if self.relaxation == "mean":
            return self.mean.expand(shape)
        uniform = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        return torch.sigmoid((self.logits + torch.logit(uniform, eps=1e-6)) / self.temperature)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            return torch.bernoulli(self.mean.expand(*sample_shape, *self.logits.shape))

    def log_prob(self, value: Tensor) -> Tensor:
        logits = self.logits.expand_as(value)
        value = value.to(logits.dtype)
        return sum_event(value * logits - softplus(logits), len(self.event_shape))

    def moments(self, full: bool = False) -> tuple[Tensor, Tensor]:
        variance = self.mean * (1 - self.mean)
        return self.mean, torch.diag_embed(variance.flatten(1)) if full else variance

    def detach(self) -> Bernoulli:
        return Bernoulli(self.logits.detach(), self.relaxation, self.temperature)


@HEADS.register("bernoulli")
class BernoulliHead(Head):
    """Bernoulli pixels whose logits are the network's output.

    Args:
        relaxation: differentiable stand-in for a sample, where a method needs one: the "mean", or a "concrete"
            sample.
        temperature: of the concrete distribution.
    """

    support = "unit"

    def __init__(
        self,
        event_shape: Sequence[int],
        relaxation: Literal["mean", "concrete"] = "mean",
        temperature: float = 0.5,
    ) -> None:
        super().__init__(event_shape)
        self.relaxation, self.temperature = relaxation, temperature

    def forward(self, network: Callable[..., Any], inputs: Tensor) -> Distribution:
        return Bernoulli(network(inputs)[:, 0], self.relaxation, self.temperature)
