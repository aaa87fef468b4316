"""Binary images, each pixel given those before it (van den Oord, Kalchbrenner, Kavukcuoglu 2016).

y    a network's numbers for a pixel, of the pixels before it      [k, C]

p(x_c = 1 | ·) = σ(l_c + Σ_{j<c} w_cj (2 x_j − 1)),    l and w read off y
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

from advae.distributions.autoregressive import (
    Autoregressive,
    AutoregressiveHead,
    pairs,
    with_channels_before,
)
from advae.distributions.base import HEADS


class AutoregressiveBernoulli(Autoregressive):
    """Binary images. Values are 0 and 1, and no probabilities: the network is shown them."""

    @property
    def uniforms(self) -> int:  # type: ignore[override]
        return self.event_shape[0]

    def shown(self, value: Tensor) -> Tensor:
        return 2 * value - 1

    def observed(self, shown: Tensor) -> Tensor:
        return (shown + 1) / 2

    def logits(self, raw: Tensor, shown: Tensor) -> Tensor:
        """Of each channel given those before, ``[N, C, …]``; only those before are read from ``shown``."""
        c = self.event_shape[0]
        flat = raw.flatten(1, 2)
        return with_channels_before(flat[:, :c], flat[:, c : c + pairs(c)], shown)

    def score(self, raw: Tensor, shown: Tensor) -> Tensor:
        logits = self.logits(raw, shown)
        return (self.observed(shown) * logits - softplus(logits)).sum(1)

    def draw(self, raw: Tensor, uniform: Tensor) -> Tensor:
        shown = torch.zeros_like(uniform)
        for c in range(shown.shape[1]):
            on = uniform[:, c] < torch.sigmoid(self.logits(raw, shown)[:, c])
            shown[:, c] = 2 * on.to(shown.dtype) - 1
        return shown


@HEADS.register("autoregressive-bernoulli")
class AutoregressiveBernoulliHead(AutoregressiveHead):
    """Binary pixels, each given those before it.

    Args:
        event_shape: ``(C, H, W)``.
    """

    support = "binary"
    distribution = AutoregressiveBernoulli

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__(event_shape)
        channels = self.event_shape[0]
        self.values = math.ceil((channels + pairs(channels)) / channels)
