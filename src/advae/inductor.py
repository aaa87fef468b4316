"""Compilation of tensor functions by ``make_fx`` and Inductor.

The operations of one call are traced and compiled as one graph, gradients taken inside the function among them. Tracing
requires that no Python decision depends on a tensor's value. The compiled function draws the same random numbers in the
same order as the eager one.

PyTorch multiplies float32 matrices on the CPU by MKL. On AVX-512 processors of vendors other than Intel, MKL uses half
the width of the vector registers. oneDNN, which PyTorch uses for convolutions and bfloat16, uses the full width: it is
twice as fast there (docs/reference/speed.md), and results differ by rounding only. Compiled graphs therefore contain
oneDNN's products on such machines. The choice depends on the processor alone, and nothing outside these graphs changes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.library import Library

from advae.devices import prefers_onednn
from advae.errors import AdvaeError, first_line
from advae.random import preserve_rng_state

CompiledFunction = Callable[..., Sequence[Tensor]]

MIN_MULTIPLICATIONS = 2_000_000
"""Smaller products stay with MKL: the call overhead would exceed the gain."""

aten = torch.ops.aten


class CompilationError(AdvaeError):
    """A function cannot be traced or compiled on this machine."""


def compile_function(function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]) -> CompiledFunction:
    """Compile a function for inputs of fixed shapes; other tensors that it uses become constants.

    The function is called once for tracing. The random state is preserved.

    Args:
        function: maps tensors to a flat sequence of tensors.
        inputs: example inputs.

    Raises:
        CompilationError: the function cannot be traced, or no compiler is installed.
    """
    try:
        with preserve_rng_state(inputs[0].device):
            graph = make_fx(function, decomposition_table=decompositions())(*inputs)
        return compile_graph(graph, [value.detach() for value in inputs])
    except AdvaeError:
        raise
    except Exception as error:  # tracing and compilers raise many types
        raise CompilationError("The function cannot be compiled.", given=first_line(error)) from error


def compile_graph(graph: GraphModule, inputs: list[Any]) -> CompiledFunction:
    """Compile a traced graph by Inductor, with eager PyTorch's random numbers."""
    import torch._inductor as inductor

    with torch.no_grad(), warnings.catch_warnings(), inductor.config.patch(fallback_random=True):
        warnings.simplefilter("ignore")  # Inductor warns about its own internals
        return inductor.compile(graph, inputs)


# --- float32 products on CPUs -------------------------------------------------------------------------------


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
