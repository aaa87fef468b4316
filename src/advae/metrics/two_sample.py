"""Two-sample tests: maximum mean discrepancy and classifier test.

    H_ij    k(x_i, x_j) + k(y_i, y_j) − k(x_i, y_j) − k(x_j, y_i)
    MMD²    mean of H_ij over i ≠ j: unbiased, sometimes negative              (Gretton et al. 2012, lemma 6, (4))
    k       mean over s in {¼, ½, 1, 2, 4} of exp(−|a − b|² / (4 s d))

Two samples of N(0, I) in d dimensions have a mean squared distance of 2d, which explains the widths of the kernel. They
do not depend on the samples, so that values for latents of the same dimension are comparable. Swapping x_i and y_i
changes the sign of row and column i of H. If the distributions are equal, all 2ⁿ combinations of swaps are equally
likely, which gives an exact permutation test.

The classifier test is that of Lopez-Paz and Oquab (2017): accuracy on a half that was not used for training.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from advae.random import mix_seeds

BLOCK_SIZE = 1024  # rows of H at a time: 33 MB for the four kernels of a block in float64
NUM_PERMUTATIONS = 199  # p-values are multiples of 1/200
# Size of each sample for the classifier: half trains it, and a tenth of that half decides when to stop.
MIN_CLASSIFIER_SAMPLES = 40


@dataclass(frozen=True)
class MMDTest:
    """Result of the permutation test.

    Attributes:
        value: MMD², unbiased.
        stderr: its standard deviation over swaps, which is that under equality.
        p: p-value: fraction of the swaps with at least this value; uniform under equality.
    """

    value: float
    stderr: float
    p: float


def gaussian_kernel(a: Tensor, b: Tensor) -> Tensor:
    """Return ``k(a_i, b_j)`` for ``a [n, d]`` and ``b [m, d]``: ``[n, m]``.

    >>> gaussian_kernel(torch.zeros(1, 2), torch.zeros(1, 2)).item()
    1.0
    """
    power = torch.cdist(a, b).square_().mul_(-1 / (16 * a.shape[1])).exp_()  # s = 4
    total = power.clone()
    for _ in range(4):  # s = 2, 1, ½, ¼
        total += power.square_()
    return total / 5


def mmd_test(
    x: Tensor,
    y: Tensor,
    *,
    permutations: int = NUM_PERMUTATIONS,
    seed: int = 0,
    tick: Callable[[int], None] = lambda n: None,
) -> MMDTest:
    """Test whether two samples of the same size have the same distribution.

    Args:
        x, y: ``[n, d]``, n of 2 or more.
        permutations: number of random combinations of swaps for the p-value.
        seed: of the swaps.
        tick: called with 1 after each of :func:`num_blocks` blocks.
    """
    x, y, n = x.double(), y.double(), len(x)
    generator = torch.Generator().manual_seed(seed)
    signs = 2.0 * torch.randint(2, (permutations + 1, n), generator=generator) - 1
    signs[0] = 1  # no swaps
    signs = signs.to(x)
    sums, squares = torch.zeros(permutations + 1).to(x), torch.zeros(()).to(x)
    for i in range(0, n, BLOCK_SIZE):
        for j in range(i, n, BLOCK_SIZE):
            h = _h_block(x, y, slice(i, i + BLOCK_SIZE), slice(j, j + BLOCK_SIZE))
            multiplicity = 1 if i == j else 2  # H is symmetric
            sums += multiplicity * ((signs[:, i : i + BLOCK_SIZE] @ h) * signs[:, j : j + BLOCK_SIZE]).sum(1)
            squares += multiplicity * h.square().sum()
            tick(1)
    pairs = n * (n - 1)
    num_larger = int((sums[1:] >= sums[0]).sum())
    p = (1 + num_larger) / (1 + permutations)
    return MMDTest(float(sums[0]) / pairs, float((2 * squares).sqrt()) / pairs, p)


def num_blocks(n: int) -> int:
    """Return the number of blocks that :func:`mmd_test` computes."""
    rows = -(-n // BLOCK_SIZE)
    return rows * (rows + 1) // 2


def _h_block(x: Tensor, y: Tensor, rows: slice, columns: slice) -> Tensor:
    """Return ``H`` at these rows and columns, with zeros at i = j."""
    k = gaussian_kernel(torch.cat([x[rows], y[rows]]), torch.cat([x[columns], y[columns]]))
    n, m = k.shape[0] // 2, k.shape[1] // 2
    h = k[:n, :m] + k[n:, m:] - k[:n, m:] - k[n:, :m]
    return h.fill_diagonal_(0) if rows == columns else h


def classifier_test(x: Tensor, y: Tensor, *, seed: int = 0) -> tuple[float, int]:
    """Return the test accuracy of a classifier of ``x [n, d]`` and ``y [n, d]``, and the number of test examples.

    A perceptron with one hidden layer of 64 units on standardized inputs is trained on half of each sample, until its
    accuracy on a tenth of them stops rising. An accuracy of one half means that it cannot distinguish the samples. n
    must be MIN_CLASSIFIER_SAMPLES or more.
    """
    import numpy as np
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    generator = torch.Generator().manual_seed(seed)
    shuffled = [s[torch.randperm(len(s), generator=generator)].cpu().double().numpy() for s in (x, y)]
    half = len(x) // 2
    train, test = (np.concatenate([s[part] for s in shuffled]) for part in (slice(half), slice(half, None)))
    options = {"learning_rate_init": 3e-3, "max_iter": 100, "early_stopping": True}
    network = MLPClassifier((64,), **options, random_state=mix_seeds(seed) % 2**32)
    classifier = make_pipeline(StandardScaler(), network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the accuracy is valid without convergence
        classifier.fit(train, np.arange(len(train)) >= half)
    is_correct = classifier.predict(test) == (np.arange(len(test)) >= len(test) // 2)
    return float(is_correct.mean()), len(test)
