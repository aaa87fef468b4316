"""Inverse autoregressive flow (Kingma et al. 2016), with masked networks from zuko.

    c(x)       context, from the network                                            [B, C]
    z_k+1,i    = exp(s_i) z_k,i + m_i,    (m_i, s_i) a masked network of (z_k,<i, c)
    log |det|  = Σ_i s_i

Every second transform takes the coordinates in reverse order. A sample and its density need one pass of each
transform's network; the density of any other value needs n passes, one coordinate at a time.

Kingma et al. write σ z + (1 − σ) m with a sigmoid σ, so that a transform starts near the identity. zuko has exp(s) with
s between ± log 1000, which starts near the identity because the last layers start near zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from advae.distributions.base import HEADS, Distribution, Head, at_least_float32
from advae.distributions.flow import Flow
from advae.distributions.normal import Normal, normal_from_raw
from advae.errors import ConfigError

LAST_LAYER_INIT_FACTOR = 0.01


class AutoregressiveTransforms(nn.Module):
    """Autoregressive transforms of vectors of length ``n`` given a context; ``hidden`` are widths of each network."""

    def __init__(self, n: int, context_dim: int, num_transforms: int, hidden: Sequence[int]) -> None:
        super().__init__()
        ascending = torch.arange(n)
        orders = [ascending.flip(0) if k % 2 else ascending for k in range(num_transforms)]
        self.transforms = nn.ModuleList(make_transform(n, context_dim, order, hidden) for order in orders)

    def forward(self, value: Tensor, context: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        """Apply all transforms, or their inverses, to ``value [..., B, n]``; return the log determinant, too."""
        log_det = value.new_zeros(value.shape[:-1])
        with torch.autocast(value.device.type, enabled=False):  # rounding would differ between the directions
            for module in reversed(self.transforms) if inverse else self.transforms:
                transform = module(context)
                value, change = (transform.inv if inverse else transform).call_and_ladj(value)
                log_det = log_det + change
        return value, log_det


def make_transform(n: int, context_dim: int, order: Tensor, hidden: Sequence[int]) -> nn.Module:
    """Return a transform near the identity, and restore the global flag that importing zuko clears."""
    validate_args = torch.distributions.Distribution._validate_args
    from zuko.flows import MaskedAutoregressiveTransform

    torch.distributions.Distribution.set_default_validate_args(validate_args)
    transform = MaskedAutoregressiveTransform(
        n, context_dim, order=order, hidden_features=tuple(hidden), activation=nn.ELU
    )
    with torch.no_grad():
        transform.hyper[-1].weight.mul_(LAST_LAYER_INIT_FACTOR)
        transform.hyper[-1].bias.zero_()
    return transform


class InverseAutoregressiveFlow(Flow):
    """A normal transformed by autoregressive transforms, with these weights by name, given ``context [B, C]``."""

    def __init__(
        self,
        base: Normal,
        transforms: AutoregressiveTransforms,
        weights: Mapping[str, Tensor],
        context: Tensor,
        event_shape: Sequence[int],
        moment_samples: int = 64,
    ) -> None:
        super().__init__(base, event_shape, moment_samples)
        self.transforms, self.context = transforms, context
        self.weights = {name: weight.to(base.mean.dtype) for name, weight in weights.items()}

    def forward(self, start: Tensor) -> tuple[Tensor, Tensor]:
        return self._transform(start, inverse=False)

    def inverse(self, value: Tensor) -> tuple[Tensor, Tensor]:
        start, log_det = self._transform(value, inverse=True)
        return start, -log_det

    def _transform(self, value: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        inputs = (value, self.context, inverse)
        return functional_call(self.transforms, self.weights, inputs, tie_weights=False)

    def detach(self) -> InverseAutoregressiveFlow:
        weights = {name: weight.detach() for name, weight in self.weights.items()}
        base, context = self.base.detach(), self.context.detach()
        return InverseAutoregressiveFlow(
            base, self.transforms, weights, context, self.event_shape, self.moment_samples
        )


@HEADS.register("iaf")
class IAFHead(Head):
    """A normal transformed by autoregressive transforms, with the head's weights and a context from the network.

    The rows of the network's output: mean, log scale, and ``context`` rows that every transform takes as input.

    Args:
        transforms: number of transforms.
        hidden: widths of each transform's masked network. None should be below the latent dimension: in a narrower
            layer the later coordinates do not see all of the earlier ones.
        context: rows of context.
        moment_samples: samples from which mean and moments are estimated where they are needed.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        transforms: int = 4,
        hidden: Sequence[int] = (128, 128),
        context: int = 4,
        moment_samples: int = 64,
    ) -> None:
        super().__init__(event_shape)
        if min(transforms, context) < 1:
            given = f"transforms {transforms}, context {context}"
            raise ConfigError(
                "An inverse autoregressive flow has too few parts.", given=given, expected="≥ 1"
            )
        n = self.event_shape.numel()
        self.num_params, self.moment_samples = 2 + context, moment_samples
        self.transforms = AutoregressiveTransforms(n, n * context, transforms, hidden)

    def forward(self, network: Callable[..., Any], inputs: Tensor) -> Distribution:
        raw = at_least_float32(network(inputs)).flatten(2)
        base, context = normal_from_raw(raw[:, :2]), raw[:, 2:].flatten(1)
        weights = dict(self.transforms.named_parameters())
        return InverseAutoregressiveFlow(
            base, self.transforms, weights, context, self.event_shape, self.moment_samples
        )
