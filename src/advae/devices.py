"""Devices, their arithmetic, PyTorch's global modes, and the environment that a run records."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from advae.errors import ConfigError
from advae.random import seeded

PACKAGES = (
    "advae",
    "torch",
    "lightning-fabric",
    "jsonargparse",
    "safetensors",
    "datasets",
    "scikit-learn",
    "numpy",
    "matplotlib",
)
"""Packages whose versions a run records."""

_isolated = threading.RLock()


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


@contextmanager
def default_torch_modes(dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Run a block, or a decorated function, with this default dtype and with gradients, whatever the caller has set.

    Weights that are created in the caller's ``inference_mode`` could not be trained, and under a float64 default they
    would not fit float32 data. The caller's settings are restored at the end.
    """
    caller_dtype = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(caller_dtype)


@contextmanager
def isolated_torch_state(seed: int | None, device: torch.device) -> Iterator[None]:
    """Run a block with PyTorch's defaults, whatever the caller has set, and restore the caller's settings.

    Within the block: float32 as default dtype, gradients enabled, no inference mode, no autocast, TF32 allowed, and the
    random state of ``seed`` (None: the caller's).

    The random state and the default dtype are shared by all threads of a process. Blocks of several threads therefore
    run one after the other, with the same results as alone.
    """
    with (
        _isolated,
        default_torch_modes(),
        torch.autocast(device.type, enabled=False),
        allow_tf32(),
        seeded(seed, device),
    ):
        yield


@cache
def cpu_vendor() -> str:
    """Return the processor's vendor, such as "GenuineIntel" or "AuthenticAMD"; empty if unknown."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("vendor_id"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    known = ("GenuineIntel", "AuthenticAMD")  # on Windows a part of the processor's name
    return next((vendor for vendor in known if vendor in platform.processor()), "")


def prefers_onednn() -> bool:
    """Return whether compiled graphs on this machine's CPU use oneDNN for float32 products."""
    return (
        cpu_vendor() not in ("", "GenuineIntel")
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # not public: a later PyTorch may lack it
    )


def matmul_library() -> str:
    """Return which library multiplies float32 matrices in compiled graphs on the CPU, for the run's record."""
    return "oneDNN" if prefers_onednn() else "MKL" if torch.backends.mkl.is_available() else "PyTorch's BLAS"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the main packages; "missing" for those not installed."""
    result = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            result[name] = version(name)
        except PackageNotFoundError:
            result[name] = "missing"
    return result


def environment_info(
    device: torch.device, precision: str, data: dict[str, Any], num_parameters: dict[str, int]
) -> dict[str, Any]:
    """Return the content of env.json.

    Args:
        device: that the run trains on.
        precision: "fp32" or "bf16".
        data: description of the data set, with its checksum.
        num_parameters: of each network.
    """
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "device": describe_device(device),
        "precision": precision,
        "cpu_matmul": matmul_library() if device.type == "cpu" else None,
        "data": data,
        "parameters": num_parameters,
    }
