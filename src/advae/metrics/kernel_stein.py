"""Kernel Stein discrepancy between samples and an unnormalized density.

Liu, Lee and Jordan 2016; Chwialkowski, Strathmann and Gretton 2016. The density of the samples is not needed.

    s(x)    ∇ log p(x)                                                                    [n, d]
    h_ij    k s_iᵀs_j + s_iᵀ ∇_y k + s_jᵀ ∇_x k + tr ∇_x ∇_y k                             at (x_i, x_j)
    KSD²    mean of h_ij over i ≠ j: unbiased, sometimes negative; expectation 0 for samples of p, larger otherwise
    k       (1 + ‖x − y‖²/ℓ²)^(−1/2), ℓ² = d          inverse multiquadric (Gorham and Mackey 2017); for whitened x

The null distribution is that of the wild bootstrap, Σ_{i≠j} w_i w_j h_ij with random signs w, which is valid for
independent samples. The test detects errors only near the samples: a mode that they all miss has no effect on s, except
through its tail between the modes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NUM_BOOTSTRAP = 999  # sign vectors: the resolution of p-values is 1/1000


@dataclass(frozen=True)
class SteinTest:
    """Result of the test.

    Attributes:
        value: KSD², unbiased.
        stderr: its standard deviation under the null hypothesis, by the bootstrap.
        p: p-value: fraction of the bootstrap at least as large as the value.
    """

    value: float
    stderr: float
    p: float


def stein_kernel_matrix(x: Tensor, score: Tensor) -> Tensor:
    """Return ``h [n, n]`` in float64 for samples ``x [n, d]`` and ``s(x) [n, d]``.

    >>> float(stein_kernel_matrix(torch.zeros(1, 2), torch.zeros(1, 2)))
    1.0
    """
    x, s, d = x.double(), score.double(), x.shape[1]
    squared_length = float(d)
    squared = torch.cdist(x, x).square()
    q = 1 + squared / squared_length
    cross = s @ x.T  # s_i · x_j
    same = (s * x).sum(1)  # s_i · x_i
    gradient_terms = (same.unsqueeze(1) - cross) - (cross.T - same.unsqueeze(0))  # (s_i − s_j) · (x_i − x_j)
    k, k3 = q.rsqrt(), q.pow(-1.5)
    first_terms = k * (s @ s.T) + k3 * gradient_terms / squared_length
    return first_terms + d * k3 / squared_length - 3 * q.pow(-2.5) * squared / squared_length**2


def stein_test(x: Tensor, score: Tensor, *, num_bootstrap: int = NUM_BOOTSTRAP, seed: int = 0) -> SteinTest:
    """Test samples ``x [n, d]`` against the density with score ``score [n, d]`` at these samples."""
    n = len(x)
    h = stein_kernel_matrix(x, score).fill_diagonal_(0)
    generator = torch.Generator().manual_seed(seed)
    w = (2.0 * torch.randint(2, (num_bootstrap, n), generator=generator) - 1).to(h)
    null = ((w @ h) * w).sum(1) / (n * (n - 1))
    value = float(h.sum()) / (n * (n - 1))
    num_larger = int((null >= value).sum())
    return SteinTest(value, float(null.std()), (1 + num_larger) / (1 + num_bootstrap))
