"""Exponential moving average of a model's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from advae.model import LatentModel


class EMA:
    """Exponential moving average of a model's weights, which evaluation uses.

    The decay after step t is ``min(decay, (1 + t) / (10 + t))``, so that the initial weights are forgotten quickly.
    Buffers (statistics of batch and spectral normalization) are copied. With decay 0 the average equals the model.

    Attributes:
        model: the averaged model.
    """

    def __init__(self, model: LatentModel, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._ema_params: list[Tensor] = list(self.model.parameters())
        self._model_params: list[Tensor] = list(model.parameters())
        # On a GPU the interpolation weight is a tensor, which a captured CUDA graph reads at every replay.
        self._weight: float | Tensor = 1.0
        if self._ema_params and self._ema_params[0].device.type == "cuda":
            self._weight = torch.ones((), device=self._ema_params[0].device)
        self._buffers = _buffers_by_dtype(self.model, model)

    def set_step(self, step: int) -> None:
        """Set the decay of the next :meth:`update` to that after ``step``, counted from 0."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        if isinstance(self._weight, Tensor):
            self._weight.fill_(weight)
        else:
            self._weight = weight

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the model's current weights."""
        if isinstance(self._weight, Tensor):
            delta = torch._foreach_sub(self._model_params, self._ema_params)
            torch._foreach_mul_(delta, self._weight)
            torch._foreach_add_(self._ema_params, delta)
        else:
            torch._foreach_lerp_(self._ema_params, self._model_params, self._weight)
        for ema_buffers, model_buffers in self._buffers:
            torch._foreach_copy_(ema_buffers, model_buffers)


def _buffers_by_dtype(average: LatentModel, model: LatentModel) -> list[tuple[list[Tensor], list[Tensor]]]:
    """Pair the buffers of both models, grouped by dtype: one call copies each group."""
    groups: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for ema_buffer, model_buffer in zip(average.buffers(), model.buffers(), strict=True):
        group = groups.setdefault(ema_buffer.dtype, ([], []))
        group[0].append(ema_buffer)
        group[1].append(model_buffer)
    return list(groups.values())
