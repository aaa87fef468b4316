"""A move's gradients as one compiled graph: the forward pass, the losses and every player's backward pass.

The forward pass alone could be compiled with less. But each player's backward would then run through the whole
compiled graph, once a player, only to keep its own part. Here the operations of a move are recorded as they run, each
player's ``autograd.grad`` among them (a gradient penalty's inner one too), and what nobody asked for is gone before
the graph is compiled (:mod:`advae.inductor`). Recording needs what a step promises anyway (see
:mod:`advae.training.step`): no decision in Python depends on a tensor's value. Both ways give the same losses for the
same seed, within floating point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.func import functional_call

from advae.inductor import compiled
from advae.methods import Method
from advae.model import LatentModel
from advae.training.gradients import Taken, terms_of
from advae.training.optimizers import Player


class Compiled:
    """Losses and gradients by compiled graphs, one for each set of players that move together.

    Args:
        fabric: device and precision.
        model: encoder, decoder and critics; its tensors must stay where they are in memory.
        method: whose losses.
        players: with their parameters.
    """

    def __init__(
        self,
        fabric: Fabric,
        model: LatentModel,
        method: Method,
        players: Mapping[str, Player],
    ) -> None:
        self.fabric, self.model, self.method, self.players = fabric, model, method, players
        self._moves: dict[tuple[str, ...], _Move] = {}

    def __call__(self, x: Tensor, names: Sequence[str], kl_weight: float | Tensor) -> Taken:
        self.prepare(x, names)
        return self._moves[tuple(names)](x, kl_weight)

    def prepare(self, x: Tensor, names: Sequence[str]) -> None:
        """Compile the move of these players at batches like ``x``, if that is not done yet; nothing is moved by it.

        Raises:
            CannotCompile: the operations cannot be recorded, or there is no compiler.
        """
        key = tuple(names)
        if key not in self._moves:
            self._moves[key] = _Move(self, x, key)


class _Move:
    """The graph of one set of players."""

    def __init__(self, parent: Compiled, x: Tensor, names: tuple[str, ...]) -> None:
        self.parameters = [p for name in names for p in parent.players[name].parameters]
        self.state = {f"model.{k}": v for k, v in _tensors(parent.model).items()}
        self.names, self.terms = names, list[str]()
        self.moved: list[int] = []  # places of the parameters that have a gradient
        inputs = [*self.state.values(), x, self._weight(x, 1.0)]
        with _buffers_kept(parent.model):
            self.program = compiled(self._function(parent, names), inputs)

    def _function(self, parent: Compiled, names: tuple[str, ...]) -> Callable[..., list[Tensor]]:
        """``(weights and buffers, x, weight) → terms [n], norms [players], gradients``, flat."""
        ids = {name: [id(p) for p in parent.players[name].parameters] for name in names}
        keys = {id(value): key for key, value in self.state.items()}

        def losses_and_gradients(whole: _Whole, x: Tensor, kl_weight: Tensor) -> list[Tensor]:
            current = {f"model.{k}": v for k, v in whole.model.named_parameters()}
            with parent.fabric.autocast():
                losses = parent.method.losses(whole.model, x, names, kl_weight)
            means = {name: losses[name].mean() for name in names}
            gradients: list[Tensor | None] = []
            norms: list[Tensor] = []
            for name in names:
                own = [current[keys[i]] for i in ids[name]]
                keep = name != names[-1]
                found = torch.autograd.grad(means[name], own, retain_graph=keep, allow_unused=True)
                norms.append(_norm(found))
                gradients += found
            terms = terms_of(parent.method, losses, means)
            self.terms[:] = list(terms)
            self.moved[:] = [i for i, gradient in enumerate(gradients) if gradient is not None]
            given = [_like(gradients[i], self.parameters[i]) for i in self.moved]
            return [torch.stack([value.detach() for value in terms.values()]), torch.stack(norms), *given]

        whole = _Whole(parent.model, losses_and_gradients)

        def flat(*values: Tensor) -> list[Tensor]:
            *state, x, kl_weight = values
            return functional_call(whole, dict(zip(self.state, state, strict=True)), (x, kl_weight))

        return flat

    def __call__(self, x: Tensor, kl_weight: float | Tensor) -> Taken:
        with torch.no_grad():
            values, norms, *gradients = self.program(*self.state.values(), x, self._weight(x, kl_weight))
        for place, gradient in zip(self.moved, gradients, strict=True):
            self.parameters[place].grad = gradient
        return Taken(
            dict(zip(self.terms, values.unbind(), strict=True)),
            dict(zip(self.names, norms.unbind(), strict=True)),
        )

    @staticmethod
    def _weight(x: Tensor, kl_weight: float | Tensor) -> Tensor:
        return kl_weight if isinstance(kl_weight, Tensor) else torch.full((), kl_weight, device=x.device)


class _Whole(nn.Module):
    """A model within a module whose call is any function of it: what ``functional_call`` asks for."""

    def __init__(self, model: LatentModel, function: Callable[..., list[Tensor]]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, *args: Any) -> list[Tensor]:
        return self.function(self, *args)


@contextmanager
def _buffers_kept(model: LatentModel) -> Iterator[None]:
    """Put the model's buffers back afterwards: a function is run to be recorded."""
    before = [buffer.clone() for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(model.buffers(), before, strict=True):
                buffer.copy_(value)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _norm(gradients: Sequence[Tensor | None]) -> Tensor:
    """The norm of all of them together."""
    norms = [torch.linalg.vector_norm(gradient) for gradient in gradients if gradient is not None]
    return torch.linalg.vector_norm(torch.stack(norms))


def _like(gradient: Tensor | None, parameter: nn.Parameter) -> Tensor:
    """The gradient laid out in memory as its parameter: the fused update asks for it."""
    assert gradient is not None
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_strided(
        parameter.shape, parameter.stride(), dtype=gradient.dtype, device=gradient.device
    ).copy_(gradient)
