"""A move's gradients: the losses of some players at one batch, and each player's gradient of its own.

Two ways to have them, which give the same numbers: operation by operation (here), or as one compiled graph
(:mod:`advae.training.backends.compiled`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from lightning_fabric import Fabric
from torch import Tensor, nn

from advae.methods import Losses, Method
from advae.model import LatentModel
from advae.training.optimizers import Player


@dataclass(frozen=True)
class Taken:
    """What is known of a move once its gradients are in the parameters' ``grad``.

    Attributes:
        terms: scalars to record, by ``PLAYER:TERM``: the method's diagnostics and the players' losses.
        norms: each player's norm of the gradient, where it was found on the way.
    """

    terms: dict[str, Tensor]
    norms: dict[str, Tensor] = field(default_factory=dict)


class Take(Protocol):
    """Leaves each named player's gradient at ``x [B, *x_shape]`` in its parameters, and moves nothing."""

    def __call__(self, x: Tensor, names: Sequence[str], kl_weight: float | Tensor) -> Taken: ...


class Eager:
    """Losses and gradients operation by operation.

    Args:
        fabric: device and precision.
        model: encoder, decoder and critics.
        method: whose losses.
        players: with their parameters.
    """

    def __init__(
        self, fabric: Fabric, model: LatentModel, method: Method, players: Mapping[str, Player]
    ) -> None:
        self.fabric, self.model, self.method, self.players = fabric, model, method, players

    def __call__(self, x: Tensor, names: Sequence[str], kl_weight: float | Tensor) -> Taken:
        with self.fabric.autocast():
            losses = self.method.losses(self.model, x, names, kl_weight)
        means = {name: losses[name].mean() for name in names}
        for name in names:
            self.fabric.backward(
                means[name], inputs=self.players[name].parameters, retain_graph=name != names[-1]
            )
        return Taken(terms_of(self.method, losses, means))


def accumulated(
    take: Take,
    parts: Sequence[Tensor],
    names: Sequence[str],
    kl_weight: float | Tensor,
    parameters: Sequence[nn.Parameter],
) -> Taken:
    """The gradients at several parts of a batch, of one size, and what there is to record: the means of both."""
    sums: list[Tensor | None] = [None for _ in parameters]
    terms: dict[str, Tensor] = {}
    for x in parts:
        taken = take(x, names, kl_weight)
        terms = {key: terms.get(key, 0.0) + value / len(parts) for key, value in taken.terms.items()}
        for i, parameter in enumerate(parameters):
            if parameter.grad is not None:
                old, share = sums[i], parameter.grad / len(parts)
                sums[i] = share if old is None else old + share
            parameter.grad = None
    for parameter, gradient in zip(parameters, sums, strict=True):
        parameter.grad = gradient
    return Taken(terms)


def terms_of(method: Method, losses: Losses, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What to record of a batch, as scalars: the means of the diagnostics, and of the losses."""
    terms = {f"{owner(method, key)}:{key}": value.float().mean() for key, value in losses.diagnostics.items()}
    return terms | {f"{name}:loss": mean.detach() for name, mean in means.items()}


def owner(method: Method, key: str) -> str:
    """The player a diagnostic speaks of: ``critic/accuracy`` of the critic, ``kl`` of the model."""
    role = key.partition("/")[0]
    owners = [player for player, nets in method.players.items() if role == player or role in nets]
    return owners[0] if owners else "model"
