"""Log densities with their gradients; compiled for CPUs where this saves time.

Chains evaluate a density thousands of times. Whether compiling pays is decided by counted work, not by measured time:
compiled and eager functions round differently, which changes the trajectories of chains. An evaluation that is resumed
thus makes the same choice again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from advae.inductor import CompilationError, CompiledFunction, compile_function

LogDensity = Callable[..., Tensor]
"""``log_density(u [N, d], *given) -> [N]``, each row for its own row of what is given."""

MIN_FLOP_TO_COMPILE = 5e12  # about a minute of one core; compiling takes 5 to 15 s
VALUE_TOL, GRAD_TOL = 1e-5, 1e-3  # differences by rounding, relative to the largest value


def value_and_grad(log_density: LogDensity, u: Tensor, *given: Tensor) -> tuple[Tensor, Tensor]:
    """Return a log density ``[N]`` and its gradient ``[N, d]`` at ``u``, whatever the grad mode."""
    with torch.inference_mode(False), torch.enable_grad():
        u = (u.clone() if u.is_inference() else u.detach()).requires_grad_()
        value = log_density(u, *given)
        (grad,) = torch.autograd.grad(value.sum(), u)
    return value.detach(), grad


class LogDensityGrad:
    """:func:`value_and_grad` of one density, compiled per shape of its inputs where this saves time.

    Other tensors that the density uses, such as weights, must not be replaced afterwards.

    Args:
        log_density: function to differentiate.
    """

    def __init__(self, log_density: LogDensity) -> None:
        self.log_density = log_density
        self._compiled: dict[tuple[Any, ...], CompiledFunction | None] = {}

    def __call__(self, u: Tensor, *given: Tensor, num_evals: int) -> tuple[Tensor, Tensor]:
        """Return value and gradient at ``u``; ``num_evals``: expected number of calls with inputs of these shapes."""
        key = tuple((value.shape, value.stride(), value.dtype, value.device) for value in (u, *given))
        if key not in self._compiled:
            self._compiled[key] = self._compile(u, given, num_evals)
        compiled = self._compiled[key]
        if compiled is None:
            return value_and_grad(self.log_density, u, *given)
        value, grad = compiled(u, *given)
        return value, grad

    def _compile(self, u: Tensor, given: tuple[Tensor, ...], num_evals: int) -> CompiledFunction | None:
        """Return the compiled function; None where it would not pay or gives other values."""
        if u.device.type != "cpu":
            return None
        with FlopCounterMode(display=False) as counter:
            value_and_grad(self.log_density, u, *given)
        if num_evals * counter.get_total_flops() < MIN_FLOP_TO_COMPILE:
            return None
        try:
            compiled = compile_function(
                lambda *inputs: value_and_grad(self.log_density, *inputs), (u, *given)
            )
        except CompilationError:
            return None
        elsewhere = 0.9 * u + 0.1  # values that tracing made constant would be right at u alone
        expected = value_and_grad(self.log_density, elsewhere, *given)
        same = all(map(_is_close, compiled(elsewhere, *given), expected, (VALUE_TOL, GRAD_TOL)))
        return compiled if same else None


def _is_close(actual: Tensor, expected: Tensor, tolerance: float) -> bool:
    finite = expected[expected.isfinite()].abs()
    largest = float(finite.max()) if len(finite) else 1.0
    return torch.allclose(actual, expected, rtol=0.0, atol=tolerance * largest, equal_nan=True)
