"""Devices and their arithmetic: CPU or GPU, float32 or bfloat16, TF32."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from advae.errors import ConfigError


def find_device(name: str, local_rank: str | None = None) -> torch.device:
    """Return the device called "auto", "cpu", "cuda" or "cuda:N".

    Args:
        name: as the user gives it.
        local_rank: of several processes on one machine, the number of this one; each uses its own GPU.

    Raises:
        ConfigError: this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and local_rank is not None:
        name = f"cuda:{local_rank}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError("Unknown device.", given=name, expected="auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError("advae runs on cpu and cuda only.", given=name)
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(f"This machine has {count} CUDA devices.", given=name, fix="use --device cpu")
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def find_precision(name: str, device: torch.device) -> str:
    """Return "fp32" or "bf16"; "auto" is bf16 where the hardware multiplies bfloat16 matrices natively."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    # Private functions of PyTorch: where a version lacks them, the answer is fp32.
    probes = (
        getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return "bf16" if any(probe is not None and probe() for probe in probes) else "fp32"


def describe_device(device: torch.device) -> str:
    """Return the hardware's name; of a CPU also its cores and the threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    return f"CPU {model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


@contextmanager
def allow_tf32() -> Iterator[None]:
    """Let GPUs round the float32 factors of matrix products and convolutions to TF32 within the block.

    TF32 keeps 10 bits of the mantissa and sums in float32. Networks run several times as fast, and less coarsely than
    in bfloat16. Likelihoods, log ratios and optimizer updates are not matrix products and are not affected.
    """
    if not torch.cuda.is_available():
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
