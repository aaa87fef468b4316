"""What holds for every method: one that is registered is tested here without an edit."""

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
from torch import Tensor

from advae.errors import ConfigError
from advae.methods import METHODS, Method
from advae.model import LatentModel
from advae.networks import CRITICS
from advae.networks.base import Critic
from advae.networks.mlp import ConcatCritic
from advae.training.step import Step
from advae.training.train_options import TrainOptions
from contract import parts

B = 6
COMBINATIONS = parts.combinations()

every_method = pytest.mark.parametrize("name", METHODS.names())
every_combination = pytest.mark.parametrize(("name", "posterior", "likelihood"), COMBINATIONS)


def build(
    name: str, posterior: str = "", likelihood: str = "", **options: Any
) -> tuple[Method, LatentModel, Tensor]:
    """A method with a small model that suits it, and a batch."""
    method = METHODS.build({"name": name})
    if not posterior:
        posterior, likelihood = next((p, l) for n, p, l in reversed(COMBINATIONS) if n == name)
    model = parts.model(method, posterior, likelihood, **options)
    assert model is not None
    return method, model, parts.observations(model, B)


def variants(name: str) -> list[Method]:
    """The method with every value of each option that is a choice."""
    cls = METHODS.find(name)
    hints = get_type_hints(cls)
    base, found = cls(), [cls()]
    for field in fields(cls):
        choices = get_args(hints[field.name]) if get_origin(hints[field.name]) is not None else ()
        found += [replace(base, **{field.name: c}) for c in choices if c != getattr(base, field.name)]
    return found


def test_every_method_accepts_something() -> None:
    assert {name for name, _, _ in COMBINATIONS} == set(METHODS.names())


@every_combination
def test_losses_and_reports_are_finite_and_one_number_an_example(
    name: str, posterior: str, likelihood: str
) -> None:
    method, model, x = build(name, posterior, likelihood)
    losses = method.losses(model, x)
    assert set(losses) == set(method.players)
    for key, value in [*losses.items(), *losses.report.items()]:
        assert value.shape == (B,), key
        assert bool(torch.isfinite(value).all()), key
        assert value.dtype == torch.float32, key
    assert not any(value.requires_grad for value in losses.report.values())
    assert all(loss.requires_grad for loss in losses.values())


@every_combination
def test_every_parameter_of_a_player_gets_a_gradient_and_no_other(
    name: str, posterior: str, likelihood: str
) -> None:
    method, model, x = build(name, posterior, likelihood)
    losses = method.losses(model, x)
    names = {id(p): key for key, p in model.named_parameters()}
    moved: list[int] = []
    for player, loss in losses.items():
        model.zero_grad()
        own = method.parameters(model, player)
        loss.mean().backward(inputs=own, retain_graph=True)
        without = [names[id(p)] for p in own if p.grad is None or not p.grad.abs().sum() > 0]
        assert without == [key for key in parts.without_effect(method) if player in key]
        others = [key for i, key in names.items() if i not in {id(p) for p in own}]
        assert [key for key in others if dict(model.named_parameters())[key].grad is not None] == []
        moved += [id(p) for p in own]
    assert sorted(moved) == sorted(names), "players share parameters, or some parameter belongs to none"


@every_combination
def test_a_players_step_moves_that_player_only(name: str, posterior: str, likelihood: str) -> None:
    """The library's own step, with each player's turn alone: all of its weights change and no other weight does."""
    method, model, x = build(name, posterior, likelihood)
    for player in method.players:
        step = Step(Fabric(accelerator="cpu", devices=1), model, method, TrainOptions())
        before = {key: p.detach().clone() for key, p in model.named_parameters()}
        own = {id(p) for p in method.parameters(model, player)}
        step.begin(0)
        step._move(1.0, x, (player,))
        for key, p in model.named_parameters():
            moves = id(p) in own and key not in parts.without_effect(method)
            assert bool((p != before[key]).any()) == moves, f"{player}: {key}"
            assert p.grad is None, f"{player} leaves a gradient on {key}"


@every_method
@pytest.mark.parametrize("critic", CRITICS.names())
def test_every_critic_serves_every_method(name: str, critic: str) -> None:
    """But one that sees images alone is refused beside an encoder, in words."""
    if critic in parts.IMAGES_ALONE and METHODS.find(name)().critics and parts.encodes(METHODS.find(name)()):
        with pytest.raises(ConfigError, match="images alone"):
            build(name, critic=critic, x_shape=parts.image(critic))
        return
    method, model, x = build(name, critic=critic, x_shape=parts.image(critic))
    for player in method.adversaries:
        own = method.parameters(model, player)
        grads = torch.autograd.grad(method.losses(model, x)[player].mean(), own)
        assert all(g is not None and bool(torch.isfinite(g).all()) for g in grads)


@every_method
def test_no_critic_works_on_the_same_x_twice(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, model, x = build(name)
    seen: list[tuple[Critic, Tensor]] = []

    def noted(critic: Critic, x: Tensor) -> Callable[[Tensor], Tensor]:
        seen.append((critic, x))
        return at(critic, x)

    at = ConcatCritic.at
    monkeypatch.setattr(ConcatCritic, "at", noted)
    method.losses(model, x)
    assert {id(critic) for critic, _ in seen} == {id(critic) for critic in model.critics.values()}
    assert not any(a is b and torch.equal(x, y) for (a, x), (b, y) in combinations(seen, 2))


@every_method
@pytest.mark.parametrize("x_shape", [(5,), (3, 7, 9)])
def test_vectors_and_odd_images(name: str, x_shape: tuple[int, ...]) -> None:
    if name == "mle" and len(x_shape) == 1:  # its model here is one of pixels
        with pytest.raises(ConfigError, match="one of images"):
            build(name, x_shape=x_shape)
        return
    method, model, x = build(name, x_shape=x_shape)
    assert all(loss.shape == (B,) for loss in method.losses(model, x).values())


@every_method
def test_options(name: str) -> None:
    """Every choice of every option gives finite losses or is refused in words; repr, equality and spec are whole."""
    for method in variants(name):
        assert repr(method).startswith(type(method).__name__)
        assert METHODS.build(method.spec()) == method
        try:
            model = parts.model(method, *next((p, l) for n, p, l in COMBINATIONS if n == name))
        except ConfigError:
            continue
        if model is not None:
            losses = method.losses(model, parts.observations(model, B))
            assert all(bool(torch.isfinite(v).all()) for v in losses.values()), method
            assert (
                "kl" in losses.report
                or "reconstruction" in losses.report
                or "critic/accuracy" in losses.report
            )
    with pytest.raises(ConfigError, match="critic_steps"):
        METHODS.build({"name": name, "critic_steps": 0})
    assert METHODS.find(name).paper and METHODS.find(name).__doc__


@every_method
def test_a_subset_of_the_players_gets_the_same_losses(name: str) -> None:
    """With the same noise, asking for fewer players changes no loss that was asked for."""
    method, model, x = build(name)
    model.eval()

    def losses(players: tuple[str, ...] | None) -> Any:
        torch.manual_seed(1)
        return method.losses(model, x, players)

    full, names = losses(None), list(method.players)
    for subset in chain.from_iterable(combinations(names, k) for k in range(1, len(names) + 1)):
        some = losses(subset)
        assert set(subset) <= set(some) <= set(full)
        assert set(some.report) <= set(full.report)
        for player in subset:
            assert torch.equal(some[player], full[player])
        for key in some.report:
            assert torch.equal(some.report[key], full.report[key])


@every_method
def test_the_weight_of_the_kl_reaches_the_model_only(name: str) -> None:
    """Critics learn their ratio whatever the warm-up; reports keep their meaning."""
    method, model, x = build(name)
    model.eval()
    found = []
    for weight in (0.25, 1.0):
        torch.manual_seed(1)
        found.append(method.losses(model, x, kl_weight=weight))
    for key in method.adversaries:
        assert torch.equal(found[0][key], found[1][key])
    assert all(torch.equal(found[0].report[key], found[1].report[key]) for key in found[0].report)


@every_method
def test_same_seed_same_losses_other_seed_others(name: str) -> None:
    def once(seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        torch.manual_seed(seed)
        method, model, x = build(name)
        return dict(method.losses(model, x)), model.state_dict()

    (a, weights_a), (b, weights_b), (c, _) = once(0), once(0), once(1)
    assert all(torch.equal(a[key], b[key]) and not torch.equal(a[key], c[key]) for key in a)
    assert all(torch.equal(weights_a[key], weights_b[key]) for key in weights_a)


@every_combination
def test_saved_and_loaded_is_the_same_model(
    name: str, posterior: str, likelihood: str, tmp_path: Path
) -> None:
    method, model, x = build(name, posterior, likelihood)
    model.info = {"recipe": "none", "step": 3, "method": method.spec()}
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    model.save_pretrained(tmp_path / "model")
    again = LatentModel.from_pretrained(tmp_path / "model")
    model.eval()
    assert again.info == model.info and again.x_shape == model.x_shape and not again.training
    assert {f.name for f in (tmp_path / "model").iterdir()} == {"config.json", "model.safetensors"}

    def outputs(m: LatentModel) -> list[Tensor]:
        torch.manual_seed(1)
        z = m.encode(x).rsample() if m.has_encoder else m.prior.rsample((B,))
        made = [z, m.decode(z).sample(), m.sample(3, seed=2)]
        if m.has_encoder:
            made += [m.reconstruct(x, seed=3), m.interpolate(x[0], x[1], 4)]
        seen = z if m.has_encoder else z[:, :0]
        return [*made, *[critic(x, seen) for critic in m.critics.values()], *method.losses(m, x).values()]

    for mine, theirs in zip(outputs(model), outputs(again), strict=True):
        assert torch.equal(mine, theirs)


@every_method
def test_a_step_leaves_nothing_behind(name: str) -> None:
    """No gradient is kept, the average follows, and the module can be copied after it."""
    method, model, x = build(name)
    step = Step(Fabric(accelerator="cpu", devices=1), model, method, TrainOptions())
    step(0, lambda i: x)
    assert all(p.grad is None for p in model.parameters())
    assert not any(p.requires_grad for p in step.average.model.parameters())
    copy.deepcopy(model)


@every_method
@pytest.mark.parametrize("order", ["simultaneous", "alternating"])
def test_order_and_number_of_updates(name: str, order: str) -> None:
    """Critics move ``critic_steps`` times a step and the model once, each move on a batch of its own where apart."""
    method = replace(METHODS.build({"name": name}), order=order, critic_steps=3)
    model = parts.model(method, *next((p, l) for n, p, l in COMBINATIONS if n == name))
    assert model is not None
    step = Step(Fabric(accelerator="cpu", devices=1), model, method, TrainOptions())
    counts = dict.fromkeys(method.players, 0)
    for player in step.players.values():

        def counted(*args: Any, player: Any = player, update: Any = player.update) -> None:
            counts[player.name] += 1
            update(*args)

        player.update = counted
    drawn: list[int] = []

    def draw(i: int) -> Tensor:
        drawn.append(i)
        return parts.observations(model, B)

    step(0, draw)
    assert counts == {p: 1 if p == "model" else 3 for p in method.players}
    assert drawn == list(range(step.batches))
    assert step.batches == (1 if not method.adversaries else 3 if order == "simultaneous" else 4)


@every_method
@pytest.mark.parametrize("order", ["simultaneous", "alternating"])
def test_metrics_are_means_over_all_batches_of_a_step(name: str, order: str) -> None:
    """A constant diagnostic is reported as that constant, however often critics move in a step."""
    method = replace(METHODS.build({"name": name}), order=order, critic_steps=3)
    model = parts.model(method, *next((p, l) for n, p, l in COMBINATIONS if n == name))
    assert model is not None
    step = Step(
        Fabric(accelerator="cpu", devices=1), model, method, TrainOptions(rate=1e-12, critic_rate=1e-12)
    )
    for number in range(2):
        step(number, lambda i: parts.observations(model, B))
    metrics = step.read_metrics()
    shares = {key: value for key, value in metrics.items() if key.endswith(("accuracy", "saturation"))}
    assert all(0 <= value <= 1 for value in shares.values()), shares
    assert set(metrics) >= {f"loss/{player}" for player in method.players}
