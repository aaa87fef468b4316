"""A log density and its gradient, as chains ask for them thousands of times: compiled where that pays."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from advae.compiling import CannotCompile, Program, compiled

Density = Callable[..., Tensor]
"""``density(u [N, d], *given) -> [N]``, each row under its own row of what is given."""

PAYS = 60.0  # seconds of eager evaluations to come from which on compiling, 5 to 15 s, has paid by their end
CLOSE = 1e-3  # nats, or this much of the value: what two ways to compute it may differ by, by rounding alone


def with_gradient(density: Density, u: Tensor, *given: Tensor) -> tuple[Tensor, Tensor]:
    """A log density ``[N]`` and its gradient ``[N, d]`` at ``u``."""
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        value = density(u, *given)
        (grad,) = torch.autograd.grad(value.sum(), u)
    return value.detach(), grad


class Gradient:
    """:func:`with_gradient` of one density, for several sizes; each is compiled when that pays.

    On a CPU. What other tensors the density uses, such as weights, must stay as they are.

    Args:
        density: what to differentiate.
    """

    def __init__(self, density: Density) -> None:
        self.density = density
        self._programs: dict[tuple[torch.Size, ...], Program | None] = {}

    def __call__(self, u: Tensor, *given: Tensor, times: int) -> tuple[Tensor, Tensor]:
        """At ``u``; to be asked for about so many times in this size."""
        sizes = (u.shape, *(value.shape for value in given))
        if sizes not in self._programs:
            self._programs[sizes] = self._program(u, given, times)
        program = self._programs[sizes]
        if program is None:
            return with_gradient(self.density, u, *given)
        value, grad = program(u, *given)
        return value, grad

    def _program(self, u: Tensor, given: tuple[Tensor, ...], times: int) -> Program | None:
        """The compiled function; None where it does not pay, or is not the same."""
        began = time.perf_counter()
        value, _ = with_gradient(self.density, u, *given)
        if u.device.type != "cpu" or times * (time.perf_counter() - began) < PAYS:
            return None
        try:
            program = compiled(lambda *inputs: with_gradient(self.density, *inputs), (u, *given))
        except CannotCompile:
            return None
        same = torch.allclose(program(u, *given)[0], value, rtol=CLOSE, atol=CLOSE, equal_nan=True)
        return program if same else None
