"""Float32 matrix products by oneDNN in compiled graphs on CPUs.

PyTorch multiplies float32 matrices on the CPU by MKL. On AVX-512 processors of vendors other than Intel, MKL uses half
the width of the vector registers. oneDNN, which PyTorch uses for convolutions and bfloat16, uses the full width: it is
twice as fast there (docs/reference/speed.md), and results differ by rounding only. Graphs that :mod:`advae.inductor`
compiles therefore contain oneDNN's products on such machines. The choice depends on the processor alone, and nothing
outside these graphs changes.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.library import Library

MIN_MULTIPLICATIONS = 2_000_000
"""Smaller products stay with MKL: the call overhead would exceed the gain."""

aten = torch.ops.aten


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x [B, n] @ weightᵀ [n, m] + bias [m]``, computed by oneDNN; not differentiable."""
    if not (weight.is_contiguous() or weight.t().is_contiguous()):
        weight = weight.contiguous()  # oneDNN is about 2,000 times slower for rows with gaps between them
    if bias is not None:
        bias = bias.contiguous()  # oneDNN ignores the stride of the bias
    output: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return output


_library = Library("advae", "DEF")  # registered as an operator, so that a traced graph can contain it
_library.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
_library.impl("linear", onednn_linear, "CPU")
_library.impl("linear", lambda x, weight, bias: x.new_empty(len(x), len(weight)), "Meta")


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


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Return the entries for the decomposition table of ``make_fx``; empty where MKL is as fast."""
    if not prefers_onednn():
        return {}
    return {aten.mm.default: _mm, aten.addmm.default: _addmm}


def _mm(a: Tensor, b: Tensor) -> Any:
    """Return ``a @ b``; NotImplemented keeps PyTorch's own operation."""
    return torch.ops.advae.linear(a, b.t(), None) if _is_eligible(a, b) else NotImplemented


def _addmm(c: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """Return ``c + a @ b``; NotImplemented keeps PyTorch's own operation."""
    if beta != 1 or alpha != 1 or c.dtype is not torch.float32 or c.dim() > 2 or not _is_eligible(a, b):
        return NotImplemented
    if c.shape == b.shape[1:]:
        return torch.ops.advae.linear(a, b.t(), c)
    return torch.ops.advae.linear(a, b.t(), None) + c


def _is_eligible(a: Tensor, b: Tensor) -> bool:
    """Return whether both are float32 matrices on the CPU, of matching shapes and large enough."""
    if a.dtype is not torch.float32 or b.dtype is not torch.float32 or a.device.type != "cpu":
        return False
    return a.dim() == b.dim() == 2 and a.shape[1] == len(b) and len(a) * b.numel() >= MIN_MULTIPLICATIONS
