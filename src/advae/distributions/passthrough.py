"""For a user's network that returns a distribution object itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from advae.distributions.base import HEADS, Distribution, Head
from advae.errors import ConfigError


@HEADS.register("own")
class OwnHead(Head):
    """Takes the distribution that the network returns as it is."""

    def forward(self, network: Callable[..., Any], inputs: Tensor) -> Distribution:
        result = network(inputs)
        if not isinstance(result, Distribution):
            raise ConfigError(
                "with the distribution 'own' a network must return a distribution object",
                given=type(result).__name__,
                expected="advae.distributions.Distribution",
                remedy="choose another distribution ('normal', 'bernoulli', …) for a network that gives tensors",
            )
        return result
