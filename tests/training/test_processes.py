"""Two processes on a CPU against one: the same training, one writer, and a run that outlives a dead process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import advae
from advae.errors import ConfigError
from advae.training.distributed import make_fabric
from advae.training.gradients import accumulated
from advae.training.train_options import TrainOptions
from training import tiny, two_processes

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder of a job of two processes, and how it ended."""
    folder = tmp_path_factory.mktemp("processes")
    tiny.data(folder)
    path = os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = str(TESTS / "training" / "two_processes.py")
    ended = subprocess.run(
        [*torchrun, script, str(folder)], env=environment, capture_output=True, text=True, timeout=600
    )
    return folder, ended


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_batch(
    done: tuple[Path, subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, batch statistics and metrics after four steps. The noise of both is what one process would draw for the
    whole batch, and the likelihood's sum over a batch of twelve is taken in two halves: differences are rounding."""
    folder, ended = done
    monkeypatch.setattr(torch, "randn", torch.randn)  # put back afterwards
    two_processes.shared_noise(0, 1)
    for name in two_processes.CASES:
        assert (folder / f"{name}-2.safetensors").exists(), ended.stderr[-3000:]
        two_processes.case(str(folder / "images.npy"), folder, name, 1)
        one, two = (load_file(folder / f"{name}-{world}.safetensors") for world in (1, 2))
        torch.testing.assert_close(two, one, rtol=1e-4, atol=2e-5)


@pytest.mark.slow
def test_the_first_process_writes_and_any_number_goes_on(
    done: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, ended = done
    steps = [json.loads(line)["step"] for line in (folder / "whole/metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == tiny.STEPS, ended.stderr[-3000:]
    assert steps.count(2) == 1, "one process writes"
    options = {"train.steps": tiny.STEPS + 2}
    assert advae.resume(folder / "whole", options=options, quiet=True).model().info["step"] == tiny.STEPS + 2


@pytest.mark.slow
def test_a_dead_process_ends_the_job_and_the_last_checkpoint_stands(
    done: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, ended = done
    assert ended.returncode != 0
    state = json.loads((folder / "lost/checkpoints/last/state.json").read_text())
    assert state["step"] == 6
    assert advae.resume(folder / "lost", quiet=True).model().info["step"] == tiny.STEPS


def test_gradients_of_parts_are_averaged() -> None:
    """Of a mean of squares, whose gradient at two halves is that of the whole."""
    from advae.training.gradients import GradientOutput

    weight, x = torch.nn.Parameter(torch.ones(3)), torch.arange(12.0).reshape(4, 3)

    def take(x: torch.Tensor, names: object, kl_weight: object) -> GradientOutput:
        loss = (x * weight).square().mean()
        loss.backward()
        return GradientOutput({"model:loss": loss.detach()})

    found = {}
    for parts in (1, 2):
        taken = accumulated(take, x.chunk(parts), ("model",), 1.0, [weight])  # type: ignore[arg-type]
        found[parts] = (float(taken.terms["model:loss"]), weight.grad)
        weight.grad = None
    assert found[1][0] == pytest.approx(found[2][0])
    torch.testing.assert_close(found[1][1], found[2][1])
    with pytest.raises(ConfigError, match="accumulate"):
        TrainOptions(batch_size=10, accumulation_steps=3)


def test_a_gpu_without_a_number_is_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}
    monkeypatch.setattr("advae.training.distributed.Fabric", lambda **given: asked.update(given))
    for name, number in (("cuda", 0), ("cuda:1", 1)):
        make_fabric(torch.device(name), "fp32")
        assert (asked["accelerator"], asked["devices"]) == ("cuda", [number])
