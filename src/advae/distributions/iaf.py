"""Inverse autoregressive flow (Kingma et al. 2016), its autoregressive networks by zuko.

    c(x)       context, from the network                                            [B, C]
    z_k+1,i    = exp(s_i) z_k,i + m_i,    (m_i, s_i) a masked network of (z_k,<i, c)
    log |det|  = Σ_i s_i

Every second step takes the coordinates in the opposite order. A draw and its density cost one pass of each step's
network, all coordinates at once; the density of another value n passes, one coordinate after the other.

Kingma et al. write σ z + (1 − σ) m with a sigmoid σ, so that a step begins near the identity; zuko's exp(s), s
between ± log 1000, begins there because the networks' last layers begin small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from advae.distributions.base import HEADS, Distribution, Head, wide
from advae.distributions.flow import Flow, base_normal
from advae.distributions.normal import Normal
from advae.errors import ConfigError

SMALL = 0.01  # what the last layers' first weights are multiplied by


class AutoregressiveSteps(nn.Module):
    """``K`` autoregressive steps of vectors of ``n`` numbers given a context.

    Args:
        n: length of a vector.
        context: length of the context.
        transforms: how many steps, ``K``.
        hidden: widths of each step's masked network (ELU).
    """

    def __init__(self, n: int, context: int, transforms: int, hidden: Sequence[int]) -> None:
        super().__init__()
        ascending = torch.arange(n)
        orders = [ascending.flip(0) if k % 2 else ascending for k in range(transforms)]
        self.steps = nn.ModuleList(masked_step(n, context, order, hidden) for order in orders)

    def forward(self, value: Tensor, context: Tensor, backwards: bool = False) -> tuple[Tensor, Tensor]:
        """All steps from ``value [..., B, n]``, or back from there; and the log determinant of what was done."""
        log_det = value.new_zeros(value.shape[:-1])
        with torch.autocast(value.device.type, enabled=False):  # rounded otherwise in two directions
            for step in reversed(self.steps) if backwards else self.steps:
                transform = step(context)
                value, change = (transform.inv if backwards else transform).call_and_ladj(value)
                log_det = log_det + change
        return value, log_det


def masked_step(n: int, context: int, order: Tensor, hidden: Sequence[int]) -> nn.Module:
    """One step, near the identity. Importing zuko turns torch's checks of arguments off; they are put back."""
    checks = torch.distributions.Distribution._validate_args
    from zuko.flows import MaskedAutoregressiveTransform

    torch.distributions.Distribution.set_default_validate_args(checks)
    step = MaskedAutoregressiveTransform(
        n, context, order=order, hidden_features=tuple(hidden), activation=nn.ELU
    )
    with torch.no_grad():
        step.hyper[-1].weight.mul_(SMALL)
        step.hyper[-1].bias.zero_()
    return step


class InverseAutoregressive(Flow):
    """A normal behind autoregressive steps.

    The steps' weights are those given, and stay so wherever the density is asked for.

    Args:
        base: of ``z₀ [B, n]``.
        steps: what to run.
        weights: its parameters by name.
        context: ``[B, C]``.
        event_shape: shape of one event, n numbers.
        moment_samples: see :class:`Flow`.
    """

    def __init__(
        self,
        base: Normal,
        steps: AutoregressiveSteps,
        weights: Mapping[str, Tensor],
        context: Tensor,
        event_shape: Sequence[int],
        moment_samples: int = 64,
    ) -> None:
        super().__init__(base, event_shape, moment_samples)
        self.steps, self.context = steps, context
        self.weights = {name: weight.to(base.mean.dtype) for name, weight in weights.items()}

    def forward(self, start: Tensor) -> tuple[Tensor, Tensor]:
        return self._run(start, False)

    def inverse(self, value: Tensor) -> tuple[Tensor, Tensor]:
        start, log_det = self._run(value, True)
        return start, -log_det

    def _run(self, value: Tensor, backwards: bool) -> tuple[Tensor, Tensor]:
        return functional_call(self.steps, self.weights, (value, self.context, backwards), tie_weights=False)

    def fixed(self) -> InverseAutoregressive:
        weights = {name: weight.detach() for name, weight in self.weights.items()}
        base, context = self.base.fixed(), self.context.detach()
        return InverseAutoregressive(
            base, self.steps, weights, context, self.event_shape, self.moment_samples
        )


@HEADS.register("iaf")
class IAFHead(Head):
    """A normal behind autoregressive steps, with weights of the head's own and a context from the network.

    The rows of the network's output: mean, log scale, and ``context`` rows that every step is given.

    Args:
        event_shape: shape of one event.
        transforms: how many steps.
        hidden: widths of each step's masked network. None should be below the length of a code: a narrower layer
            does not let the later coordinates see all of the earlier ones.
        context: rows of context.
        moment_samples: draws from which mean and moments are estimated where they are needed.
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
        for name, count in (("transforms", transforms), ("context", context)):
            if count < 1:
                raise ConfigError(
                    f"an inverse autoregressive flow needs {name}", given=count, expected="1 or more"
                )
        n = self.event_shape.numel()
        self.values, self.moment_samples = 2 + context, moment_samples
        self.steps = AutoregressiveSteps(n, n * context, transforms, hidden)

    def forward(self, network: Callable[..., Any], inputs: Tensor) -> Distribution:
        raw = wide(network(inputs)).flatten(2)
        base, context = base_normal(raw[:, :2]), raw[:, 2:].flatten(1)
        weights = dict(self.steps.named_parameters())
        return InverseAutoregressive(
            base, self.steps, weights, context, self.event_shape, self.moment_samples
        )
