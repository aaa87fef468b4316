"""Two CPU processes against one: equal training, one writer, and recovery from a lost process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import advae
from advae.errors import ConfigError
from advae.training.distributed import make_fabric, prepare_model
from training import distributed_worker, tiny

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder of a job of two processes, and the completed torchrun."""
    folder = tmp_path_factory.mktemp("processes")
    tiny.data(folder)
    path = os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = str(TESTS / "training" / "distributed_worker.py")
    ended = subprocess.run(
        [*torchrun, script, str(folder)], env=environment, capture_output=True, text=True, timeout=600
    )
    return folder, ended


@pytest.mark.integration
@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_batch_size(
    job: tuple[Path, subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights and metrics after four steps. Both processes use the noise that one process would draw for the whole
    batch, so differences are rounding: the sum over a batch of twelve is computed in two halves."""
    folder, ended = job
    monkeypatch.setattr(torch, "randn", torch.randn)  # restored afterwards
    distributed_worker.shared_noise(0, 1)
    for name in distributed_worker.CASES:
        assert (folder / f"{name}-2.safetensors").exists(), ended.stderr[-3000:]
        distributed_worker.case(str(folder / "images.npy"), folder, name, 1)
        one, two = (load_file(folder / f"{name}-{world}.safetensors") for world in (1, 2))
        torch.testing.assert_close(two, one, rtol=1e-4, atol=2e-5)


@pytest.mark.integration
@pytest.mark.slow
def test_first_process_writes_and_one_process_resumes(
    job: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, ended = job
    steps = [json.loads(line)["step"] for line in (folder / "whole/metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == tiny.STEPS, ended.stderr[-3000:]
    assert steps.count(2) == 1, "one process writes"
    options = {"train.steps": tiny.STEPS + 2}
    assert (
        advae.resume(folder / "whole", options=options, quiet=True, report=False).model().info["step"]
        == tiny.STEPS + 2
    )


@pytest.mark.integration
@pytest.mark.slow
def test_lost_process_ends_the_job_and_keeps_the_last_checkpoint(
    job: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, ended = job
    assert ended.returncode != 0
    state = json.loads((folder / "lost/checkpoints/last/state.json").read_text())
    assert state["step"] == 6
    assert advae.resume(folder / "lost", quiet=True, report=False).model().info["step"] == tiny.STEPS


def test_gpu_without_index_is_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: dict[str, object] = {}
    monkeypatch.setattr("advae.training.distributed.Fabric", lambda **given: arguments.update(given))
    for name, index in (("cuda", 0), ("cuda:1", 1)):
        make_fabric(torch.device(name), "fp32")
        assert (arguments["accelerator"], arguments["devices"]) == ("cuda", [index])


def test_batch_norm_over_cpu_processes_is_refused() -> None:
    """PyTorch synchronizes batch statistics on GPUs only; unsynchronized ones would differ between processes."""
    fabric = SimpleNamespace(world_size=2, device=torch.device("cpu"))
    with pytest.raises(ConfigError, match="GPU"):
        prepare_model(fabric, torch.nn.Sequential(torch.nn.BatchNorm1d(3)))  # type: ignore[arg-type]
    prepare_model(SimpleNamespace(world_size=1), torch.nn.BatchNorm1d(3))  # type: ignore[arg-type]
