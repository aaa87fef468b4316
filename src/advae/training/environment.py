"""What a run was made with and on: versions, device, data. Recorded in env.json."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from advae.errors import ConfigError
from advae.networks.products import onednn_is_faster

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


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter; "missing" where one is not installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def find_device(name: str, local: str | None = None) -> torch.device:
    """The device called "auto", "cpu", "cuda" or "cuda:N".

    Args:
        name: as a person gives it.
        local: the number of this process on its machine, of several: each has a GPU of its own.

    Raises:
        ConfigError: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and local is not None:
        name = f"cuda:{local}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(
            "there is no such device", given=name, expected="auto, cpu, cuda or cuda:N"
        ) from None
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(f"this machine has {count} CUDA devices", given=name, remedy="use --device cpu")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError("advae runs on cpu and cuda", given=name)
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def find_precision(name: str, device: torch.device) -> str:
    """ "fp32" or "bf16" for "auto": bf16 where the machine multiplies in it, where that is faster."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    instructions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    found = (getattr(torch.cpu, name, None) for name in instructions)  # not public: asked for, not relied on
    return "bf16" if any(supported is not None and supported() for supported in found) else "fp32"


def describe_device(device: torch.device) -> str:
    """A device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    return f"CPU {model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def environment(
    device: torch.device, precision: str, data: dict[str, Any], parameters: dict[str, int]
) -> dict[str, Any]:
    """Everything for env.json.

    Args:
        device: what the run trains on.
        precision: and in which arithmetic.
        data: the data set's description, with its checksum.
        parameters: how many weights each network has.
    """
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "device": describe_device(device),
        "precision": precision,
        "products": "oneDNN" if device.type == "cpu" and onednn_is_faster() else "torch",
        "data": data,
        "parameters": parameters,
    }
