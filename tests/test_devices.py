"""Devices and precisions by name."""

from __future__ import annotations

import pytest
import torch

from advae.devices import allow_tf32, describe_device, find_device, find_precision
from advae.errors import ConfigError

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
