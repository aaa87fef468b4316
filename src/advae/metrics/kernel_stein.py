"""Do draws come from a density known up to a constant? The kernel Stein discrepancy (Liu, Lee and Jordan 2016;
Chwialkowski, Strathmann and Gretton 2016). The density of the draws is not needed.

    s(x)    ∇ log p(x)                                                                    [n, d]
    h_ij    k s_iᵀs_j + s_iᵀ ∇_y k + s_jᵀ ∇_x k + tr ∇_x ∇_y k                             at (x_i, x_j)
    KSD²    mean of h_ij over i ≠ j: unbiased, negative at times; its mean is 0 for draws of p, and more for others
    k       (1 + ‖x − y‖²/ℓ²)^(−1/2), ℓ² = d          inverse multiquadric (Gorham and Mackey 2017); for whitened x

Its null distribution by the wild bootstrap, Σ_{i≠j} w_i w_j h_ij with random signs w, which is right for independent
draws. It sees what is wrong where the draws are: a mode that they all lack leaves no trace in s, but for what its tail
does between the modes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SIGNS = 999  # random ways: the p-value counts in steps of 1/1000


@dataclass(frozen=True)
class Stein:
    """Attributes:
    value: KSD², unbiased.
    stderr: its standard deviation if the draws are of p, by the bootstrap.
    p: the share of the bootstrap with as large a value; uniform if the draws are of p.
    """

    value: float
    stderr: float
    p: float


def stein_matrix(x: Tensor, score: Tensor) -> Tensor:
    """``h [n, n]`` of draws ``x [n, d]`` and ``s(x) [n, d]``, in float64.

    >>> float(stein_matrix(torch.zeros(1, 2), torch.zeros(1, 2)))
    1.0
    """
    x, s, d = x.double(), score.double(), x.shape[1]
    length = float(d)
    squared = torch.cdist(x, x).square()
    q = 1 + squared / length
    across = s @ x.T  # s_i · x_j
    own = (s * x).sum(1)
    towards = (own.unsqueeze(1) - across) - (across.T - own.unsqueeze(0))  # s_i·(x_i − x_j) − s_j·(x_i − x_j)
    k, k3 = q.rsqrt(), q.pow(-1.5)
    return k * (s @ s.T) + k3 * towards / length + d * k3 / length - 3 * q.pow(-2.5) * squared / length**2


def stein(x: Tensor, score: Tensor, *, signs: int = SIGNS, seed: int = 0) -> Stein:
    """The discrepancy of draws ``x [n, d]`` from the density with the score ``score [n, d]`` there."""
    n = len(x)
    h = stein_matrix(x, score).fill_diagonal_(0)
    generator = torch.Generator().manual_seed(seed)
    w = (2.0 * torch.randint(2, (signs, n), generator=generator) - 1).to(h)
    null = ((w @ h) * w).sum(1) / (n * (n - 1))
    value = float(h.sum()) / (n * (n - 1))
    as_large = int((null >= value).sum())
    return Stein(value, float(null.std()), (1 + as_large) / (1 + signs))
