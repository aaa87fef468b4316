"""PyTorch's global state during a computation: random state, dtype, gradients, autocast, TF32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from advae.devices import allow_tf32
from advae.random import seeded


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
    """
    with (
        default_torch_modes(),
        torch.autocast(device.type, enabled=False),
        allow_tf32(),
        seeded(seed, device),
    ):
        yield
