"""Base class of methods: options, players, critics and per-example losses.

A method is a frozen dataclass without state: it has no optimizer and no networks. Its *players* name the networks
that each loss may update. Each player's backward pass is restricted to its own parameters, so critics are held fixed
while encoder and decoder are updated, and gradients still flow through the critics' inputs:

    losses = method.losses(model, x)
    for player, loss in losses.items():
        loss.mean().backward(inputs=method.parameters(model, player), retain_graph=True)

All players of one batch share the same samples, so one forward pass of a critic can serve two of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from advae.distributions import Distribution
from advae.errors import ConfigError
from advae.model import LatentModel
from advae.networks.base import CriticInputs
from advae.registry import Registry

MODEL: tuple[str, ...] = ("encoder", "decoder")

Players = Sequence[str] | None
"""Names of players; None stands for all."""

Weight = float | Tensor

Requirements = dict[str, Literal["log_prob", "sample_log_prob"]]
"""What "posterior" and "likelihood" must have: a log density, or at least one at their own samples."""


class KLBound(StrEnum):
    """A lower bound on a critic's KL(P‖Q) that does not depend on the critic.

    Methods declare which of them hold; :mod:`advae.evaluation.critics.kl_bounds` computes them.
    """

    POSTERIOR_KL = "posterior KL"
    """E_q(x) KL(q(z|x)‖p(z)), where P/Q contains the factor q(z|x)/p(z) and the rest is a KL too."""
    Z_RECONSTRUCTION = "z reconstruction"
    """E_p[log q(z|x) − log p(z)] ≤ I_p(x; z) (Barber and Agakov 2003), where P is p(x, z) and Q a product."""
    AGGREGATE_POSTERIOR = "aggregate posterior"
    """KL(N(E_q z, Cov_q z)‖p(z)) ≤ KL(q(z)‖p(z)), where z ~ q(z) under P and z ~ p(z) under Q."""


@dataclass(frozen=True)
class CriticSpec:
    """The ratio P/Q that a critic estimates, and what is known about it.

    Attributes:
        numerator: P, for people.
        denominator: Q, for people.
        inputs: what the critic's network sees: "x,z", "x" or "z".
        known: the known terms of log P/Q, for people; the network learns the rest. Empty if there are none.
        log_ratio: whether known terms + network estimate log P/Q. False for a potential, known up to a constant.
        gives_kl: whether the reported ``kl``, KL(q(z|x)‖p(z)), is made from this critic.
        kl_bounds: lower bounds on KL(P‖Q) to compare the critic with.
    """

    numerator: str = "P"
    denominator: str = "Q"
    inputs: CriticInputs = "x,z"
    known: str = ""
    log_ratio: bool = True
    gives_kl: bool = False
    kl_bounds: tuple[KLBound, ...] = ()


class Losses(dict[str, Tensor]):
    """Per-example losses ``[B]`` in nats, one per player, plus detached diagnostics.

    Attributes:
        diagnostics: ``[B]`` each, by slash-separated key. ``reconstruction`` is ``−log p(x|z)`` and ``kl`` the
            method's value or estimate of ``KL(q(z|x)‖p(z))``. Those of a critic begin with its role.
    """

    def __init__(self, *, diagnostics: dict[str, Tensor], **players: Tensor) -> None:
        super().__init__(players)
        self.diagnostics = {key: value.detach() for key, value in diagnostics.items()}


@dataclass(frozen=True)
class Method:
    """Options that every method has."""

    update_order: Literal["simultaneous", "alternating"] = "simultaneous"
    """When critics are updated: together with the model, with all gradients taken before any update, or before the
    model, on separate batches."""
    critic_steps: int = 1
    """Critic updates per update of encoder and decoder; all but the last use separate batches."""
    kl_warmup: int = 0
    """Steps over which the weight of the prior term grows from 0 to 1; 0 for no warm-up."""

    name: ClassVar[str]
    paper: ClassVar[str]
    players: ClassVar[dict[str, tuple[str, ...]]] = {"model": MODEL}
    """The networks that each player updates: "encoder", "decoder", or the role of a critic."""
    requires: ClassVar[Requirements] = {}
    telescopes: ClassVar[bool] = False
    """Whether critics may have several bridges (:func:`advae.density_ratio.telescoped_contrast`)."""

    def __post_init__(self) -> None:
        if self.critic_steps < 1:
            raise ConfigError("method.critic_steps must be at least 1", given=self.critic_steps)
        if self.kl_warmup < 0:
            raise ConfigError("method.kl_warmup must be 0 or more", given=self.kl_warmup)

    @property
    def critic_specs(self) -> dict[str, CriticSpec]:
        """The ratio of each critic, by role; may depend on the options."""
        return {}

    @property
    def critics(self) -> dict[str, CriticInputs]:
        """What each critic sees, by role."""
        roles = [net for nets in self.players.values() for net in nets if net not in MODEL]
        return {role: self.critic_spec(role).inputs for role in roles}

    def critic_spec(self, role: str) -> CriticSpec:
        """Return the declaration of one critic; without a declaration it sees pairs."""
        return self.critic_specs.get(role, CriticSpec())

    @property
    def adversaries(self) -> tuple[str, ...]:
        """The players other than the model."""
        return tuple(player for player in self.players if player != "model")

    @property
    def trains_encoder(self) -> bool:
        """Whether a player updates an encoder."""
        return any("encoder" in networks for networks in self.players.values())

    def losses(
        self, model: LatentModel, x: Tensor, players: Players = None, kl_weight: Weight = 1.0
    ) -> Losses:
        """Compute per-example losses of these players for ``x [B, *x_shape]``, with this weight of the prior term."""
        raise NotImplementedError

    def networks(self, model: LatentModel, player: str) -> list[nn.Module]:
        """Return the networks that ``player`` updates."""
        return [getattr(model, net) if net in MODEL else model.critics[net] for net in self.players[player]]

    def parameters(self, model: LatentModel, player: str) -> list[nn.Parameter]:
        """Return the parameters that ``player`` updates."""
        return [p for net in self.networks(model, player) for p in net.parameters() if p.requires_grad]

    def kl_weight(self, step: int) -> float:
        """Return the weight of the prior term at ``step``, counted from 0."""
        return min(1.0, (step + 1) / self.kl_warmup) if self.kl_warmup else 1.0

    def spec(self) -> dict[str, Any]:
        """Return name and options, as in a recipe."""
        return {"name": self.name, **asdict(self)}

    def check(self, model: LatentModel) -> None:
        """Raise a :class:`ConfigError` if encoder or decoder lack what the method requires."""
        self._check_encoder(model)
        num_bridges = model.spec["critic"].get("num_bridges", 1) if model.spec and model.critics else 1
        if num_bridges > 1 and not self.telescopes:
            raise ConfigError(
                f"{self.name} does not support critics with bridges.",
                given=f"model.critic.num_bridges = {num_bridges}",
                expected=1,
            )
        x = torch.zeros(2, *model.x_shape, device=model.device)
        training, _ = model.training, model.eval()
        with torch.no_grad():
            z = model.prior.rsample((2,))
            if model.has_encoder:
                self._check_head("posterior", model.encode(x), model)
            self._check_head("likelihood", model.decode(z), model)
            self.losses(model, x)
        model.train(training)

    def _check_encoder(self, model: LatentModel) -> None:
        if self.trains_encoder and not model.has_encoder:
            raise ConfigError(
                f"{self.name} trains an encoder, and this model does not have one.",
                given="model.encoder.name = none",
                fix="choose a model.encoder ('mlp'), or a method without an encoder (mle, gan, wgan-gp)",
            )
        if model.has_encoder and not self.trains_encoder:
            raise ConfigError(
                f"{self.name} does not train an encoder: this one would keep its initial weights.",
                given=f"model.encoder.name = {model.spec['encoder']['name'] if model.spec else '…'}",
                fix="set model.encoder to none",
            )

    def _check_head(self, part: str, distribution: Distribution, model: LatentModel) -> None:
        required, has_log_prob = self.requires.get(part), distribution.has_log_prob
        given = f"model.{part}.name = {model.spec[part]['name'] if model.spec else distribution}"
        own_samples = required == "sample_log_prob"
        if required and not (distribution.has_sample_log_prob if own_samples else has_log_prob):
            raise ConfigError(
                f"{self.name} requires a {part} with a density{', at least at its own samples' * own_samples}.",
                given=given,
                fix=f"choose a model.{part} with a density ('normal'), or a method without this requirement"
                " (avb takes any posterior, bavae any likelihood too)",
            )
        if distribution.has_sample_log_prob and not has_log_prob and not own_samples:
            raise ConfigError(
                f"{self.name} does not use the density of this {part} at its own samples:"
                " its reverse model would not be trained.",
                given=given,
                fix=f"choose another model.{part} ('implicit' samples as freely), or the method vae",
            )


METHODS: Registry[type[Method]] = Registry("method", "advae.methods", Method)


def method_from_model(model: LatentModel) -> Method:
    """Return the method that trained a model; raise a :class:`ConfigError` if the model does not record it."""
    spec = model.info.get("method")
    if not spec:
        raise ConfigError("This model does not record which method trained it.", fix="load it from its run")
    method: Method = METHODS.build(spec)
    return method


def is_active(players: Players, player: str) -> bool:
    """Return whether ``player`` is among ``players``; None stands for all."""
    return players is None or player in players


def sample_for_critic(model: LatentModel, n: int, players: Players) -> Tensor:
    """Sample ``x_p [n, *x_shape]``, with gradients only where the generator is updated."""
    with torch.set_grad_enabled(torch.is_grad_enabled() and is_active(players, "model")):
        return model.decode(model.prior.rsample((n,))).rsample()


def log_density(distribution: Distribution, value: Tensor) -> Tensor | float:
    """Return a known term: the log density at ``value`` with constant parameters, or 0 without a density.

    Known terms are a part of the critic, and critics are held fixed while the model is updated: gradients flow
    through ``value``, not through the parameters of the distribution. The dropped part has expectation zero
    under the distribution itself (AVB proposition 2).
    """
    return distribution.as_density().detach().log_prob(value) if distribution.has_log_prob else 0.0


def known_joint_ratio(model: LatentModel, x: Tensor, z: Tensor) -> Tensor:
    """Return the known terms ``log q(z|x) − log p(z) − log p(x|z) [B]`` of log q(x, z)/p(x, z), with constant weights.

    Gradients flow through x and z; a density that does not exist is left out.
    """
    log_q = conditional_density(model.encoder, x, z)
    return log_q - model.prior.log_prob(z) - conditional_density(model.decoder, z, x)


def conditional_density(network: nn.Module, given: Tensor, value: Tensor) -> Tensor | float:
    """Return a known term ``log p(value | given)`` with constant weights, or 0 without a density.

    Gradients flow through ``value`` and ``given``: for critics both of whose inputs the model updates.
    """
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}
    distribution = functional_call(network, weights, (given,))
    return distribution.as_density().log_prob(value) if distribution.has_log_prob else 0.0
