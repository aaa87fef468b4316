"""Monte Carlo means and their tolerance around exact values."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

SIGMAS = 5.0
"""Maximum number of standard errors between a mean of 64 batch means and the exact value.

Student's t with 63 degrees of freedom exceeds 5 with probability 5e-6. All files here compare about 1,500 numbers:
by Bonferroni a correct program fails one of them with probability below 1%, for any seed, and the seed is fixed.
"""

BATCHES = 64


def batch_means(sample: Callable[[], Tensor], batches: int = BATCHES) -> tuple[Tensor, Tensor]:
    """Mean and standard error of ``sample() [k]`` over independent batches."""
    values = torch.stack([sample().detach() for _ in range(batches)])
    return values.mean(0), values.std(0) / batches**0.5


def gradient(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """The gradient as one vector, zero where there is none."""
    grads = torch.autograd.grad(loss, list(parameters), allow_unused=True, retain_graph=True)
    pairs = zip(grads, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])


def assert_close(estimate: tuple[Tensor, Tensor], exact: Tensor, what: str, rounding: float = 1e-6) -> None:
    """Fail if a mean differs from its exact value by more than ``SIGMAS`` standard errors (and rounding).

    ``rounding``: critics are evaluated in float32, 1e-7 of numbers of order ten; the only difference where a quantity
    has no variance.
    """
    mean, error = estimate
    excess = (mean - exact).abs() - rounding
    worst = int((excess / error.clamp_min(1e-12)).argmax())
    assert bool((excess <= SIGMAS * error).all()), (
        f"{what}[{worst}]: {mean.flatten()[worst]:.5f} ± {error.flatten()[worst]:.5f}, "
        f"exact {exact.flatten()[worst]:.5f}"
    )


def assert_sharp(estimate: tuple[Tensor, Tensor], exact: Tensor, what: str) -> None:
    """Fail if the comparison could not detect an error of a quarter of the largest component."""
    assert SIGMAS * estimate[1].median() < 0.25 * exact.abs().max(), f"{what}: too few samples to tell"
