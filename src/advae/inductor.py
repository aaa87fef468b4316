"""Functions of tensors as one graph: their operations recorded as they run, and compiled by Inductor.

Recording needs that no decision in Python depends on a tensor's value. Random numbers are drawn by the same calls in
the same order as without compiling.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from advae.errors import AdvaeError
from advae.networks.products import recorded_products

Program = Callable[..., Sequence[Tensor]]


class CannotCompile(AdvaeError):
    """A function cannot be recorded or compiled here."""


def inductor(graph: GraphModule, inputs: list[Any]) -> Program:
    """The graph compiled by Inductor, its random numbers drawn as eager operations draw them."""
    import torch._inductor as inductor_

    with torch.no_grad(), warnings.catch_warnings(), inductor_.config.patch(fallback_random=True):
        warnings.simplefilter("ignore")  # of torch's own, about its own
        return inductor_.compile(graph, inputs)


def compiled(function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]) -> Program:
    """A function, for inputs of these shapes; other tensors that it uses are constants of the program.

    It is run once for this, with the random state put back.

    Args:
        function: tensors to a flat sequence of tensors; it may take gradients inside.
        inputs: to record it with.

    Raises:
        CannotCompile: its operations cannot be recorded, or there is no compiler.
    """
    devices = [inputs[0].device] if inputs[0].device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            graph = make_fx(function, decomposition_table=recorded_products())(*inputs)
        return inductor(graph, [value.detach() for value in inputs])
    except AdvaeError:
        raise
    except Exception as error:  # of many kinds, and all mean that it runs without this
        first = (str(error).strip().splitlines() or [""])[0]
        raise CannotCompile(
            "this cannot be compiled here", given=f"{type(error).__name__}: {first}"
        ) from error
