"""Several copies of one network, each with weights of its own, run as one: no loop over them.

>>> pair = Stack(lambda: torch.nn.Linear(2, 3), 2)
>>> pair(torch.zeros(2, 5, 2)).shape
torch.Size([2, 5, 3])
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

Weights = Mapping[str, Tensor]


class Stack:
    """``F`` copies of a network, initialised apart; every weight has F in front.

    Args:
        make: makes one copy, by the random numbers of the moment.
        count: ``F``.

    Attributes:
        weights: by name ``[F, …]``; leaves that an optimiser may move.
        buffers: by name ``[F, …]``.
    """

    def __init__(self, make: Callable[[], nn.Module], count: int) -> None:
        copies = [make() for _ in range(count)]
        weights, self.buffers = stack_module_state(copies)
        self.weights = {name: weight.detach().clone().requires_grad_() for name, weight in weights.items()}
        self.template = copy.deepcopy(copies[0]).to("meta")  # its own weights are never used
        self.count = count

    def to(self, device: torch.device, dtype: torch.dtype) -> Stack:
        """Moved, and in this precision; whole numbers and truth values stay what they are."""
        self.weights = {n: w.detach().to(device, dtype).requires_grad_() for n, w in self.weights.items()}
        self.buffers = {
            n: b.to(device, dtype) if b.is_floating_point() else b.to(device) for n, b in self.buffers.items()
        }
        return self

    def __call__(self, *inputs: Tensor, weights: Weights | None = None, **same: Any) -> Any:
        """What each copy makes of its part of ``inputs [F, …]``; tensors come back as ``[F, …]``.

        Args:
            inputs: one part for each copy.
            weights: to use in place of its own.
            same: keywords that all copies are given alike.
        """
        used = dict(self.weights if weights is None else weights)

        def one(weights: dict[str, Tensor], buffers: dict[str, Tensor], *parts: Tensor) -> Any:
            return functional_call(self.template, (weights, buffers), parts, same)

        return vmap(one, randomness="different")(used, self.buffers, *inputs)

    def fixed(self) -> dict[str, Tensor]:
        """Its weights as constants."""
        return {name: weight.detach() for name, weight in self.weights.items()}

    def parameters(self) -> list[Any]:
        """Its weights, for an optimiser."""
        return list(self.weights.values())

    @torch.no_grad()
    def load(self, weights: Weights) -> None:
        """Put other values into its weights."""
        for name, weight in self.weights.items():
            weight.copy_(weights[name])
