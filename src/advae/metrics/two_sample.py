"""Whether two samples come from one distribution: maximum mean discrepancy, and a classifier that tries to tell.

    H_ij    k(x_i, x_j) + k(y_i, y_j) − k(x_i, y_j) − k(x_j, y_i)
    MMD²    mean of H_ij over i ≠ j          unbiased, negative at times       (Gretton et al. 2012, lemma 6, (4))
    k       mean over s in {¼, ½, 1, 2, 4} of exp(−|a − b|² / (4 s d))

Two draws of N(0, I) in d dimensions lie at a mean squared distance of 2d, whence the widths of the kernel. They do not
depend on the samples, so that figures of codes of one length can be compared. To swap x_i and y_i turns the sign of
row and column i of H; under equality all 2ⁿ ways of swapping are equally likely, which makes an exact test.

The classifier test is that of Lopez-Paz and Oquab (2017): accuracy on a half that it was not trained on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from advae.random import mix_seeds

BLOCK = 1024  # rows of H at a time: 33 MB for the four kernels of a block in float64
SWAPS = 199  # random ways of swapping: the p-value counts in steps of 1/200
FEWEST = (
    40  # of each sample, for the classifier: half of them train it, and a tenth of those say when to stop
)


@dataclass(frozen=True)
class Mmd:
    """Attributes:
    value: MMD², unbiased.
    stderr: its standard deviation over ways of swapping, which is what it has under equality.
    p: the share of ways of swapping that give as large a value; uniform under equality.
    """

    value: float
    stderr: float
    p: float


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """``k(a_i, b_j)`` for ``a [n, d]`` and ``b [m, d]``: ``[n, m]``.

    >>> kernel(torch.zeros(1, 2), torch.zeros(1, 2)).item()
    1.0
    """
    power = torch.cdist(a, b).square_().mul_(-1 / (16 * a.shape[1])).exp_()  # s = 4
    total = power.clone()
    for _ in range(4):  # s = 2, 1, ½, ¼
        total += power.square_()
    return total / 5


def mmd(
    x: Tensor, y: Tensor, *, swaps: int = SWAPS, seed: int = 0, tick: Callable[[int], None] = lambda n: None
) -> Mmd:
    """The discrepancy of two samples of one size.

    Args:
        x, y: ``[n, d]``, n of 2 or more.
        swaps: how many random ways of swapping the p-value compares with.
        seed: of the swaps.
        tick: told of every block done, of :func:`blocks`.
    """
    x, y, n = x.double(), y.double(), len(x)
    generator = torch.Generator().manual_seed(seed)
    signs = 2.0 * torch.randint(2, (swaps + 1, n), generator=generator) - 1
    signs[0] = 1  # as they are
    signs = signs.to(x)
    sums, squares = torch.zeros(swaps + 1).to(x), torch.zeros(()).to(x)
    for i in range(0, n, BLOCK):
        for j in range(i, n, BLOCK):
            h = _block(x, y, slice(i, i + BLOCK), slice(j, j + BLOCK))
            twice = 1 if i == j else 2  # H is symmetric
            sums += twice * ((signs[:, i : i + BLOCK] @ h) * signs[:, j : j + BLOCK]).sum(1)
            squares += twice * h.square().sum()
            tick(1)
    pairs = n * (n - 1)
    as_large = int((sums[1:] >= sums[0]).sum())
    return Mmd(float(sums[0]) / pairs, float((2 * squares).sqrt()) / pairs, (1 + as_large) / (1 + swaps))


def blocks(n: int) -> int:
    """How many blocks :func:`mmd` works on."""
    rows = -(-n // BLOCK)
    return rows * (rows + 1) // 2


def _block(x: Tensor, y: Tensor, rows: slice, columns: slice) -> Tensor:
    """``H`` at these rows and columns, with zeros at i = j."""
    k = kernel(torch.cat([x[rows], y[rows]]), torch.cat([x[columns], y[columns]]))
    n, m = k.shape[0] // 2, k.shape[1] // 2
    h = k[:n, :m] + k[n:, m:] - k[:n, m:] - k[n:, :m]
    return h.fill_diagonal_(0) if rows == columns else h


def c2st(x: Tensor, y: Tensor, *, seed: int = 0) -> tuple[float, int]:
    """The accuracy of a classifier that tells ``x [n, d]`` from ``y [n, d]``, and on how many it was tried.

    A perceptron with one hidden layer of 64 on standardized numbers, trained on half of each sample until its
    accuracy on a tenth of them no longer rises; one half means that it cannot tell. n is FEWEST or more.
    """
    import numpy as np
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    generator = torch.Generator().manual_seed(seed)
    halves = [s[torch.randperm(len(s), generator=generator)].cpu().double().numpy() for s in (x, y)]
    half = len(x) // 2
    train, test = (np.concatenate([s[part] for s in halves]) for part in (slice(half), slice(half, None)))
    network = MLPClassifier(
        (64,), learning_rate_init=3e-3, max_iter=100, early_stopping=True, random_state=mix_seeds(seed) % 2**32
    )
    classifier = make_pipeline(StandardScaler(), network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # an accuracy is an accuracy
        classifier.fit(train, np.arange(len(train)) >= half)
    right = classifier.predict(test) == (np.arange(len(test)) >= len(test) // 2)
    return float(right.mean()), len(test)
