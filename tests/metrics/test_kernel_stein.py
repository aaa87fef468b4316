"""Kernel Stein discrepancy: its kernel, and level and power of the test."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from advae.metrics.kernel_stein import stein_kernel_matrix, stein_test

N, D, TRIALS, LEVEL = 200, 3, 40, 0.05


def mixture_score(x: Tensor, center: float) -> Tensor:
    """Score of two unit normals at ±center along the first axis, with equal weights."""
    score = -x.clone()
    score[:, 0] += center * torch.tanh(center * x[:, 0])
    return score


def sample_mixture(n: int, center: float, weight: float) -> Tensor:
    x = torch.randn(n, D)
    x[:, 0] += center * torch.where(torch.rand(n) < weight, 1.0, -1.0)
    return x


CASES: dict[str, tuple[Callable[[], Tensor], Callable[[Tensor], Tensor], float, float]] = {
    # samples, score, and the interval of the rejection rate at level 0.05
    "exact": (lambda: torch.randn(N, D), lambda x: -x, 0.0, 0.175),
    "exact mixture": (lambda: sample_mixture(N, 1.5, 0.5), lambda x: mixture_score(x, 1.5), 0.0, 0.175),
    "shifted by 0.3": (lambda: torch.randn(N, D) + 0.3, lambda x: -x, 0.9, 1.0),
    "scaled by 1.3": (lambda: 1.3 * torch.randn(N, D), lambda x: -x, 0.9, 1.0),
    "scaled by 0.75": (lambda: 0.75 * torch.randn(N, D), lambda x: -x, 0.9, 1.0),
    "one mode of two, 3 apart": (
        lambda: sample_mixture(N, 1.5, 1.0),
        lambda x: mixture_score(x, 1.5),
        0.9,
        1.0,
    ),
    "one mode of two, 6 apart": (
        lambda: sample_mixture(N, 3.0, 1.0),
        lambda x: mixture_score(x, 3.0),
        0.0,
        0.3,
    ),
}
"""The last case documents a limit of the test: between modes six standard deviations apart there are no samples.

Of 40 trials at level 0.05 more than 7 are rejected by chance with probability 0.001.
"""


@pytest.mark.parametrize("case", CASES)
def test_level_and_power(case: str) -> None:
    sample, score, low, high = CASES[case]
    rejections = 0
    for trial in range(TRIALS):
        x = sample()
        rejections += stein_test(x, score(x), num_bootstrap=199, seed=trial).p <= LEVEL
    assert low <= rejections / TRIALS <= high


def test_kernel_matches_automatic_differentiation(double: None) -> None:
    x, y = torch.randn(2, D)
    s = torch.randn(2, D)

    def k(x: Tensor, y: Tensor) -> Tensor:
        return (1 + (x - y).square().sum() / D).rsqrt()

    gx, gy = torch.func.grad(k, 0)(x, y), torch.func.grad(k, 1)(x, y)
    mixed = torch.func.jacrev(torch.func.grad(k, 0), 1)(x, y).trace()
    expected = k(x, y) * (s[0] @ s[1]) + s[0] @ gy + s[1] @ gx + mixed
    torch.testing.assert_close(stein_kernel_matrix(torch.stack([x, y]), s)[0, 1], expected)
