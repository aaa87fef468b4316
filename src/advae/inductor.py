"""Compilation of tensor functions by ``make_fx`` and Inductor.

The operations of one call are traced and compiled as one graph, gradients taken inside the function among them. Tracing
requires that no Python decision depends on a tensor's value. The compiled function draws the same random numbers in the
same order as the eager one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from advae.cpu_matmul import decompositions
from advae.errors import AdvaeError, first_line
from advae.random import preserve_rng_state

CompiledFunction = Callable[..., Sequence[Tensor]]


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
