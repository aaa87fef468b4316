"""Contract of every registered method; a new method is tested here without an edit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from advae.errors import ConfigError
from advae.methods import METHODS, Method
from advae.model import LatentModel
from advae.networks import CRITICS
from advae.networks.base import Critic
from advae.networks.mlp import ConcatCritic
from advae.training.step import TrainStep
from advae.training.train_options import TrainOptions
from contract import parts

B = 6
COMBINATIONS = parts.combinations()

every_method = pytest.mark.parametrize("name", METHODS.names())
every_combination = pytest.mark.parametrize(("name", "posterior", "likelihood"), COMBINATIONS)


def build(
    name: str, posterior: str = "", likelihood: str = "", **options: Any
) -> tuple[Method, LatentModel, Tensor]:
    """A method with a small model that it accepts, and a batch."""
    method = METHODS.build({"name": name})
    if not posterior:
        posterior, likelihood = default_heads(name)
    model = parts.model(method, posterior, likelihood, **options)
    assert model is not None
    return method, model, parts.observations(model, B)


def default_heads(name: str) -> tuple[str, str]:
    """A posterior and a likelihood that the method accepts."""
    return next((p, l) for n, p, l in reversed(COMBINATIONS) if n == name)


def variants(name: str) -> list[Method]:
    """The method with every value of each option that is a choice."""
    cls = METHODS.find(name)
    hints = get_type_hints(cls)
    default, methods = cls(), [cls()]
    for field in fields(cls):
        choices = get_args(hints[field.name]) if get_origin(hints[field.name]) is not None else ()
        methods += [replace(default, **{field.name: c}) for c in choices if c != getattr(default, field.name)]
    return methods


def train_step(method: Method, model: LatentModel, **options: Any) -> TrainStep:
    return TrainStep(Fabric(accelerator="cpu", devices=1), model, method, TrainOptions(**options))


def test_every_method_accepts_a_model() -> None:
    assert {name for name, _, _ in COMBINATIONS} == set(METHODS.names())


@every_combination
def test_losses_and_diagnostics_are_finite_and_per_example(
    name: str, posterior: str, likelihood: str
) -> None:
    method, model, x = build(name, posterior, likelihood)
    losses = method.losses(model, x)
    assert set(losses) == set(method.players)
    for key, value in [*losses.items(), *losses.diagnostics.items()]:
        assert value.shape == (B,), key
        assert bool(torch.isfinite(value).all()), key
        assert value.dtype == torch.float32, key
    assert not any(value.requires_grad for value in losses.diagnostics.values())
    assert all(loss.requires_grad for loss in losses.values())


@every_combination
def test_each_loss_has_gradients_for_all_parameters_of_its_player_only(
    name: str, posterior: str, likelihood: str
) -> None:
    method, model, x = build(name, posterior, likelihood)
    losses = method.losses(model, x)
    names = {id(p): key for key, p in model.named_parameters()}
    owned: list[int] = []
    for player, loss in losses.items():
        model.zero_grad()
        own = method.parameters(model, player)
        loss.mean().backward(inputs=own, retain_graph=True)
        without = [names[id(p)] for p in own if p.grad is None or not p.grad.abs().sum() > 0]
        assert without == [key for key in parts.without_effect(method) if player in key]
        others = [key for i, key in names.items() if i not in {id(p) for p in own}]
        assert [key for key in others if dict(model.named_parameters())[key].grad is not None] == []
        owned += [id(p) for p in own]
    assert sorted(owned) == sorted(names), "players share parameters, or a parameter belongs to none"


@every_combination
def test_update_of_a_player_changes_its_parameters_only(name: str, posterior: str, likelihood: str) -> None:
    """By the training step itself, for each player alone: all of its parameters change and no other parameter does."""
    method, model, x = build(name, posterior, likelihood)
    for player in method.players:
        step = train_step(method, model)
        before = {key: p.detach().clone() for key, p in model.named_parameters()}
        own = {id(p) for p in method.parameters(model, player)}
        step.set_step(0)
        step._update((player,), x, 1.0)
        for key, p in model.named_parameters():
            changes = id(p) in own and key not in parts.without_effect(method)
            assert bool((p != before[key]).any()) == changes, f"{player}: {key}"
            assert p.grad is None, f"{player} leaves a gradient on {key}"


@every_method
@pytest.mark.parametrize("critic", CRITICS.names())
def test_every_critic_works_with_every_method(name: str, critic: str) -> None:
    """Except where the critic cannot see what the method's critic must see: that is a ConfigError."""
    inputs = set(METHODS.find(name)().critics.values())
    if not all(parts.supports(critic, i) for i in inputs):
        with pytest.raises(ConfigError):
            build(name, critic=critic, x_shape=parts.image_shape(critic))
        return
    method, model, x = build(name, critic=critic, x_shape=parts.image_shape(critic))
    for player in method.adversaries:
        own = method.parameters(model, player)
        losses = method.losses(model, x)
        grads = torch.autograd.grad(losses[player].mean(), own, allow_unused=True)
        for p, g in zip(own, grads, strict=True):  # a network of an absent input has no weights that matter
            assert g is not None or "x,z" not in inputs, p.shape
            assert g is None or bool(torch.isfinite(g).all())


class Recorder(nn.Module):
    """A critic that records the sizes of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: set[tuple[int, int]] = set()

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        self.sizes.add((x[0].numel(), z[0].numel()))
        return x.flatten(1).sum(1) + z.flatten(1).sum(1)


@every_method
def test_critics_see_their_declared_inputs(name: str) -> None:
    """An absent input is empty in every call."""
    method, model, x = build(name)
    assert model.critic_inputs == method.critics
    recorders = {role: Recorder() for role in method.critics}
    model.critics = nn.ModuleDict(recorders)
    method.losses(model, x)
    for role, inputs in method.critics.items():
        assert recorders[role].sizes == {(x[0].numel() * ("x" in inputs), model.latent_dim * ("z" in inputs))}


@every_method
def test_no_critic_processes_the_same_x_twice(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, model, x = build(name)
    calls: list[tuple[Critic, Tensor]] = []

    def record(critic: Critic, x: Tensor) -> Callable[[Tensor], Tensor]:
        calls.append((critic, x))
        return bind_x(critic, x)

    bind_x = ConcatCritic.bind_x
    monkeypatch.setattr(ConcatCritic, "bind_x", record)
    method.losses(model, x)
    assert {id(critic) for critic, _ in calls} == {id(critic) for critic in model.critics.values()}
    pairs = combinations([(critic, x) for critic, x in calls if x.numel()], 2)
    assert not any(a is b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@every_method
@pytest.mark.parametrize("x_shape", [(5,), (3, 7, 9)])
def test_vectors_and_odd_images(name: str, x_shape: tuple[int, ...]) -> None:
    if name == "mle" and len(x_shape) == 1:  # its model here is a PixelCNN
        with pytest.raises(ConfigError):
            build(name, x_shape=x_shape)
        return
    method, model, x = build(name, x_shape=x_shape)
    assert all(loss.shape == (B,) for loss in method.losses(model, x).values())


@every_method
def test_options(name: str) -> None:
    """Every choice of every option gives finite losses or a ConfigError; repr, equality and spec are complete."""
    for method in variants(name):
        assert repr(method).startswith(type(method).__name__)
        assert METHODS.build(method.spec()) == method
        assert set(method.critics) == {net for nets in method.players.values() for net in nets} - {
            "encoder",
            "decoder",
        }
        try:
            model = parts.model(method, *default_heads(name))
        except ConfigError:
            continue
        if model is not None:
            losses = method.losses(model, parts.observations(model, B))
            assert all(bool(torch.isfinite(v).all()) for v in losses.values()), method
            assert losses.diagnostics.keys() & {"kl", "reconstruction", "critic/accuracy"}
    with pytest.raises(ConfigError, match="critic_steps"):
        METHODS.build({"name": name, "critic_steps": 0})
    assert METHODS.find(name).paper and METHODS.find(name).__doc__


@every_method
def test_a_subset_of_players_has_the_same_losses(name: str) -> None:
    """With the same noise, asking for fewer players does not change the losses of the others."""
    method, model, x = build(name)
    model.eval()

    def losses(players: tuple[str, ...] | None) -> Any:
        torch.manual_seed(1)
        return method.losses(model, x, players)

    full, names = losses(None), list(method.players)
    for subset in chain.from_iterable(combinations(names, k) for k in range(1, len(names) + 1)):
        partial = losses(subset)
        assert set(subset) <= set(partial) <= set(full)
        assert set(partial.diagnostics) <= set(full.diagnostics)
        for player in subset:
            assert torch.equal(partial[player], full[player])
        for key in partial.diagnostics:
            assert torch.equal(partial.diagnostics[key], full.diagnostics[key])


@every_method
def test_kl_weight_changes_the_loss_of_the_model_only(name: str) -> None:
    """Critics learn their ratio whatever the warm-up; diagnostics keep their meaning."""
    method, model, x = build(name)
    model.eval()
    half, full = [], []
    for weight, results in ((0.25, half), (1.0, full)):
        torch.manual_seed(1)
        losses = method.losses(model, x, kl_weight=weight)
        results += [losses[player] for player in method.adversaries] + list(losses.diagnostics.values())
    assert all(torch.equal(a, b) for a, b in zip(half, full, strict=True))


@every_method
def test_losses_are_a_function_of_the_seed(name: str) -> None:
    def losses(seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        torch.manual_seed(seed)
        method, model, x = build(name)
        return dict(method.losses(model, x)), model.state_dict()

    (a, weights_a), (b, weights_b), (c, _) = losses(0), losses(0), losses(1)
    assert all(torch.equal(a[key], b[key]) and not torch.equal(a[key], c[key]) for key in a)
    assert all(torch.equal(weights_a[key], weights_b[key]) for key in weights_a)


@every_combination
def test_saved_model_is_the_same_after_loading(
    name: str, posterior: str, likelihood: str, tmp_path: Path
) -> None:
    method, model, x = build(name, posterior, likelihood)
    model.info = {"recipe": "none", "step": 3, "method": method.spec()}
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    model.save_pretrained(tmp_path / "model")
    loaded = LatentModel.from_pretrained(tmp_path / "model")
    model.eval()
    assert loaded.info == model.info and loaded.x_shape == model.x_shape and not loaded.training
    assert loaded.critic_inputs == model.critic_inputs == method.critics
    assert {f.name for f in (tmp_path / "model").iterdir()} == {"config.json", "model.safetensors"}

    def outputs(m: LatentModel) -> list[Tensor]:
        torch.manual_seed(1)
        z = m.encode(x).rsample() if m.has_encoder else m.prior.rsample((B,))
        tensors = [z, m.decode(z).sample(), m.sample(3, seed=2)]
        if m.has_encoder:
            tensors += [m.reconstruct(x, seed=3), m.interpolate(x[0], x[1], 4)]
        return [*tensors, *method.losses(m, x).values()]

    for a, b in zip(outputs(model), outputs(loaded), strict=True):
        assert torch.equal(a, b)


@every_method
def test_step_leaves_no_gradients(name: str) -> None:
    """The moving average does not require gradients either, and the model can be copied."""
    method, model, x = build(name)
    step = train_step(method, model)
    step(0, lambda i: x)
    assert all(p.grad is None for p in model.parameters())
    assert not any(p.requires_grad for p in step.ema.model.parameters())
    copy.deepcopy(model)


@every_method
@pytest.mark.parametrize("order", ["simultaneous", "alternating"])
def test_number_of_updates_per_step(name: str, order: str) -> None:
    """Critics are updated ``critic_steps`` times per step and the model once; separate updates use separate batches."""
    method = replace(METHODS.build({"name": name}), update_order=order, critic_steps=3)
    model = parts.model(method, *default_heads(name))
    assert model is not None
    step = train_step(method, model)
    counts = dict.fromkeys(method.players, 0)
    for player, optimizer in step.optimizers.items():

        def counted(*args: Any, player: str = player, update: Any = optimizer.update) -> None:
            counts[player] += 1
            update(*args)

        optimizer.update = counted
    batches: list[int] = []

    def get_batch(i: int) -> Tensor:
        batches.append(i)
        return parts.observations(model, B)

    step(0, get_batch)
    assert counts == {p: 1 if p == "model" else 3 for p in method.players}
    assert batches == list(range(1 if not method.adversaries else 3 if order == "simultaneous" else 4))


@every_method
@pytest.mark.parametrize("order", ["simultaneous", "alternating"])
def test_metrics_are_means_over_all_batches_of_a_step(name: str, order: str) -> None:
    """Shares stay between 0 and 1, however often critics are updated per step."""
    method = replace(METHODS.build({"name": name}), update_order=order, critic_steps=3)
    model = parts.model(method, *default_heads(name))
    assert model is not None
    step = train_step(method, model, lr=1e-12, critic_lr=1e-12)
    for number in range(2):
        step(number, lambda i: parts.observations(model, B))
    metrics = step.metrics.pop_means()
    shares = {key: value for key, value in metrics.items() if key.endswith(("accuracy", "saturation"))}
    assert all(0 <= value <= 1 for value in shares.values()), shares
    assert set(metrics) >= {f"loss/{player}" for player in method.players}
