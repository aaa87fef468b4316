"""Devices and precisions by name; the caller's global state neither changes training nor is changed by it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

import advae
from advae.devices import allow_tf32, describe_device, find_device, find_precision, isolated_torch_state
from advae.errors import ConfigError, NotFiniteError
from advae.run import Run
from advae.training.trainer import Trainer
from training import tiny

CPU = torch.device("cpu")


def test_devices_by_name() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert find_device("auto").type == expected
    assert find_device("cpu") == CPU and "cores" in describe_device(CPU)


@pytest.mark.parametrize("name", ["gpu", "mps", "meta", "cuda:99", ""])
def test_devices_that_do_not_exist_are_reported(name: str) -> None:
    with pytest.raises(ConfigError):
        find_device(name)


def test_each_process_of_a_machine_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [find_device(name, "1") for name in ("auto", "cuda", "cuda:0")] == [
        torch.device("cuda", 1),
        torch.device("cuda", 1),
        torch.device("cuda", 0),
    ]
    with pytest.raises(ConfigError, match="2"):
        find_device("auto", "2")


def test_precision_is_that_of_the_hardware_only_if_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    for supported, expected in ((True, "bf16"), (False, "fp32")):
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
            monkeypatch.setattr(torch.cpu, name, lambda supported=supported: supported, raising=False)
        assert find_precision("auto", CPU) == expected
        assert find_precision("fp32", CPU) == "fp32" and find_precision("bf16", CPU) == "bf16"


def test_tf32_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with pytest.raises(RuntimeError), allow_tf32():
        assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
        raise RuntimeError
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == flags


# --- global state ------------------------------------------------------------------------------------------


@contextmanager
def float64_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


CALLERS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "default": nullcontext,
    "float64": float64_default,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


def global_state() -> dict[str, Any]:
    return {
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "threads": torch.get_num_threads(),
        "random": torch.get_rng_state().tolist(),
        "handlers": [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)],
    }


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A method with critics, all kinds of noise, and few steps."""
    source = tiny.data(tmp_path_factory.mktemp("data"))
    changes = {"method": {"name": "asvae"}, "model.posterior": {"name": "normal"}, "train.steps": 4}
    return tiny.changed(tiny.tree(source), changes)


@pytest.fixture(scope="module")
def reference(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return advae.train(recipe, out=tmp_path_factory.mktemp("reference") / "run", quiet=True, report=False)


@pytest.mark.parametrize("caller", CALLERS)
def test_training_is_independent_of_the_callers_state(
    caller: str, recipe: dict[str, Any], reference: Run, tmp_path: Path
) -> None:
    with CALLERS[caller]():
        before = global_state()
        run = advae.train(recipe, options={"train.steps": 2}, out=tmp_path / "run", quiet=True, report=False)
        run = advae.resume(run.path, options={"train.steps": 4}, quiet=True, report=False)
        assert global_state() == before
    assert tiny.differing(tiny.state(run), tiny.state(reference)) == []


def test_state_is_restored_after_an_error(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Trainer, step: int, batches: Any) -> None:
        torch.rand(3)
        raise NotFiniteError("a loss is not finite")

    monkeypatch.setattr(Trainer, "_run_step", fail)
    before = global_state()
    with pytest.raises(NotFiniteError):
        advae.train(recipe, out=tmp_path / "run", quiet=True, report=False)
    assert global_state() == before


def test_training_outside_the_main_thread(recipe: dict[str, Any], reference: Run, tmp_path: Path) -> None:
    """Python allows signal handlers in the main thread only."""
    runs: list[Run] = []
    thread = threading.Thread(
        target=lambda: runs.append(advae.train(recipe, out=tmp_path / "run", quiet=True, report=False))
    )
    handlers = global_state()["handlers"]
    thread.start()
    thread.join()
    assert global_state()["handlers"] == handlers
    assert tiny.differing(tiny.state(runs[0]), tiny.state(reference)) == []


def test_defaults_hold_within_the_block() -> None:
    with float64_default(), torch.inference_mode(), isolated_torch_state(3, CPU):
        x = torch.rand(2, requires_grad=True)
        assert x.dtype is torch.float32 and not x.is_inference()
        torch.autograd.backward((x * 2).sum())
        assert x.grad is not None
    assert torch.get_default_dtype() is torch.float32
