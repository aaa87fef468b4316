"""Losses and gradients of an update as one compiled graph.

With ``torch.compile`` on the forward pass alone, each player's backward pass would run through the whole compiled
graph, only to keep the part of its own parameters. Here the update is traced with each player's ``autograd.grad``
inside it, gradient penalties included, and unused operations are removed before compilation (:mod:`advae.inductor`).
Both backends give the same losses for the same seed, within rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.func import functional_call

from advae.inductor import compile_function
from advae.methods import Method
from advae.model import LatentModel
from advae.training.gradients import GradientOutput, batch_metrics
from advae.training.optimizers import PlayerOptimizer


class CompiledBackend:
    """Losses and gradients by one compiled graph for each set of players that are updated together.

    Args:
        fabric: device and precision.
        model: encoder, decoder and critics; its tensors must not be replaced by others.
        method: computes the losses.
        optimizers: hold each player's parameters.
    """

    def __init__(
        self,
        fabric: Fabric,
        model: LatentModel,
        method: Method,
        optimizers: Mapping[str, PlayerOptimizer],
    ) -> None:
        self.fabric, self.model, self.method, self.optimizers = fabric, model, method, optimizers
        self._updates: dict[tuple[str, ...], _CompiledUpdate] = {}

    def __call__(self, x: Tensor, players: Sequence[str], kl_weight: float | Tensor) -> GradientOutput:
        self.compile(x, players)
        return self._updates[tuple(players)](x, kl_weight)

    def compile(self, x: Tensor, players: Sequence[str]) -> None:
        """Compile the update of these players at batches like ``x``, if necessary; weights do not change.

        Raises:
            CompilationError: the operations cannot be traced, or no compiler is installed.
        """
        key = tuple(players)
        if key not in self._updates:
            self._updates[key] = _CompiledUpdate(self, x, key)


class _CompiledUpdate:
    """The compiled graph of one set of players."""

    def __init__(self, backend: CompiledBackend, x: Tensor, players: tuple[str, ...]) -> None:
        self.players = players
        self.parameters = [p for player in players for p in backend.optimizers[player].parameters]
        self.state = {f"model.{key}": value for key, value in _named_tensors(backend.model).items()}
        self.metric_names: list[str] = []
        self.grad_indices: list[int] = []  # of the parameters that have a gradient
        inputs = [*self.state.values(), x, _as_tensor(1.0, x)]
        with preserve_buffers(backend.model):
            self.program = compile_function(self._flat_function(backend), inputs)

    def _flat_function(self, backend: CompiledBackend) -> Callable[..., list[Tensor]]:
        """Return ``(weights and buffers, x, kl_weight) → metrics [n], norms [players], gradients``."""
        players = self.players
        state_keys = {id(value): key for key, value in self.state.items()}
        keys = {p: [state_keys[id(w)] for w in backend.optimizers[p].parameters] for p in players}

        def losses_and_gradients(module: _ModelFunction, x: Tensor, kl_weight: Tensor) -> list[Tensor]:
            weights = {f"model.{key}": value for key, value in module.model.named_parameters()}
            with backend.fabric.autocast():
                losses = backend.method.losses(module.model, x, players, kl_weight)
            means = {player: losses[player].mean() for player in players}
            gradients: list[Tensor | None] = []
            norms: list[Tensor] = []
            for player in players:
                inputs = [weights[key] for key in keys[player]]
                is_last = player == players[-1]
                player_gradients = torch.autograd.grad(
                    means[player], inputs, retain_graph=not is_last, allow_unused=True
                )
                norms.append(_total_norm(player_gradients))
                gradients += player_gradients
            metrics = batch_metrics(backend.method, losses, means)
            self.metric_names[:] = list(metrics)
            self.grad_indices[:] = [i for i, gradient in enumerate(gradients) if gradient is not None]
            outputs = [_with_layout_of(self.parameters[i], gradients[i]) for i in self.grad_indices]
            values = torch.stack([value.detach() for value in metrics.values()])
            return [values, torch.stack(norms), *outputs]

        module = _ModelFunction(backend.model, losses_and_gradients)

        def flat_function(*inputs: Tensor) -> list[Tensor]:
            *state, x, kl_weight = inputs
            return functional_call(module, dict(zip(self.state, state, strict=True)), (x, kl_weight))

        return flat_function

    def __call__(self, x: Tensor, kl_weight: float | Tensor) -> GradientOutput:
        with torch.no_grad():
            values, norms, *gradients = self.program(*self.state.values(), x, _as_tensor(kl_weight, x))
        for index, gradient in zip(self.grad_indices, gradients, strict=True):
            self.parameters[index].grad = gradient
        return GradientOutput(
            dict(zip(self.metric_names, values.unbind(), strict=True)),
            dict(zip(self.players, norms.unbind(), strict=True)),
        )


class _ModelFunction(nn.Module):
    """A module that calls any function of a model; ``functional_call`` requires a module."""

    def __init__(self, model: LatentModel, function: Callable[..., list[Tensor]]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, *args: Any) -> list[Tensor]:
        return self.function(self, *args)


@contextmanager
def preserve_buffers(model: LatentModel) -> Iterator[None]:
    """Restore the model's buffers at the end of the block."""
    saved = [buffer.clone() for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(model.buffers(), saved, strict=True):
                buffer.copy_(value)


def _named_tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _as_tensor(kl_weight: float | Tensor, x: Tensor) -> Tensor:
    if isinstance(kl_weight, Tensor):
        return kl_weight
    return torch.full((), kl_weight, dtype=torch.float32, device=x.device)


def _total_norm(gradients: Sequence[Tensor | None]) -> Tensor:
    norms = [torch.linalg.vector_norm(gradient) for gradient in gradients if gradient is not None]
    return torch.linalg.vector_norm(torch.stack(norms))


def _with_layout_of(parameter: nn.Parameter, gradient: Tensor | None) -> Tensor:
    """Return the gradient in its parameter's memory layout, which the fused update requires."""
    assert gradient is not None
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_strided(
        parameter.shape, parameter.stride(), dtype=gradient.dtype, device=gradient.device
    ).copy_(gradient)
