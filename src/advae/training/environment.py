"""Software versions, device and data of a run, for env.json."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from advae.cpu_matmul import matmul_library
from advae.devices import describe_device

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
