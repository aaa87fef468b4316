"""What every method is: options, players, and losses from a batch. Nothing else: no optimiser, no state.

A method is a frozen dataclass. Its *players* name the networks that each loss may move; each player's
backward pass is restricted to its own parameters, so a critic is held fixed while encoder and decoder move,
and gradients still flow through its inputs:

    losses = method.losses(model, x)
    for player, loss in losses.items():
        loss.mean().backward(inputs=method.parameters(model, player), retain_graph=True)

In one batch all players see the same draws, and a forward pass of a critic can serve two of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from advae.distributions import Distribution
from advae.errors import ConfigError
from advae.model import LatentModel
from advae.registry import Registry

MODEL: tuple[str, ...] = ("encoder", "decoder")


class Losses(dict[str, Tensor]):
    """A loss to minimise for each player, ``[B]``, in nats; and what is worth knowing about the batch.

    Attributes:
        report: detached diagnostics by slash-named key, ``[B]`` each. ``reconstruction`` is
            ``−log p(x|z)`` and ``kl`` the method's value or estimate of ``KL(q(z|x)‖p(z))``.
    """

    def __init__(self, *, report: dict[str, Tensor], **players: Tensor) -> None:
        super().__init__(players)
        self.report = {key: value.detach() for key, value in report.items()}


@dataclass(frozen=True)
class Method:
    """Options that every method has."""

    order: Literal["simultaneous", "alternating"] = "simultaneous"
    """When critics move: with the model, all gradients taken before any update; or before it, on their own batches."""
    critic_steps: int = 1
    """Critic updates for each update of encoder and decoder; all but the last use batches of their own."""
    kl_warmup: int = 0
    """Steps over which the weight of the prior term grows from 0 to 1; 0 for none."""

    name: ClassVar[str]
    paper: ClassVar[str]
    players: ClassVar[dict[str, tuple[str, ...]]] = {"model": MODEL}
    """Each player's networks: "encoder", "decoder", or the role of a critic."""
    needs: ClassVar[dict[str, str]] = {}
    """What it asks of "posterior" and "likelihood": "density"; "score", of its own draws at least; or nothing."""
    sides: ClassVar[dict[str, tuple[str, str]]] = {}
    """By role what its critic tells apart, P and Q of its log ratio log P/Q."""
    claims_kl: ClassVar[str] = ""
    """The role whose critic the reported ``kl`` rests on; empty where it is known without one."""

    def __post_init__(self) -> None:
        if self.critic_steps < 1:
            raise ConfigError("method.critic_steps must be at least 1", given=self.critic_steps)
        if self.kl_warmup < 0:
            raise ConfigError("method.kl_warmup must be 0 or more", given=self.kl_warmup)

    @property
    def critics(self) -> tuple[str, ...]:
        """The roles that need a critic."""
        return tuple(net for nets in self.players.values() for net in nets if net not in MODEL)

    @property
    def adversaries(self) -> tuple[str, ...]:
        """The players other than the model."""
        return tuple(player for player in self.players if player != "model")

    def losses(
        self,
        model: LatentModel,
        x: Tensor,
        players: Sequence[str] | None = None,
        kl_weight: float | Tensor = 1.0,
    ) -> Losses:
        """Per-example losses.

        Args:
            model: its encoder, decoder, prior and critics.
            x: observations ``[B, *x_shape]``.
            players: whose losses are wanted; all by default.
            kl_weight: weight of the prior term in the model's loss, for warm-up.
        """
        raise NotImplementedError

    def networks(self, model: LatentModel, player: str) -> list[nn.Module]:
        """The networks that ``player`` moves."""
        return [getattr(model, net) if net in MODEL else model.critics[net] for net in self.players[player]]

    def parameters(self, model: LatentModel, player: str) -> list[nn.Parameter]:
        """The parameters that ``player`` moves."""
        return [p for net in self.networks(model, player) for p in net.parameters() if p.requires_grad]

    def kl_weight(self, step: int) -> float:
        """Weight of the prior term at ``step``, counted from 0."""
        return min(1.0, (step + 1) / self.kl_warmup) if self.kl_warmup else 1.0

    def spec(self) -> dict[str, Any]:
        """Name and options, as in a recipe."""
        return {"name": self.name, **asdict(self)}

    def check(self, model: LatentModel) -> None:
        """See before training that encoder and decoder can give what the method asks of them.

        Raises:
            ConfigError: they cannot; the message names the option to change.
        """
        self._check_encoder(model)
        probe = torch.zeros(2, *model.x_shape, device=model.device)
        training, _ = model.training, model.eval()
        with torch.no_grad():
            z = model.prior.rsample((2,))
            if model.has_encoder:
                self._check_part("posterior", model.encode(probe), model)
            self._check_part("likelihood", model.decode(z), model)
            self.losses(model, probe)
        model.train(training)

    def _check_encoder(self, model: LatentModel) -> None:
        moves = any("encoder" in networks for networks in self.players.values())
        if moves and not model.has_encoder:
            raise ConfigError(
                f"{self.name} trains an encoder, and this model has none",
                given="model.encoder.name = none",
                remedy="choose a model.encoder ('mlp'), or a method without one (mle, gan, wgan-gp)",
            )
        if model.has_encoder and not moves:
            raise ConfigError(
                f"{self.name} trains no encoder: this one would stay as it is",
                given=f"model.encoder.name = {model.spec['encoder']['name'] if model.spec else '…'}",
                remedy="set model.encoder to none",
            )

    def _check_part(self, part: str, made: Distribution, model: LatentModel) -> None:
        need = self.needs.get(part)
        given = f"model.{part}.name = {model.spec[part]['name'] if model.spec else made}"
        if (need == "density" and not made.has_log_prob) or (need == "score" and not made.scores_draws):
            raise ConfigError(
                f"{self.name} needs a {part} with a density"
                + (", or one that scores its own draws" if need == "score" else ""),
                given=given,
                remedy=f"choose a model.{part} with a density ('normal'), or a method without this need"
                " (avb takes any posterior, bavae any likelihood too)",
            )
        if made.scores_draws and not made.has_log_prob and need != "score":
            raise ConfigError(
                f"{self.name} has no use for the score of this {part}: its reverse model would not be trained",
                given=given,
                remedy=f"choose another model.{part} ('implicit' draws as freely), or the method vae",
            )


METHODS: Registry[type[Method]] = Registry("method", "advae.methods", Method)


def wanted(players: Sequence[str] | None, player: str) -> bool:
    """Whether ``player`` is among ``players``; None stands for all."""
    return players is None or player in players


def log_density(distribution: Distribution, value: Tensor) -> Tensor | float:
    """A known term: the log density at ``value`` with constant parameters, or 0 where there is none.

    Known terms are a part of the critic, and a critic is held fixed while the model moves: gradients flow
    through ``value``, not through the parameters of the distribution. What is left out has expectation zero
    under the distribution itself (AVB proposition 2).
    """
    return distribution.density().fixed().log_prob(value) if distribution.has_log_prob else 0.0


def conditional_density(network: nn.Module, given: Tensor, value: Tensor) -> Tensor | float:
    """A known term ``log p(value | given)`` with constant weights, or 0 where there is no density.

    Gradients flow through ``value`` and through ``given``: for a critic of which the model moves both.
    """
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}
    distribution = functional_call(network, weights, (given,))
    return distribution.density().log_prob(value) if distribution.has_log_prob else 0.0
