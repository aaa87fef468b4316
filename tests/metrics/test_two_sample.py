"""Two-sample tests of normals: MMD² in closed form, uniform p-values, Bayes accuracies."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from advae.metrics import two_sample
from advae.metrics.two_sample import classifier_test, gaussian_kernel, mmd_test, num_blocks
from truth.sampling import SIGMAS

pytestmark = pytest.mark.usefixtures("double")

REPEATS = 400


def k(a: Tensor, b: Tensor) -> float:
    """The kernel by its formula."""
    squared = sum((u - v) ** 2 for u, v in zip(a.tolist(), b.tolist(), strict=True))
    return sum(math.exp(-squared / (4 * s * len(a))) for s in (0.25, 0.5, 1, 2, 4)) / 5


def expected_kernel(mean: Tensor, cov: Tensor) -> float:
    """``E k(a, b)`` for a − b ~ N(mean, cov): a Gaussian of variance v becomes one of covariance cov + v I."""
    d, total = len(mean), 0.0
    for v in (2 * s * d for s in (0.25, 0.5, 1, 2, 4)):
        wide = cov + v * torch.eye(d)
        height = v ** (d / 2) / wide.det().sqrt()
        total += float(height * torch.exp(-0.5 * mean @ torch.linalg.solve(wide, mean)))
    return total / 5


def test_mmd_is_its_double_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """So are its standard error and p-value; the block size has no effect."""
    n = 7
    x, y = torch.randn(n, 3), torch.randn(n, 3) + 0.4
    h = torch.zeros(n, n)
    for i in range(n):
        for j in range(n):
            if i != j:
                h[i, j] = k(x[i], x[j]) + k(y[i], y[j]) - k(x[i], y[j]) - k(x[j], y[i])
    result = mmd_test(x, y, permutations=19, seed=3)
    assert result.value == pytest.approx(float(h.sum()) / (n * (n - 1)), abs=1e-12)
    assert result.stderr == pytest.approx(math.sqrt(2 * float(h.square().sum())) / (n * (n - 1)), rel=1e-12)
    assert (result.p * 20) == pytest.approx(round(result.p * 20))
    monkeypatch.setattr(two_sample, "BLOCK_SIZE", 3)
    ticks: list[int] = []
    in_blocks = mmd_test(x, y, permutations=19, seed=3, tick=ticks.append)
    assert in_blocks.value == pytest.approx(result.value, abs=1e-12)
    assert in_blocks.stderr == pytest.approx(result.stderr, rel=1e-12)
    assert in_blocks.p == result.p
    assert sum(ticks) == num_blocks(n) == 6


def test_signs_of_h_are_swaps() -> None:
    """Swapping x_i and y_i changes the sign of row and column i of H."""
    n = 5
    x, y = torch.randn(n, 2), torch.randn(n, 2) + 1
    as_large, swaps, seed = 0, 50, 11
    generator = torch.Generator().manual_seed(seed)
    signs = 2.0 * torch.randint(2, (swaps + 1, n), generator=generator) - 1
    plain = mmd_test(x, y, permutations=1).value
    for w in signs[1:]:
        keep = (w > 0)[:, None]
        as_large += (
            mmd_test(torch.where(keep, x, y), torch.where(keep, y, x), permutations=1).value >= plain - 1e-12
        )
    assert mmd_test(x, y, permutations=swaps, seed=seed).p == pytest.approx((1 + as_large) / (1 + swaps))


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.8, 1.0), (0.0, 0.5)])
def test_mmd_is_unbiased(shift: float, scale: float) -> None:
    """Its mean over repeats is the closed form for two normals, zero where they are the same one."""
    d, n = 2, 40
    mean, cov = torch.tensor([shift, 0.0]), scale**2 * torch.eye(d)
    exact = (
        expected_kernel(torch.zeros(d), 2 * cov)
        + expected_kernel(torch.zeros(d), 2 * torch.eye(d))
        - 2 * expected_kernel(mean, cov + torch.eye(d))
    )
    if shift == 0 and scale == 1:
        assert abs(exact) < 1e-12
        exact = 0.0
    runs = [
        mmd_test(mean + scale * torch.randn(n, d), torch.randn(n, d), permutations=1) for _ in range(REPEATS)
    ]
    values = torch.tensor([run.value for run in runs])
    error = float(values.std()) / math.sqrt(REPEATS)
    assert abs(float(values.mean()) - exact) < SIGMAS * error
    assert SIGMAS * error < (0.25 * exact or 0.02)  # else the comparison would have no power


def test_stderr_is_that_under_equality() -> None:
    """Swaps have mean zero, so the expected variance over them is the whole variance when both are one normal."""
    runs = [mmd_test(torch.randn(20, 2), torch.randn(20, 2), permutations=1) for _ in range(REPEATS)]
    excess = torch.tensor([run.value**2 - run.stderr**2 for run in runs])
    error = float(excess.std()) / math.sqrt(REPEATS)
    assert abs(float(excess.mean())) < SIGMAS * error
    assert (
        SIGMAS * error < 0.5 * sum(run.stderr**2 for run in runs) / REPEATS
    )  # a factor of two would be seen


def test_p_values_under_equality_are_uniform() -> None:
    """Exactly so: on the 20 values that 19 swaps can give, by Pearson's test at one in 100,000."""
    cells = torch.zeros(20)
    for seed in range(REPEATS):
        p = mmd_test(torch.randn(20, 2), torch.randn(20, 2), permutations=19, seed=seed).p
        cells[round(20 * p) - 1] += 1
    expected = REPEATS / 20
    statistic = float(((cells - expected) ** 2 / expected).sum())
    assert statistic < chi2.isf(1e-5, 19)


def test_shift_is_detected() -> None:
    result = mmd_test(torch.randn(300, 8) + 0.3, torch.randn(300, 8))
    assert result.p == 1 / 200
    assert result.value > SIGMAS * result.stderr


def test_kernel_is_one_at_zero_and_decreases() -> None:
    far = gaussian_kernel(torch.zeros(1, 4), torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 0], [5, 0, 0, 0]]))[0]
    assert far[0] == 1
    assert far[0] > far[1] > far[2] > 0


# --- the classifier -----------------------------------------------------------------------------------------


def binomial(p: float, n: int) -> float:
    """Four standard errors of an accuracy: a correct program fails once in 16,000."""
    return 4 * math.sqrt(p * (1 - p) / n)


@pytest.mark.parametrize(("n", "d"), [(2000, 2), (301, 30)])
def test_classifier_has_chance_accuracy_on_equal_distributions(n: int, d: int) -> None:
    """Also where it could overfit its training examples: test examples are separate."""
    accuracy, num_test = classifier_test(torch.randn(n, d), torch.randn(n, d))
    assert num_test == 2 * (n - n // 2)
    assert abs(accuracy - 0.5) < binomial(0.5, num_test)


MAX_ACCURACY_LOSS = 0.02
"""Allowed loss of a trained network relative to the Bayes rule: the only tolerance here without a derivation. It is
small compared with the margins of the accuracies above one half, 0.10 to 0.48."""


@pytest.mark.parametrize("shift", [0.5, 1.5])
def test_classifier_of_shifted_normals_has_bayes_accuracy(shift: float) -> None:
    """The best accuracy for N(0, I) and N(δ, I) is Φ(|δ| / 2)."""
    best = 0.5 * math.erfc(-shift / 2 / math.sqrt(2))
    accuracy, num_test = classifier_test(
        torch.randn(4000, 2) + torch.tensor([shift, 0.0]), torch.randn(4000, 2)
    )
    assert best - MAX_ACCURACY_LOSS - binomial(best, num_test) < accuracy < best + binomial(best, num_test)
    assert accuracy > 0.5 + binomial(0.5, num_test)


def test_classifier_of_normals_with_different_scales_has_bayes_accuracy() -> None:
    """N(0, I) and N(0, s² I) in two dimensions: the best rule cuts at r² = 4 log(1/s) / (1/s² − 1)."""
    s = 0.5
    cut = 4 * math.log(1 / s) / (1 / s**2 - 1)
    best = 0.5 * (1 - math.exp(-cut / s**2 / 2) + math.exp(-cut / 2))
    accuracy, num_test = classifier_test(s * torch.randn(4000, 2), torch.randn(4000, 2))
    assert best - MAX_ACCURACY_LOSS - binomial(best, num_test) < accuracy < best + binomial(best, num_test)


def test_classifier_does_not_depend_on_the_scale_of_a_dimension() -> None:
    """The only difference is in a dimension of scale 0.001, next to one of scale 1."""
    x, y = torch.randn(2000, 2) + torch.tensor([0.0, 1.5]), torch.randn(2000, 2)
    scale = torch.tensor([1.0, 1e-3])
    best = 0.5 * math.erfc(-0.75 / math.sqrt(2))
    accuracy, num_test = classifier_test(scale * x, scale * y)
    assert accuracy > best - MAX_ACCURACY_LOSS - binomial(best, num_test)


def test_accuracy_depends_on_the_seed_alone() -> None:
    x, y = torch.randn(1000, 3) + 0.5, torch.randn(1000, 3)
    first, again = ([classifier_test(x, y, seed=s)[0] for s in range(4)] for _ in range(2))
    assert first == again
    assert len(set(first)) > 1


def test_classifier_does_not_depend_on_the_order_of_examples() -> None:
    """Images sorted by class: a half of them is not the half of the classes."""
    x = torch.cat([torch.randn(500, 2) + 3, torch.randn(500, 2) - 3])
    accuracy, num_test = classifier_test(x, torch.randn(1000, 2))
    # Along the diagonal, centres 0 and ±m: φ(u) = φ(u − m) / 2 at u = m/2 + log 2 / m.
    m = 3 * math.sqrt(2)
    cut = m / 2 + math.log(2) / m
    best = 0.5 * math.erf(cut / math.sqrt(2)) + 0.25 * math.erfc(-(m - cut) / math.sqrt(2))
    assert accuracy > best - MAX_ACCURACY_LOSS - binomial(best, num_test)
