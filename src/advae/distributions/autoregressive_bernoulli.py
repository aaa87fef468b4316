"""Autoregressive distribution over binary images (van den Oord, Kalchbrenner, Kavukcuoglu 2016).

y    the network's output for a pixel, given the pixels before it      [k, C]

p(x_c = 1 | ·) = σ(l_c + Σ_{j<c} w_cj (2 x_j − 1)),    with l and w taken from y
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
    condition_on_channels,
    num_channel_pairs,
)
from advae.distributions.base import HEADS


class AutoregressiveBernoulli(Autoregressive):
    """Binary images. Values are 0 and 1, not probabilities."""

    @property
    def num_uniforms(self) -> int:  # type: ignore[override]
        return self.event_shape[0]

    def to_network(self, value: Tensor) -> Tensor:
        return 2 * value - 1

    def from_network(self, inputs: Tensor) -> Tensor:
        return (inputs + 1) / 2

    def logits(self, raw: Tensor, inputs: Tensor) -> Tensor:
        """Return the logit of each channel given those before, ``[N, C, …]``."""
        c = self.event_shape[0]
        flat = raw.flatten(1, 2)
        return condition_on_channels(flat[:, :c], flat[:, c : c + num_channel_pairs(c)], inputs)

    def pixel_log_prob(self, raw: Tensor, inputs: Tensor) -> Tensor:
        logits = self.logits(raw, inputs)
        return (self.from_network(inputs) * logits - softplus(logits)).sum(1)

    def sample_pixel(self, raw: Tensor, uniform: Tensor) -> Tensor:
        pixel = torch.zeros_like(uniform)
        for c in range(pixel.shape[1]):
            is_one = uniform[:, c] < torch.sigmoid(self.logits(raw, pixel)[:, c])
            pixel[:, c] = 2 * is_one.to(pixel.dtype) - 1
        return pixel


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
        self.num_params = math.ceil((channels + num_channel_pairs(channels)) / channels)
