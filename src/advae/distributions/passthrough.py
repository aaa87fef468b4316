"""Head for a custom network that returns a distribution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from advae.distributions.base import HEADS, Distribution, Head
from advae.errors import ConfigError


@HEADS.register("passthrough")
class PassthroughHead(Head):
    """Returns the distribution that the network returns."""

    def forward(self, network: Callable[..., Any], inputs: Tensor) -> Distribution:
        result = network(inputs)
        if not isinstance(result, Distribution):
            raise ConfigError(
                "With the distribution 'passthrough' the network must return a distribution.",
                given=type(result).__name__,
                expected="advae.distributions.Distribution",
                fix="choose another distribution ('normal', 'bernoulli', …) for a network that returns tensors",
            )
        return result
