"""The rule that selects a backend, and what happens if a step cannot be compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import advae
from advae import inductor
from advae.training.backends.compiled import CompiledBackend
from advae.training.backends.select import (
    COMPILE_MIN_STEPS,
    CUDA_GRAPH_MIN_STEPS,
    auto_backend,
    select_backend,
)
from advae.training.step import TrainStep
from training import tiny

VAE = {"name": "vae"}


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the traced graph as it is: compilation takes seconds."""
    monkeypatch.setattr(inductor, "compile_graph", lambda graph, inputs: graph)


def observations() -> Tensor:
    return torch.randint(0, 2, (8, 1, 4, 5)).float()


def full_state(step: TrainStep) -> dict[str, Tensor]:
    return tiny.weights(step.model) | {"random": torch.get_rng_state()}


@pytest.mark.parametrize(
    ("steps", "previous", "expected"),
    [
        (COMPILE_MIN_STEPS - 1, None, "eager"),
        (COMPILE_MIN_STEPS, None, "compile"),
        (COMPILE_MIN_STEPS, "eager", "eager"),
        (1, "compile", "compile"),
    ],
)
def test_auto_depends_on_steps_and_a_resumed_run_keeps_its_backend(
    steps: int, previous: str | None, expected: str, uncompiled: None
) -> None:
    step, x = tiny.train_step(VAE), observations()
    before = full_state(step)
    choice = select_backend(step, "auto", lambda: x, steps, previous)
    assert choice.name == expected and choice.reason
    assert isinstance(step.gradient_fn, CompiledBackend) == (expected == "compile")
    assert tiny.differing(before, full_state(step)) == []
    assert all(p.grad is None for p in step.model.parameters())


def test_auto_on_a_gpu_captures_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    step = tiny.train_step(VAE)
    monkeypatch.setattr("advae.training.backends.select._cuda_graph_obstacle", lambda step: "")
    assert auto_backend(step, CUDA_GRAPH_MIN_STEPS)[0] == "cuda-graph"
    assert auto_backend(step, CUDA_GRAPH_MIN_STEPS - 1)[0] == "eager"


class ValueDependent(nn.Module):
    """A network that branches on a value."""

    def __init__(self, in_shape: Any, out_shape: Any, *, noise_dim: int = 0) -> None:
        super().__init__()
        self.out_shape, self.layer = tuple(out_shape), nn.Linear(20, 4)

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Tensor:
        out = self.layer(inputs.flatten(1))
        return (out if out.sum() > 0 else -out).reshape(-1, *self.out_shape)


class CallDependent(ValueDependent):
    """A network that computes something else at every call."""

    calls = 0

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Tensor:
        type(self).calls += 1
        return (self.calls * self.layer(inputs.flatten(1))).reshape(-1, *self.out_shape)


@pytest.mark.parametrize(
    ("network", "reason"), [("ValueDependent", "compiled"), ("CallDependent", "differs")]
)
def test_networks_that_cannot_be_traced_run_eagerly(network: str, reason: str, uncompiled: None) -> None:
    advae.allow("training")
    step = tiny.train_step(VAE, encoder={"name": f"training.backends.test_select.{network}"})
    eager = step.gradient_fn
    lines: list[str] = []
    choice = select_backend(step, "compile", observations, 100, log=lines.append)
    assert choice.name == "eager" and step.gradient_fn is eager
    assert reason in choice.reason and str(choice) in lines
    step(0, lambda i: observations())


def test_without_a_compiler_steps_run_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor
    from torch._inductor.exc import InvalidCxxCompiler

    def fail(*args: Any) -> None:
        raise InvalidCxxCompiler

    monkeypatch.setattr(torch._inductor, "compile", fail)
    choice = select_backend(tiny.train_step(VAE), "compile", observations, 100)
    assert choice.name == "eager" and "C++ compiler" in choice.reason


def test_cuda_graph_without_a_gpu_is_compiled_instead(uncompiled: None) -> None:
    choice = select_backend(tiny.train_step(VAE), "cuda-graph", observations, 100)
    assert choice.name == "compile" and "CUDA" in choice.reason


def test_a_run_records_its_backend(tmp_path: Path) -> None:
    run = advae.train(tiny.tree(tiny.data(tmp_path)), out=tmp_path / "run", quiet=True, report=False)
    assert run.env["backend"]["name"] == "eager" and run.env["backend"]["reason"]
    assert "cpu_matmul" in run.env
