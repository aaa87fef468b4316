"""The compiled step against the eager one, and what happens where there can be none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

import advae
from advae import inductor as compiling
from advae.methods import METHODS
from advae.model import build_model
from advae.training.backends import select as choice_module
from advae.training.backends.compiled import CompiledBackend
from advae.training.backends.select import select_backend
from advae.training.step import TrainStep
from advae.training.train_options import TrainOptions
from training import tiny

SMALL = {"name": "mlp", "hidden": [5]}
PARTS: dict[str, Any] = {
    "latent_dim": 2,
    "encoder": SMALL,
    "posterior": {"name": "normal"},
    "decoder": SMALL,
    "likelihood": {"name": "bernoulli"},
    "critic": {"name": "concat", "hidden": [5]},
}
BASIS = {"name": "noise-basis", "num_basis": 3, "noise_dim": 4, "hidden": [5], "moment_samples": 32}
SPECTRAL = {"name": "concat", "hidden": [5], "spectral_norm": True}
DROPOUT = {"name": "conv", "channels": [3], "hidden": [6], "dropout": 0.2, "norm": "batch"}
CASES = {
    "vae": ({"name": "vae", "kl_warmup": 3}, {}),
    "avb": ({"name": "avb", "contrast": "full"}, {"posterior": BASIS}),
    "asvae": ({"name": "asvae", "kl_warmup": 3}, {}),
}
MORE = {
    "vae with dropout and batch norm": ({"name": "vae"}, {"encoder": DROPOUT}),
    "vae, planar": ({"name": "vae", "kl": "monte-carlo"}, {"posterior": {"name": "planar", "num_layers": 4}}),
    "vae, iaf": (
        {"name": "vae", "kl": "monte-carlo"},
        {"posterior": {"name": "iaf", "transforms": 2, "hidden": [5]}},
    ),
    "avb, critics first": ({"name": "avb", "update_order": "alternating", "critic_steps": 2}, {"posterior": BASIS}),
    "bavae": ({"name": "bavae"}, {"posterior": {"name": "implicit", "noise_dim": 4}, "encoder": SMALL}),
    "ali": ({"name": "ali"}, {"critic": SPECTRAL}),
    "asvae under spectral norm": ({"name": "asvae"}, {"critic": SPECTRAL}),
    "gradient penalty": ({"name": "wgan-gp", "critic_steps": 2}, {"encoder": {"name": "none"}}),
}


def made(case: tuple[dict[str, Any], dict[str, Any]], precision: str = "32-true") -> TrainStep:
    """A step on a small model, the same at each call."""
    method, parts = case
    built = METHODS.build(method)
    torch.manual_seed(1)
    model = build_model(PARTS | parts, (1, 4, 5), built.critics).train()
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)  # type: ignore[arg-type]
    return TrainStep(fabric, model, built, TrainOptions(lr=1e-2, critic_lr=1e-2, grad_clip=5.0))


def compiled(step: TrainStep) -> TrainStep:
    """The step, made to run compiled."""
    step.take = CompiledBackend(step.fabric, step.model, step.method, step.players)
    return step


def taken(step: TrainStep, steps: int) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Metrics and weights after some steps, each with a seed of its own, as the loop does."""
    for number in range(steps):
        torch.manual_seed(100 + number)
        x = torch.randint(0, 2, (step.batches, 8, 1, 4, 5)).float()
        step(number, lambda i, x=x: x[i])
    return step.read_metrics(), {k: v.detach() for k, v in step.model.state_dict().items()}


def observations() -> Tensor:
    return torch.randint(0, 2, (8, 1, 4, 5)).float()


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of a compiled graph the recorded one runs as it is: compiling takes seconds."""
    monkeypatch.setattr(compiling, "compile_graph", lambda graph, inputs: graph)


@pytest.mark.parametrize("case", CASES | MORE)
def test_what_is_recorded_is_what_runs(uncompiled: None, case: str) -> None:
    """The recorded graph, run as it is, gives the eager step's weights bit for bit: with the same random numbers,
    every player's gradient, batch statistics and spectral norms among them, after four steps."""
    eager, recorded = made((CASES | MORE)[case]), made((CASES | MORE)[case])
    compiled(recorded)
    (metrics, weights), (again, same) = taken(eager, 4), taken(recorded, 4)
    assert tiny.differing(weights, same) == []
    assert metrics == again


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_compiled_and_eager_steps_agree(case: str) -> None:
    """After four steps of rate 0.01. Sums are taken in another order, and Adam divides by gradients near zero: the
    weights differ by rounding, magnified, but by far less than a step moves them."""
    (metrics, weights), (again, same) = (
        taken(step, 4) for step in (made(CASES[case]), compiled(made(CASES[case])))
    )
    assert again == pytest.approx(metrics, rel=1e-3, abs=1e-4)
    torch.testing.assert_close(same, weights, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_compiled_run_goes_on_exactly_where_it_stopped(tmp_path: Path) -> None:
    """With batch statistics, dropout and a warm-up, as in the eager test of the same."""
    tree = tiny.changed(tiny.tree(tiny.data(tmp_path)), {"train.backend": "compile"})
    whole = advae.train(tree, out=tmp_path / "whole", quiet=True)
    advae.train(tree, options={"train.steps": 5}, out=tmp_path / "part", quiet=True)
    options = {"train.steps": tiny.STEPS, "train.backend": "auto"}
    part = advae.resume(tmp_path / "part", options=options, quiet=True)
    assert part.env["step"]["step"] == whole.env["step"]["step"] == "compile"
    assert tiny.differing(tiny.state(whole), tiny.state(part)) == []


def test_a_short_run_stays_eager_and_a_long_one_is_timed(
    uncompiled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The faster one is taken, whichever it is, and a run that goes on keeps to its own."""
    for times, steps, kind in (
        ([2.0, 1.0], 10_000, "compile"),
        ([1.0, 2.0], 10_000, "eager"),
        ([2.0, 1.0], 9_999, "eager"),
    ):
        monkeypatch.setattr(choice_module, "_timed", lambda *args, times=times: times)
        step, x = made(CASES["vae"]), observations()
        before = state(step)
        found = select_backend(step, "auto", lambda x=x: x, steps)
        assert found.step == kind and (type(step.take) is CompiledBackend) == (kind == "compile")
        assert tiny.differing(before, state(step)) == [], "trying moves nothing"
        assert all(p.grad is None for p in step.model.parameters())
        assert bool(found.seconds) == (steps == 10_000)
    assert select_backend(made(CASES["vae"]), "auto", observations, 10_000, before="eager").step == "eager"


def state(step: TrainStep) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in step.model.state_dict().items()} | {"random": torch.get_rng_state()}


class Undecided(nn.Module):
    """A network that looks at a value to decide what to do."""

    def __init__(self, in_shape: Any, out_shape: Any, *, noise_dim: int = 0) -> None:
        super().__init__()
        self.out_shape, self.layer = tuple(out_shape), nn.Linear(20, 4)

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Tensor:
        out = self.layer(inputs.flatten(1))
        return (out if out.sum() > 0 else -out).reshape(-1, *self.out_shape)


class Counting(Undecided):
    """A network that does something else each time it is called."""

    calls = 0

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Tensor:
        type(self).calls += 1
        return (self.calls * self.layer(inputs.flatten(1))).reshape(-1, *self.out_shape)


def test_what_cannot_be_compiled_runs_eagerly_and_says_why(uncompiled: None) -> None:
    advae.allow("training")
    for network, reason in (("Undecided", "cannot be compiled"), ("Counting", "another than eagerly")):
        step = made(({"name": "vae"}, {"encoder": {"name": f"training.test_compiled.{network}"}}))
        eager = step.take
        found = select_backend(step, "compile", observations, 100)
        assert found.step == "eager" and step.take is eager
        assert reason in found.why
        taken(step, 2)


def test_without_a_compiler_a_step_runs_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor
    from torch._inductor.exc import InvalidCxxCompiler

    def missing(*args: Any) -> None:
        raise InvalidCxxCompiler

    monkeypatch.setattr(torch._inductor, "compile", missing)
    found = select_backend(made(CASES["vae"]), "compile", observations, 100)
    assert found.step == "eager" and "C++ compiler" in found.why


def test_a_graph_needs_a_gpu_and_a_run_records_what_it_did(uncompiled: None, tmp_path: Path) -> None:
    found = select_backend(made(CASES["vae"]), "cuda-graph", observations, 100)
    assert found.step == "compile" and "CUDA" in found.why
    run = advae.train(tiny.tree(tiny.data(tmp_path)), out=tmp_path / "run", quiet=True)
    assert json.loads((run.path / "env.json").read_text())["step"]["step"] == "eager"
