"""Fréchet distance, kernel distance and inception score against closed forms and reference implementations."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from advae.metrics import frechet
from advae.metrics.bootstrap import half_subsamples
from advae.metrics.frechet import (
    MIN_IMAGES_FOR_PARTS,
    Moments,
    frechet_distance,
    inception_score,
    kernel_distance,
    normal_frechet_distance,
)

pytestmark = pytest.mark.usefixtures("double")

SIGMAS = 5.0  # standard errors by which an estimate may differ from the exact value: 6e-7 for a normal one


def covariance(d: int) -> Tensor:
    """A random covariance with eigenvalues that are far from equal."""
    a = torch.randn(d, d)
    return a @ a.T / d + 0.01 * torch.eye(d)


def test_frechet_distance_of_commuting_normals_is_that_of_their_standard_deviations() -> None:
    """On a common basis of eigenvectors: ‖μ_a − μ_b‖² + Σ (σ_a − σ_b)². To rounding, 1e-10 of numbers of order 10."""
    basis = torch.linalg.qr(torch.randn(6, 6)).Q
    s, t = torch.rand(6) + 0.1, 3 * torch.rand(6)
    mean = torch.randn(2, 6)
    a, b = (Moments(m, basis * v.square() @ basis.T) for m, v in zip(mean, (s, t), strict=True))
    exact = (mean[0] - mean[1]).square().sum() + (s - t).square().sum()
    assert normal_frechet_distance(a, b) == pytest.approx(float(exact), abs=1e-10)
    assert normal_frechet_distance(a, a) == pytest.approx(0, abs=1e-10)


def test_frechet_distance_of_any_normals_is_its_formula() -> None:
    """With scipy's root of the asymmetric Σ_a Σ_b, and the same with a and b exchanged. To 1e-9."""
    a, b = Moments(torch.randn(20), covariance(20)), Moments(torch.randn(20), covariance(20))
    cross = torch.from_numpy(sqrtm((a.cov @ b.cov).numpy()).real)
    exact = float((a.mean - b.mean).square().sum() + (a.cov + b.cov - 2 * cross).trace())
    assert exact > 1
    assert normal_frechet_distance(a, b) == pytest.approx(exact, abs=1e-9)
    assert normal_frechet_distance(b, a) == pytest.approx(exact, abs=1e-9)


def test_frechet_distance_of_singular_covariances() -> None:
    """diag(4, 0) and diag(1, 0): (2 − 1)². The root of a rounding error of 1e-16 is 1e-8."""
    a, b = (Moments(torch.zeros(2), torch.diag(torch.tensor([v, 0.0]))) for v in (4.0, 1.0))
    assert normal_frechet_distance(a, b) == pytest.approx(1.0, abs=1e-7)


def test_frechet_distance_of_samples_is_that_of_their_normals() -> None:
    """One feature, N(0, 1) and N(0.5, 2²): 0.25 + 1.

    With n = 20,000 each, the variance of a mean's difference is v = (1 + 4)/n, that of a standard deviation's half of
    it: the squares have standard errors of 2 · 0.5 √v and 2 · 1 √(v/2); the bias, v + v/2, is a fiftieth of that.
    """
    n = 20_000
    x, y = torch.randn(n, 1), 0.5 + 2 * torch.randn(n, 1)
    estimate = frechet_distance(x, y, half_subsamples(n, 20, 0))
    error = math.sqrt(5 / n * (1 + 2))
    assert estimate.value == pytest.approx(1.25, abs=SIGMAS * error)
    assert SIGMAS * error < 0.2


def test_covariances_are_divided_by_n_minus_one() -> None:
    """Two points at ±1 have a variance of 2; against a reference of variance 2 and mean 0, distance 0."""
    x = torch.tensor([[1.0], [-1.0]])
    assert frechet.moments(x).cov.item() == 2
    assert frechet.moments(x.repeat(3, 1), torch.tensor([1.0, 1.0, 0, 0, 0, 0])).cov.item() == 2


def reference_kernel_distance(x: Tensor, y: Tensor) -> float:
    """The unbiased estimate by double loops."""

    def k(a: Tensor, b: Tensor) -> float:
        return float(torch.dot(a, b) / len(a) + 1) ** 3

    among_x = [k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    among_y = [k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j]
    across = [k(a, b) for a in x for b in y]
    return sum(among_x) / len(among_x) + sum(among_y) / len(among_y) - 2 * sum(across) / len(across)


def test_kernel_distance_is_its_formula_for_all_and_for_half_subsamples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To rounding, for any chunk size."""
    x, y = torch.randn(9, 4), 0.5 + torch.randn(14, 4)
    halves = half_subsamples(14, 20, 0)
    for rows in (512, 5, 1):
        monkeypatch.setattr(frechet, "KERNEL_CHUNK_SIZE", rows)
        estimate = kernel_distance(x, y, halves)
        assert estimate.value == pytest.approx(reference_kernel_distance(x, y), abs=1e-12)
        for value, row in zip(estimate.replicates[:3], halves, strict=False):
            assert value.item() == pytest.approx(reference_kernel_distance(x, y[row.bool()]), abs=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_kernel_distance_is_unbiased(shift: float) -> None:
    """One feature, N(0, 1) and N(a, 1): E[(x x' + 1)³] by moments; the mean of 1,600 estimates of 20 against 30.

    E (x x' + 1)³ = m₃ m₃' + 3 m₂ m₂' + 3 m₁ m₁' + 1 for independent x, x', with m₁ = a, m₂ = 1 + a², m₃ = a³ + 3a.
    """

    def expected(a: float, b: float) -> float:
        third, second = (a**3 + 3 * a) * (b**3 + 3 * b), (1 + a * a) * (1 + b * b)
        return third + 3 * second + 3 * a * b + 1

    exact = expected(0, 0) + expected(shift, shift) - 2 * expected(0, shift)
    halves = half_subsamples(30, 20, 0)
    values = torch.tensor(
        [kernel_distance(torch.randn(20, 1), shift + torch.randn(30, 1), halves).value for _ in range(1600)]
    )
    error = values.std().item() / 40
    assert values.mean().item() == pytest.approx(exact, abs=SIGMAS * error)
    # With the pairs (x, x) it would be larger by E (x² + 1)³ − E (x x' + 1)³ = 28 − 4 over 20 and over 30, or more.
    assert SIGMAS * error < 24 / 20 + 24 / 30


def test_inception_score_of_certain_uniform_classes_is_their_number_and_of_constant_ones_is_1() -> None:
    sure = 1000 * torch.eye(7).repeat(10, 1)
    constant = torch.tensor([[0.3, -1.0, 2.0]]).expand(70, 3)
    halves = half_subsamples(70, 20, 0)
    assert inception_score(sure, halves).value == pytest.approx(7, abs=1e-12)
    assert inception_score(constant, halves).value == pytest.approx(1, abs=1e-12)


def reference_inception_score(logits: Tensor) -> float:
    p = [[math.exp(v) for v in row] for row in logits.log_softmax(1).tolist()]
    marginal = [sum(column) / len(p) for column in zip(*p, strict=True)]
    kl = [sum(a * math.log(a / b) for a, b in zip(row, marginal, strict=True)) for row in p]
    return math.exp(sum(kl) / len(kl))


def test_inception_score_is_its_formula_and_its_mean_over_ten_parts_from_5000_images_on() -> None:
    few, many = 2 * torch.randn(60, 4), 2 * torch.randn(MIN_IMAGES_FOR_PARTS, 4)
    halves = half_subsamples(60, 20, 0)
    estimate = inception_score(few, halves)
    assert estimate.value == pytest.approx(reference_inception_score(few), abs=1e-10)
    assert estimate.replicates[0].item() == pytest.approx(
        reference_inception_score(few[halves[0].bool()]), abs=1e-10
    )
    parts = [reference_inception_score(part) for part in many.split(MIN_IMAGES_FOR_PARTS // 10)]
    value = inception_score(many, half_subsamples(MIN_IMAGES_FOR_PARTS, 20, 0)).value
    assert value == pytest.approx(sum(parts) / 10, abs=1e-10)
    assert abs(value - reference_inception_score(many)) > 1e-4  # else the parts would have no effect


def test_metrics_equal_those_of_torchmetrics() -> None:
    """On features of their own images; KID with all images in one subset, IS in ten parts. In float64."""
    fid = pytest.importorskip("torchmetrics.image.fid")
    kid = pytest.importorskip("torchmetrics.image.kid")
    score = pytest.importorskip("torchmetrics.image.inception")

    class Flat(torch.nn.Module):
        num_features = 12

        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1).double() / 50

    real = torch.randint(0, 256, (300, 3, 2, 2), dtype=torch.uint8)
    fake = (torch.randint(0, 256, (300, 3, 2, 2)) * 0.8).to(torch.uint8)
    x, y = Flat()(real), Flat()(fake)
    theirs = fid.FrechetInceptionDistance(feature=Flat(), normalize=False).set_dtype(torch.float64)
    kernel = kid.KernelInceptionDistance(feature=Flat(), subsets=1, subset_size=300)
    for metric in (theirs, kernel):
        metric.update(real, real=True)
        metric.update(fake, real=False)
    halves = half_subsamples(300, 20, 0)
    assert frechet_distance(x, y, halves).value == pytest.approx(float(theirs.compute()), rel=1e-9)
    assert kernel_distance(x, y, halves).value == pytest.approx(float(kernel.compute()[0]), rel=1e-9)
    logits = 3 * torch.randn(MIN_IMAGES_FOR_PARTS, 6)
    inception = score.InceptionScore(feature=torch.nn.Identity(), splits=10)
    torch.manual_seed(1)
    inception.features = [logits]
    mean, _ = inception.compute()
    torch.manual_seed(1)
    mine = logits[torch.randperm(len(logits))]
    assert inception_score(mine, half_subsamples(MIN_IMAGES_FOR_PARTS, 20, 0)).value == pytest.approx(
        float(mean), rel=1e-9
    )
