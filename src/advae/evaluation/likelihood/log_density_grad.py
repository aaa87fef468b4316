"""A log density and its gradient, as chains ask for them thousands of times: compiled where that pays.

Whether it pays is decided by work that is counted, never by a clock: rounding differs between both ways, and sends
chains along other trajectories. The same evaluation takes the same way again, wherever it stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from advae.inductor import CannotCompile, Program, compiled

Density = Callable[..., Tensor]
"""``density(u [N, d], *given) -> [N]``, each row under its own row of what is given."""

PAYS = 5e12  # FLOP of products to come, about a minute of a core, from which on compiling, 5 to 15 s, pays
CLOSE = 1e-5, 1e-3  # of the largest value, and gradient: what both ways may differ by, by rounding alone


def with_gradient(density: Density, u: Tensor, *given: Tensor) -> tuple[Tensor, Tensor]:
    """A log density ``[N]`` and its gradient ``[N, d]`` at ``u``."""
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        value = density(u, *given)
        (grad,) = torch.autograd.grad(value.sum(), u)
    return value.detach(), grad


class Gradient:
    """:func:`with_gradient` of one density, for inputs of several kinds; each is compiled when that pays.

    On a CPU. What other tensors the density uses, such as weights, must stay where they are in memory.

    Args:
        density: what to differentiate.
    """

    def __init__(self, density: Density) -> None:
        self.density = density
        self._programs: dict[tuple[Any, ...], Program | None] = {}

    def __call__(self, u: Tensor, *given: Tensor, times: int) -> tuple[Tensor, Tensor]:
        """At ``u``; to be asked for about so many times for inputs of this kind."""
        kind = tuple((value.shape, value.stride(), value.dtype, value.device) for value in (u, *given))
        if kind not in self._programs:
            self._programs[kind] = self._program(u, given, times)
        program = self._programs[kind]
        if program is None:
            return with_gradient(self.density, u, *given)
        value, grad = program(u, *given)
        return value, grad

    def _program(self, u: Tensor, given: tuple[Tensor, ...], times: int) -> Program | None:
        """The compiled function; None where it does not pay, or is another function."""
        if u.device.type != "cpu":
            return None
        with FlopCounterMode(display=False) as counter:
            with_gradient(self.density, u, *given)
        if times * counter.get_total_flops() < PAYS:
            return None
        try:
            program = compiled(lambda *inputs: with_gradient(self.density, *inputs), (u, *given))
        except CannotCompile:
            return None
        elsewhere = 0.9 * u + 0.1  # what was baked in while recording is right at u alone
        expected = with_gradient(self.density, elsewhere, *given)
        same = all(map(_close, program(elsewhere, *given), expected, CLOSE))
        return program if same else None


def _close(found: Tensor, expected: Tensor, share: float) -> bool:
    finite = expected[expected.isfinite()].abs()
    largest = float(finite.max()) if len(finite) else 1.0
    return torch.allclose(found, expected, rtol=0.0, atol=share * largest, equal_nan=True)
