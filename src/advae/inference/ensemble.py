"""Ensembles of one network architecture, evaluated in one batch.

>>> ensemble = ModuleEnsemble(lambda: torch.nn.Linear(2, 3), 2)
>>> ensemble(torch.zeros(2, 5, 2)).shape
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


class ModuleEnsemble:
    """``F`` copies of a network, each initialized by a call of ``make``; every weight has a leading axis ``F``.

    Attributes:
        weights: by name ``[F, …]``; leaf tensors for an optimizer.
        buffers: by name ``[F, …]``.
    """

    def __init__(self, make: Callable[[], nn.Module], count: int) -> None:
        copies = [make() for _ in range(count)]
        weights, self.buffers = stack_module_state(copies)
        self.weights = {name: weight.detach().clone().requires_grad_() for name, weight in weights.items()}
        self.template = copy.deepcopy(copies[0]).to("meta")  # its structure: functional_call replaces weights
        self.count = count

    def to(self, device: torch.device, dtype: torch.dtype) -> ModuleEnsemble:
        """Move to a device and convert floating-point tensors to ``dtype``."""
        self.weights = {n: w.detach().to(device, dtype).requires_grad_() for n, w in self.weights.items()}
        self.buffers = {
            n: b.to(device, dtype) if b.is_floating_point() else b.to(device) for n, b in self.buffers.items()
        }
        return self

    def __call__(self, *inputs: Tensor, weights: Weights | None = None, **shared: Any) -> Any:
        """Apply each copy to its part of ``inputs [F, …]``; output tensors are ``[F, …]``.

        ``weights`` replace the ensemble's own; other keyword arguments are the same for all copies.
        """
        used = dict(self.weights if weights is None else weights)

        def apply_one(weights: dict[str, Tensor], buffers: dict[str, Tensor], *parts: Tensor) -> Any:
            return functional_call(self.template, (weights, buffers), parts, shared)

        return vmap(apply_one, randomness="different")(used, self.buffers, *inputs)

    def detached_weights(self) -> dict[str, Tensor]:
        """Return the weights as constants."""
        return {name: weight.detach() for name, weight in self.weights.items()}

    def parameters(self) -> list[Any]:
        """Return the weights as a list, for an optimizer."""
        return list(self.weights.values())

    def num_weights(self) -> int:
        """Return the number of weights of one copy."""
        return sum(weight[0].numel() for weight in self.weights.values())

    @torch.no_grad()
    def load_weights(self, weights: Weights) -> None:
        """Copy values into the weights."""
        for name, weight in self.weights.items():
            weight.copy_(weights[name])
