"""Gradients that are not finite, schedules, the moving average, early stopping."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric

import advae
from advae.errors import ConfigError, NotFiniteError
from advae.methods import METHODS
from advae.model import LatentModel, build_model
from advae.training.checkpoint import load_checkpoint, save_checkpoint
from advae.training.optimizers import EMA, lr_scale
from advae.training.step import TrainStep
from advae.training.train_options import TrainOptions
from advae.training.trainer import Trainer
from advae.training.validation import Validation, early_stopping_loss
from training import tiny


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.data(tmp_path_factory.mktemp("data"))


def made(method: dict[str, Any], options: TrainOptions | None = None, **parts: Any) -> TrainStep:
    """A step on a small model."""
    small = {"name": "mlp", "hidden": [5]}
    spec = {
        "latent_dim": 2,
        "encoder": small,
        "posterior": {"name": "normal"},
        "decoder": small,
        "likelihood": {"name": "bernoulli"},
        "critic": {"name": "concat", "hidden": [5]},
    } | parts
    built = METHODS.build(method)
    model = build_model(spec, (1, 4, 5), built.critics)
    return TrainStep(Fabric(accelerator="cpu", devices=1), model, built, options or TrainOptions())


def weights(model: LatentModel) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


# --- not finite ---------------------------------------------------------------------------------------------

POISON: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("decoder", {"name": "vae"}, {"decoder": {"name": "training.tiny.Poison"}}, "model"),
    ("encoder", {"name": "avb"}, {"encoder": {"name": "training.tiny.Poison"}}, "model"),
    ("critic", {"name": "avb"}, {"critic": {"name": "training.tiny.PoisonCritic"}}, ""),
    ("critic", {"name": "asvae"}, {"critic": {"name": "training.tiny.PoisonCritic"}}, ""),
    ("critic", {"name": "bavae"}, {"critic": {"name": "training.tiny.PoisonCritic"}}, ""),
    ("critic", {"name": "ali"}, {"critic": {"name": "training.tiny.PoisonCritic"}}, ""),
]


@pytest.mark.parametrize(("part", "method", "parts", "player"), POISON)
@pytest.mark.parametrize("bad_step", [0, 2])
def test_a_nan_stops_training_before_any_weight_moves(
    part: str, method: dict[str, Any], parts: dict[str, Any], player: str, bad_step: int
) -> None:
    """Whoever gives it: no weight, average or optimiser changes in that step, and the message names a real player."""
    step, stream = made(method, **parts), tiny.images(6)
    poison = tiny.PoisonCritic if part == "critic" else tiny.Poison
    poison.calls, poison.at = 0, -1
    for number in range(bad_step):
        step(number, lambda i: next(stream))
    per_step = poison.calls // bad_step if bad_step else 0
    poison.calls, poison.at = 0, max(1, per_step)  # the last call of the step
    before, average = weights(step.model), weights(step.average.model)
    states = {name: {k: v.clone() for k, v in p.state().items()} for name, p in step.players.items()}
    with pytest.raises(NotFiniteError) as caught:
        step(bad_step, lambda i: next(stream))
    poison.at = -1
    assert tiny.differing(weights(step.model), before) == []
    assert tiny.differing(weights(step.average.model), average) == []
    for name, p in step.players.items():
        assert tiny.differing(p.state(), states[name]) == []
    text = str(caught.value)
    assert f"at step {bad_step}" in text
    assert any(f"player '{name}'" in text for name in step.method.players), text
    if player:
        assert f"player '{player}'" in text


def test_the_term_that_is_named_is_the_one_that_was_not_finite() -> None:
    """Steps in which critics move alone have other terms than those in which the model moves too."""
    step = made({"name": "avb", "update_order": "alternating"}, critic={"name": "training.tiny.PoisonCritic"})
    stream = tiny.images(6)
    tiny.PoisonCritic.calls, tiny.PoisonCritic.at = 0, -1
    step(0, lambda i: next(stream))
    tiny.PoisonCritic.calls, tiny.PoisonCritic.at = 0, 1  # at codes from q, in the critic's own move
    with pytest.raises(NotFiniteError) as caught:
        step(1, lambda i: next(stream))
    tiny.PoisonCritic.at = -1
    text = str(caught.value).splitlines()[0]
    assert "player 'critic'" in text
    assert "log_ratio_p" in text or "loss" in text, text  # accuracy and saturation of a NaN are finite


def test_a_gradient_that_overflows_is_found_too() -> None:
    """A finite loss with an infinite gradient: √0 at a weight of zero."""
    step, stream = made({"name": "vae"}), tiny.images(6)
    losses = type(step.method).losses
    bias = step.model.decoder.network.body[-1].bias

    class Rooted(type(step.method)):  # type: ignore[misc]
        name = "vae"

        def losses(self, *args: Any, **options: Any) -> Any:
            found = losses(step.method, *args, **options)
            found["model"] = found["model"] + bias.square().sum().sqrt()
            return found

    step.take.method = Rooted()  # type: ignore[attr-defined]
    before = weights(step.model)
    assert bool((bias == 0).all())
    with pytest.raises(NotFiniteError, match="gradient of player 'model' is not finite at step 0"):
        step(0, lambda i: next(stream))
    assert tiny.differing(weights(step.model), before) == []


def test_on_a_device_updates_stop_by_the_flag_alone() -> None:
    """Where the host does not look at every step, the flag raised by a bad step stops all later updates.

    (The CPU looks at once; here its look is put off, as on a GPU.)
    """
    step, stream = made({"name": "avb"}, decoder={"name": "training.tiny.Poison"}), tiny.images(6)
    look, step.raise_if_not_finite = step.raise_if_not_finite, lambda: None  # type: ignore[method-assign]
    tiny.Poison.calls, tiny.Poison.at = 0, -1
    step(0, lambda i: next(stream))
    before = {key: p.detach().clone() for key, p in step.model.named_parameters()}
    tiny.Poison.at = tiny.Poison.calls + 1
    for number in range(1, 4):  # the first of these is poisoned, the others are sound
        step(number, lambda i: next(stream))
    tiny.Poison.at = -1
    assert tiny.differing({k: p.detach() for k, p in step.model.named_parameters()}, before) == []
    with pytest.raises(NotFiniteError, match="player 'model' is not finite at step 1"):
        look()


def test_as_many_updates_as_may_be_left_out_are(tmp_path: Path) -> None:
    """Of a poisoned step nothing remains, in weights or in metrics; sound ones move; one too many stops the run."""

    def new() -> TrainStep:
        options = TrainOptions(max_skipped_steps=2, grad_clip=5.0, ema_decay=0)
        return made({"name": "vae"}, options, decoder={"name": "training.tiny.Poison"})

    step, stream = new(), tiny.images(9)
    tiny.Poison.calls, tiny.Poison.at = 0, -1

    def take(number: int, *, poisoned: bool) -> list[str]:
        """One step, and which weights it moved."""
        before = {key: p.detach().clone() for key, p in step.model.named_parameters()}
        tiny.Poison.at = tiny.Poison.calls + 1 if poisoned else -1
        step(number, lambda i: next(stream))
        return tiny.differing({k: p.detach() for k, p in step.model.named_parameters()}, before)

    everything = take(0, poisoned=False)
    assert len(everything) > 4
    assert take(1, poisoned=True) == []
    assert take(2, poisoned=False) == everything
    assert take(3, poisoned=True) == []
    assert take(4, poisoned=False) == everything
    assert all(math.isfinite(value) for value in step.read_metrics().values())
    save_checkpoint(tmp_path / "last", step, {})
    step = new()
    load_checkpoint(tmp_path / "last", step)  # what was left out counts in the next sitting too
    with pytest.raises(NotFiniteError, match="player 'model' is not finite at step 5"):
        take(5, poisoned=True)
    tiny.Poison.at = -1


def test_a_run_that_diverges_keeps_its_last_checkpoint(source: str, tmp_path: Path) -> None:
    tree = tiny.changed(tiny.tree(source), {"model.decoder": {"name": "training.tiny.Poison"}})
    tiny.Poison.calls, tiny.Poison.at = 0, -1
    one = Trainer._one

    def poisoned(self: Trainer, step: int, stream: Any) -> None:
        if step == 7:
            tiny.Poison.at = tiny.Poison.calls + 1
        one(self, step, stream)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(NotFiniteError, match="at step 7"):
        patch.setattr(Trainer, "_one", poisoned)
        advae.train(tree, options={"train.checkpoint_every": 3}, out=tmp_path / "run", quiet=True)
    tiny.Poison.at = -1
    state = json.loads((tmp_path / "run/checkpoints/last/state.json").read_text())
    assert state["step"] == 6
    assert advae.resume(tmp_path / "run", quiet=True).model().info["step"] == tiny.STEPS


# --- rates --------------------------------------------------------------------------------------------------


def test_schedules() -> None:
    constant = TrainOptions(steps=100)
    assert [lr_scale(constant, s) for s in (0, 50, 99)] == [1.0, 1.0, 1.0]
    cosine = TrainOptions(steps=100, lr_schedule="cosine")
    expected = [0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * s / 100)) for s in range(100)]
    assert [lr_scale(cosine, s) for s in range(100)] == pytest.approx(expected)
    assert lr_scale(cosine, 0) == 1 and lr_scale(cosine, 100) == pytest.approx(0.01)
    assert lr_scale(cosine, 500) == pytest.approx(0.01)
    warm = TrainOptions(steps=100, lr_warmup=4)
    assert [lr_scale(warm, s) for s in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    both = TrainOptions(steps=100, lr_warmup=10, lr_schedule="cosine")
    assert lr_scale(both, 4) == pytest.approx(0.5 * expected[4])


def test_rates_and_betas_of_each_player() -> None:
    options = TrainOptions(lr=1e-3, critic_lr=2e-3, beta1=0.5, critic_beta1=0.6, beta2=0.9, lr_warmup=2)
    step, stream = made({"name": "asvae"}, options), tiny.images(6)
    step(0, lambda i: next(stream))
    for name, player in step.players.items():
        group = player.optimiser.param_groups[0]
        assert group["lr"] == pytest.approx((1e-3 if name == "model" else 2e-3) / 2)
        assert tuple(group["betas"]) == ((0.5, 0.9) if name == "model" else (0.6, 0.9))


def test_clipping_bounds_each_players_gradient() -> None:
    for clip in (0.0, 1e-3):
        step, x = made({"name": "avb"}, TrainOptions(grad_clip=clip)), next(tiny.images(6))
        norms: dict[str, float] = {}
        for name, player in step.players.items():

            def noted(player: Any = player, name: str = name, norms: dict[str, float] = norms) -> None:
                norms[name] = math.sqrt(sum(float(p.grad.square().sum()) for p in player.parameters))

            player.optimiser.step = noted
        step(0, lambda i, x=x: x)
        for value in norms.values():
            assert value == pytest.approx(1e-3, rel=1e-3) if clip else value > 2e-3


def test_gradients_are_all_taken_before_any_update() -> None:
    """Simultaneous: each player's update is the one it would make if the others stood still."""
    x = next(tiny.images(6))
    together = made({"name": "asvae"})
    start = weights(together.model)
    torch.manual_seed(3)
    together(0, lambda i: x)
    for player in together.method.players:
        alone = made({"name": "asvae"})
        alone.model.load_state_dict(start)
        torch.manual_seed(3)
        alone.begin(0)
        alone._move(1.0, x, (player,))
        own = {id(p) for p in alone.method.parameters(alone.model, player)}
        for (key, p), q in zip(alone.model.named_parameters(), together.model.parameters(), strict=True):
            if id(p) in own:
                torch.testing.assert_close(p, q, atol=1e-7, rtol=1e-5, msg=key)


# --- the average --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999])
def test_the_moving_average(decay: float) -> None:
    """a ← d a + (1 − d) w with d = min(decay, (1 + t)/(10 + t)); buffers are copied."""
    encoder = {"name": "conv", "channels": [2], "hidden": [5], "norm": "batch"}
    step = made({"name": "vae"}, TrainOptions(ema_decay=decay), encoder=encoder)
    model, average = step.model, EMA(step.model, decay)
    expected = weights(average.model)
    for t in range(5):
        for value in model.state_dict().values():
            value += torch.randn(value.shape).sign().to(value.dtype)
        average.update(t)
        d = min(decay, (1 + t) / (10 + t))
        buffers = dict(model.named_buffers())
        assert buffers
        now = model.state_dict()
        expected = {k: v.clone() if k in buffers else d * expected[k] + (1 - d) * v for k, v in now.items()}
    for key, value in average.model.state_dict().items():
        torch.testing.assert_close(value, expected[key], atol=1e-6, rtol=1e-5)
    if decay == 0:
        assert tiny.differing(average.model.state_dict(), model.state_dict()) == []
    assert not average.model.training and model.training


def test_the_average_is_what_a_run_leaves(source: str, tmp_path: Path) -> None:
    run = advae.train(tiny.tree(source), out=tmp_path / "run", quiet=True)
    state = tiny.state(run)
    average = {k.removeprefix("average/"): v for k, v in state.items() if k.startswith("average/")}
    assert tiny.differing(run.model().state_dict(), average) == []
    moving = [k for k, v in average.items() if v.dim() > 1]
    assert all(not torch.equal(average[k], state[f"model/{k}"]) for k in moving)


# --- early stopping -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("errors", "patience", "last", "best"),
    [
        ([5, 3, 4, 3.5, 1, 1, 1], 2, 4, 2),
        ([5, 3, 4, 2, 4, 4, 4], 2, 6, 4),
        ([5, 4, 3, 2, 1, 0.5], 1, 6, 6),
        ([1, 2, 3], 0, 3, 1),
        ([2, 2, 2, 2], 2, 3, 1),
    ],
)
def test_early_stopping_keeps_the_best(
    errors: list[float], patience: int, last: int, best: int, source: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Stops after so many validations without a better one; the model is then that of the best."""
    script = iter(errors)
    monkeypatch.setattr(Validation, "__call__", lambda self, model, method: {"error": next(script)})
    options = {"train.steps": len(errors), "train.validate_every": 1, "train.patience": patience}
    run = advae.train(tiny.tree(source), options=options, out=tmp_path / "run", quiet=True)
    read = {n: json.loads((run.checkpoint(n) / "state.json").read_text()) for n in ("last", "best")}
    assert (read["last"]["step"], read["best"]["step"]) == (last, best)
    chosen = tiny.state(run, "best" if patience else "last")
    average = {k.removeprefix("average/"): v for k, v in chosen.items() if k.startswith("average/")}
    assert tiny.differing(run.model().state_dict(), average) == []


def test_the_step_a_model_carries_is_the_one_its_weights_are_of(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = iter([2.0, 1.0, 3.0, 3.0])
    monkeypatch.setattr(Validation, "__call__", lambda self, model, method: {"error": next(script)})
    options = {"train.steps": 9, "train.validate_every": 1, "train.patience": 2}
    run = advae.train(tiny.tree(source), options=options, out=tmp_path / "run", quiet=True)
    assert run.model().info["step"] == 2


def test_no_model_of_a_warm_up_is_kept(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = iter([1.0, 1.0, 1.0, 4.0, 3.0, 5.0])
    monkeypatch.setattr(Validation, "__call__", lambda self, model, method: {"error": next(script)})
    options = {"train.steps": 6, "train.validate_every": 1, "train.patience": 3, "method.kl_warmup": 4}
    run = advae.train(tiny.tree(source), options=options, out=tmp_path / "run", quiet=True)
    state = json.loads((run.checkpoint("best") / "state.json").read_text())
    assert (state["step"], state["best"]) == (5, 3.0)


@pytest.mark.parametrize(
    ("method", "found", "value"),
    [
        ("vae", {"reconstruction": 70.0, "kl": 20.0, "error": 0.3}, 90.0),
        ("asvae", {"reconstruction": 70.0, "kl": 20.0, "error": 0.3}, 0.3),
        ("mle", {"reconstruction": 70.0, "error": 70.0}, 70.0),
        ("gan", {"critic/accuracy": 0.5}, None),
    ],
)
def test_early_stopping_watches_a_bound_where_it_is_known(
    method: str, found: dict[str, float], value: float | None
) -> None:
    assert early_stopping_loss(found, METHODS.build({"name": method})) == value


def test_validation_errors_are_shares_of_the_variance(source: str) -> None:
    """A model that gives back what it is given has error 0; one that always answers the mean has error 1 in x."""
    from advae.data import DataOptions, load_data

    data = load_data(DataOptions(source=source, preprocessing="gray"))
    validation = Validation(data, 0, torch.device("cpu"))
    step = made({"name": "vae"})
    model = step.model.eval()
    body = model.decoder.network.body
    mean = validation.x.mean(0).clamp(1e-4, 1 - 1e-4)
    body[-1].weight.data.zero_()
    body[-1].bias.data = torch.logit(mean).flatten()
    found = validation(model, step.method)
    assert found["error/x"] == pytest.approx(1, abs=1e-3)
    assert found["error"] == pytest.approx(0.5 * (found["error/x"] + found["error/z"]))
    state = torch.get_rng_state()
    assert validation(model, step.method) == found, "the same noise every time"
    assert torch.equal(torch.get_rng_state(), state), "validation leaves the random state as it was"


def test_impossible_options_are_refused() -> None:
    for options in ({"steps": 0}, {"batch_size": 0}, {"lr": 0.0}, {"ema_decay": 1.0}, {"beta1": -0.1}, {"grad_clip": -1.0}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            TrainOptions(**options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="lr"):
        replace(TrainOptions(), lr=float("nan"))
