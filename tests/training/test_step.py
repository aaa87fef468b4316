"""One training step: simultaneous gradients, and non-finite values that must not change any weight."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from advae.errors import NotFiniteError
from advae.training.checkpoint import load_checkpoint, save_checkpoint
from advae.training.gradients import GradientOutput, accumulate_gradients
from advae.training.step import TrainStep
from advae.training.train_options import TrainOptions
from training import tiny

POISON: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("decoder", {"name": "vae"}, {"decoder": {"name": "training.tiny.Poison"}}, "model"),
    ("encoder", {"name": "avb"}, {"encoder": {"name": "training.tiny.Poison"}}, "model"),
    ("critic", {"name": "avb"}, {"critic": {"name": "training.tiny.PoisonCritic"}}, ""),
    ("critic", {"name": "asvae"}, {"critic": {"name": "training.tiny.PoisonCritic"}}, ""),
    ("critic", {"name": "bavae"}, {"critic": {"name": "training.tiny.PoisonCritic"}}, ""),
    ("critic", {"name": "ali"}, {"critic": {"name": "training.tiny.PoisonCritic"}}, ""),
]


@pytest.mark.parametrize(("component", "method", "components", "player"), POISON)
@pytest.mark.parametrize("bad_step", [0, 2])
def test_nan_stops_training_before_any_weight_changes(
    component: str, method: dict[str, Any], components: dict[str, Any], player: str, bad_step: int
) -> None:
    """No weight, average or optimizer state changes in that step, and the message names an existing player."""
    step, batches = tiny.train_step(method, **components), tiny.images(6)
    poison = tiny.PoisonCritic if component == "critic" else tiny.Poison
    poison.calls, poison.at = 0, -1
    for number in range(bad_step):
        step(number, lambda i: next(batches))
    calls_per_step = poison.calls // bad_step if bad_step else 0
    poison.calls, poison.at = 0, max(1, calls_per_step)  # the last call of the step
    weights, ema = tiny.weights(step.model), tiny.weights(step.ema.model)
    states = {name: {k: v.clone() for k, v in o.state().items()} for name, o in step.optimizers.items()}
    with pytest.raises(NotFiniteError) as error:
        step(bad_step, lambda i: next(batches))
    poison.at = -1
    assert tiny.differing(tiny.weights(step.model), weights) == []
    assert tiny.differing(tiny.weights(step.ema.model), ema) == []
    for name, optimizer in step.optimizers.items():
        assert tiny.differing(optimizer.state(), states[name]) == []
    assert f"at step {bad_step}" in error.value.what
    assert any(f"player '{name}'" in error.value.what for name in step.method.players)
    assert f"player '{player}" in error.value.what


def test_error_names_the_metric_of_the_critics_own_update() -> None:
    """Updates of critics alone have other metrics than updates of the model."""
    step = tiny.train_step(
        {"name": "avb", "update_order": "alternating"}, critic={"name": "training.tiny.PoisonCritic"}
    )
    batches = tiny.images(6)
    tiny.PoisonCritic.calls, tiny.PoisonCritic.at = 0, -1
    step(0, lambda i: next(batches))
    tiny.PoisonCritic.calls, tiny.PoisonCritic.at = 0, 1  # at latents from q, in the critic's own update
    with pytest.raises(NotFiniteError) as error:
        step(1, lambda i: next(batches))
    tiny.PoisonCritic.at = -1
    assert "player 'critic'" in error.value.what
    assert "log_ratio_p" in error.value.what or "loss" in error.value.what  # accuracy of a NaN is finite


def test_infinite_gradient_of_a_finite_loss_stops_training() -> None:
    """√0 at a weight of zero."""
    step, batches = tiny.train_step({"name": "vae"}), tiny.images(6)
    losses = type(step.method).losses
    bias = step.model.decoder.network.body[-1].bias

    class RootOfBias(type(step.method)):  # type: ignore[misc]
        name = "vae"

        def losses(self, *args: Any, **options: Any) -> Any:
            result = losses(step.method, *args, **options)
            result["model"] = result["model"] + bias.square().sum().sqrt()
            return result

    step.gradient_fn.method = RootOfBias()  # type: ignore[attr-defined]
    weights = tiny.weights(step.model)
    assert bool((bias == 0).all())
    with pytest.raises(NotFiniteError, match="gradient of player 'model'"):
        step(0, lambda i: next(batches))
    assert tiny.differing(tiny.weights(step.model), weights) == []


def test_flag_stops_all_later_updates_without_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host reads the flag at every step on a CPU; here it reads it late, as on a GPU."""
    step = tiny.train_step({"name": "avb"}, decoder={"name": "training.tiny.Poison"})
    batches, raise_if_not_finite = tiny.images(6), step.raise_if_not_finite
    monkeypatch.setattr(step, "raise_if_not_finite", lambda: None)
    tiny.Poison.calls, tiny.Poison.at = 0, -1
    step(0, lambda i: next(batches))
    before = {key: p.detach().clone() for key, p in step.model.named_parameters()}
    tiny.Poison.at = tiny.Poison.calls + 1
    for number in range(1, 4):  # the first of these is not finite
        step(number, lambda i: next(batches))
    tiny.Poison.at = -1
    assert tiny.differing({k: p.detach() for k, p in step.model.named_parameters()}, before) == []
    with pytest.raises(NotFiniteError, match="player 'model' is not finite at step 1"):
        raise_if_not_finite()


def test_skipped_steps_leave_no_trace_and_are_limited(tmp_path: Path) -> None:
    """A skipped step changes neither weights nor metrics; one too many stops the run, also after resuming."""
    options = TrainOptions(max_skipped_steps=2, grad_clip=5.0, ema_decay=0)

    def new_step() -> TrainStep:
        return tiny.train_step({"name": "vae"}, options, decoder={"name": "training.tiny.Poison"})

    step, batches = new_step(), tiny.images(9)
    tiny.Poison.calls, tiny.Poison.at = 0, -1

    def run_step(number: int, *, is_bad: bool) -> list[str]:
        """Return the names of the weights that the step changed."""
        before = {key: p.detach().clone() for key, p in step.model.named_parameters()}
        tiny.Poison.at = tiny.Poison.calls + 1 if is_bad else -1
        step(number, lambda i: next(batches))
        return tiny.differing({k: p.detach() for k, p in step.model.named_parameters()}, before)

    all_weights = run_step(0, is_bad=False)
    assert len(all_weights) > 4
    assert run_step(1, is_bad=True) == []
    assert run_step(2, is_bad=False) == all_weights
    assert run_step(3, is_bad=True) == []
    assert run_step(4, is_bad=False) == all_weights
    assert all(math.isfinite(value) for value in step.metrics.pop_means().values())
    save_checkpoint(tmp_path / "last", step, {})
    step = new_step()
    load_checkpoint(tmp_path / "last", step)
    with pytest.raises(NotFiniteError, match="player 'model' is not finite at step 5"):
        run_step(5, is_bad=True)
    tiny.Poison.at = -1


def test_all_gradients_are_computed_before_any_update() -> None:
    """Each player's simultaneous update is the one it would make if the others did not change."""
    x = next(tiny.images(6))
    together = tiny.train_step({"name": "asvae"})
    start = tiny.weights(together.model)
    torch.manual_seed(3)
    together(0, lambda i: x)
    for player in together.method.players:
        alone = tiny.train_step({"name": "asvae"})
        alone.model.load_state_dict(start)
        alone.updates = [(player,)]
        torch.manual_seed(3)
        alone(0, lambda i: x)
        own = {id(p) for p in alone.method.parameters(alone.model, player)}
        for (key, p), q in zip(alone.model.named_parameters(), together.model.parameters(), strict=True):
            if id(p) in own:
                torch.testing.assert_close(p, q, atol=1e-7, rtol=1e-5, msg=key)


def test_accumulated_gradients_are_averaged() -> None:
    """The gradient of a mean of squares at two halves of a batch is that of the whole."""
    weight, x = torch.nn.Parameter(torch.ones(3)), torch.arange(12.0).reshape(4, 3)

    def gradient_fn(x: torch.Tensor, players: object, kl_weight: object) -> GradientOutput:
        loss = (x * weight).square().mean()
        loss.backward()
        return GradientOutput({"model:loss": loss.detach()})

    results = []
    for num_chunks in (1, 2):
        chunks = x.chunk(num_chunks)
        output = accumulate_gradients(gradient_fn, chunks, ("model",), 1.0, [weight])  # type: ignore[arg-type]
        results.append((output.metrics["model:loss"], weight.grad))
        weight.grad = None
    torch.testing.assert_close(results[0], results[1])
