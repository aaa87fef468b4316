"""The compiled step against the eager one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import advae
from advae import inductor
from advae.training.backends.compiled import CompiledBackend
from advae.training.step import TrainStep
from advae.training.train_options import TrainOptions
from advae.training.trainer import Trainer
from training import tiny

SMALL = {"name": "mlp", "hidden": [5]}
BASIS = {"name": "noise-basis", "num_basis": 3, "noise_dim": 4, "hidden": [5], "moment_samples": 32}
SPECTRAL = {"name": "concat", "hidden": [5], "spectral_norm": True}
DROPOUT = {"name": "conv", "channels": [3], "hidden": [6], "dropout": 0.2, "norm": "batch"}
COMPILED_CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "avb": ({"name": "avb", "contrast": "full", "kl_warmup": 3}, {"posterior": BASIS}),
}
TRACED_CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "vae": ({"name": "vae", "kl_warmup": 3}, {}),
    "asvae": ({"name": "asvae", "kl_warmup": 3}, {}),
    "vae with dropout and batch norm": ({"name": "vae"}, {"encoder": DROPOUT}),
    "vae, planar": ({"name": "vae", "kl": "monte-carlo"}, {"posterior": {"name": "planar", "num_layers": 4}}),
    "vae, iaf": (
        {"name": "vae", "kl": "monte-carlo"},
        {"posterior": {"name": "iaf", "transforms": 2, "hidden": [5]}},
    ),
    "avb, alternating": (
        {"name": "avb", "update_order": "alternating", "critic_steps": 2},
        {"posterior": BASIS},
    ),
    "bavae": ({"name": "bavae"}, {"posterior": {"name": "implicit", "noise_dim": 4}, "encoder": SMALL}),
    "ali": ({"name": "ali"}, {"critic": SPECTRAL}),
    "asvae with spectral norm": ({"name": "asvae"}, {"critic": SPECTRAL}),
    "gradient penalty": ({"name": "wgan-gp", "critic_steps": 2}, {"encoder": {"name": "none"}}),
}
ALL_CASES = COMPILED_CASES | TRACED_CASES


def make_step(case: str, *, is_compiled: bool) -> TrainStep:
    """A step of a small model, with the same weights at each call."""
    method, components = ALL_CASES[case]
    torch.manual_seed(1)
    step = tiny.train_step(method, TrainOptions(lr=1e-2, critic_lr=1e-2, grad_clip=5.0), **components)
    step.model.train()
    if is_compiled:
        step.gradient_fn = CompiledBackend(step.fabric, step.model, step.method, step.optimizers)
    return step


def run_steps(step: TrainStep, steps: int = 4) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Metrics and weights after some steps, each with its own seed, as in training."""
    for number in range(steps):
        torch.manual_seed(100 + number)
        x = torch.randint(0, 2, (len(step.updates), 8, 1, 4, 5)).float()
        step(number, lambda i, x=x: x[i])
    return step.metrics.pop_means(), tiny.weights(step.model)


@pytest.mark.parametrize("case", ALL_CASES)
def test_traced_graph_equals_the_eager_step_bit_for_bit(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same random numbers, every player's gradient, batch statistics and spectral norms."""
    monkeypatch.setattr(inductor, "compile_graph", lambda graph, inputs: graph)
    (metrics, weights), (traced_metrics, traced_weights) = (
        run_steps(make_step(case, is_compiled=is_compiled)) for is_compiled in (False, True)
    )
    assert tiny.differing(weights, traced_weights) == []
    assert metrics == traced_metrics


@pytest.mark.slow
@pytest.mark.parametrize("case", COMPILED_CASES)
def test_compiled_and_eager_steps_agree(case: str) -> None:
    """After four steps with learning rate 0.01. Sums are in another order, and Adam divides by gradients near zero:
    weights differ by amplified rounding, far less than one step changes them."""
    (metrics, weights), (compiled_metrics, compiled_weights) = (
        run_steps(make_step(case, is_compiled=is_compiled)) for is_compiled in (False, True)
    )
    assert compiled_metrics == pytest.approx(metrics, rel=1e-3, abs=1e-4)
    torch.testing.assert_close(compiled_weights, weights, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_resumed_compiled_run_equals_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With batch statistics, dropout and learning rate warm-up; resumed from a copy of the run after five steps."""
    after_step = Trainer._after_step

    def copy_the_run(self: Trainer, logger: Any) -> dict[str, float]:
        metrics = after_step(self, logger)
        if self.state.step == 5:
            shutil.copytree(self.run.path, tmp_path / "part")
        return metrics

    recipe = tiny.changed(
        tiny.tree(tiny.data(tmp_path)), {"train.backend": "compile", "train.checkpoint_every": 5}
    )
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_after_step", copy_the_run)
        whole = advae.train(recipe, out=tmp_path / "whole", quiet=True, report=False)
    part = advae.resume(tmp_path / "part", options={"train.backend": "auto"}, quiet=True, report=False)
    assert part.env["backend"]["name"] == whole.env["backend"]["name"] == "compile"
    assert tiny.differing(tiny.state(whole), tiny.state(part)) == []
