"""Losses and gradients of one update.

An update moves one or more players with gradients from one batch. Two backends compute them, with equal results: eager
PyTorch (here) and one compiled graph (:mod:`advae.training.backends.compiled`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from lightning_fabric import Fabric
from torch import Tensor, nn

from advae.methods import Losses, Method
from advae.model import LatentModel
from advae.training.optimizers import PlayerOptimizer


@dataclass(frozen=True)
class GradientOutput:
    """What an update reports once its gradients are in the parameters' ``grad``.

    Attributes:
        metrics: scalars by ``PLAYER:NAME``: the method's diagnostics and the players' losses.
        norms: norm of each player's gradient, if the backend computes it.
    """

    metrics: dict[str, Tensor]
    norms: dict[str, Tensor] = field(default_factory=dict)


class GradientFn(Protocol):
    """Writes each named player's gradient at ``x [B, *x_shape]`` to its parameters' ``grad``; updates no weight."""

    def __call__(self, x: Tensor, players: Sequence[str], kl_weight: float | Tensor) -> GradientOutput: ...


class EagerBackend:
    """Losses and gradients in eager PyTorch.

    Args:
        fabric: device and precision.
        model: encoder, decoder and critics.
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

    def __call__(self, x: Tensor, players: Sequence[str], kl_weight: float | Tensor) -> GradientOutput:
        with self.fabric.autocast():
            losses = self.method.losses(self.model, x, players, kl_weight)
        means = {player: losses[player].mean() for player in players}
        for player in players:
            parameters = self.optimizers[player].parameters
            self.fabric.backward(means[player], inputs=parameters, retain_graph=player != players[-1])
        return GradientOutput(batch_metrics(self.method, losses, means))


def accumulate_gradients(
    gradient_fn: GradientFn,
    chunks: Sequence[Tensor],
    players: Sequence[str],
    kl_weight: float | Tensor,
    parameters: Sequence[nn.Parameter],
) -> GradientOutput:
    """Average gradients and metrics over chunks of a batch, all of one size."""
    sums: list[Tensor | None] = [None for _ in parameters]
    metrics: dict[str, Tensor] = {}
    for x in chunks:
        output = gradient_fn(x, players, kl_weight)
        metrics = {key: metrics.get(key, 0.0) + value / len(chunks) for key, value in output.metrics.items()}
        for i, parameter in enumerate(parameters):
            if parameter.grad is not None:
                total, term = sums[i], parameter.grad / len(chunks)
                sums[i] = term if total is None else total + term
            parameter.grad = None
    for parameter, gradient in zip(parameters, sums, strict=True):
        parameter.grad = gradient
    return GradientOutput(metrics)


def batch_metrics(method: Method, losses: Losses, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the means of diagnostics and losses over a batch, by ``PLAYER:NAME``.

    The model's diagnostics come first: its non-finite values spread to critics, and an error names the first one.
    """
    players = {key: _player_of(method, key) for key in losses.diagnostics}
    keys = sorted(players, key=lambda key: players[key] != "model")
    metrics = {f"{players[key]}:{key}": losses.diagnostics[key].float().mean() for key in keys}
    return metrics | {f"{player}:loss": mean.detach() for player, mean in means.items()}


def _player_of(method: Method, key: str) -> str:
    """Return the player that a diagnostic describes: the critic for ``critic/accuracy``, the model for ``kl``."""
    role = key.partition("/")[0]
    players = [player for player, nets in method.players.items() if role == player or role in nets]
    return players[0] if players else "model"
