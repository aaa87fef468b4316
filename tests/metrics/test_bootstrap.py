"""Standard errors and intervals of the half-subsample bootstrap have their nominal properties."""

from __future__ import annotations

import math

import pytest
import torch

from advae.metrics.bootstrap import BootstrapEstimate, half_subsamples
from advae.metrics.frechet import frechet_distance

pytestmark = pytest.mark.usefixtures("double")

SIGMAS = 5.0  # standard errors by which an estimate may differ from the exact value: 6e-7 for a normal one


def test_means_of_halves_have_the_variance_of_a_mean() -> None:
    """S²/h − S²/m = S²/m. The variance of 4,000 replicates is known to √(2/4000) = 2.2 %; 5 of them."""
    values = torch.randn(50)
    halves = half_subsamples(50, 4000, 0)
    assert (halves.sum(1) == 25).all() and set(halves.unique().tolist()) == {0.0, 1.0}
    assert halves.mean(0).sub(0.5).abs().max() < SIGMAS * 0.5 / math.sqrt(4000)  # all equally often
    estimate = BootstrapEstimate(values.mean().item(), halves @ values / 25)
    assert estimate.stderr == pytest.approx(values.std().item() / math.sqrt(50), rel=SIGMAS * 0.022)


def covers(estimates: list[BootstrapEstimate], truth: float) -> int:
    return sum(low <= truth <= high for low, high in (e.interval for e in estimates))


def test_interval_of_a_mean_covers_it_at_95_percent() -> None:
    """400 samples of 60 numbers: 380 ± 4.4. The 2.5 % quantiles of 400 replicates lose some 0.1 %, and with 60
    numbers a normal quantile instead of Student's loses 0.5 %: 377.5. Four standard deviations either way."""
    estimates = []
    for seed in range(400):
        values = torch.randn(60)
        estimates.append(
            BootstrapEstimate(values.mean().item(), half_subsamples(60, 400, seed) @ values / 30)
        )
    assert 360 <= covers(estimates, 0.0) <= 396


def test_interval_of_the_frechet_distance_covers_its_mean_at_this_number_of_images() -> None:
    """The bias is larger than the noise, and is not part of the interval: of 150 intervals 132 or more cover the mean.

    0.88 is four standard deviations below 0.95; the 2.5 % quantiles of 60 replicates lose 2 %, of which one is
    left. The mean itself is known to a twelfth of the noise.
    """
    reference, d = torch.randn(2000, 10), 10
    estimates = [
        frechet_distance(reference, 0.1 + 1.1 * torch.randn(100, d), half_subsamples(100, 60, seed))
        for seed in range(150)
    ]
    values = torch.tensor([e.value for e in estimates])
    assert covers(estimates, values.mean().item()) >= 132
    excess = torch.tensor([e.excess_of_halves for e in estimates])
    assert excess.mean() > values.std()  # else the bias would have no effect
    widths = torch.tensor([e.stderr for e in estimates])
    assert widths.mean().item() == pytest.approx(
        values.std().item(), rel=0.35
    )  # so the coverage is not due to wide intervals


def test_intervals_are_within_the_limits() -> None:
    r = torch.linspace(-1, 1, 101)
    assert BootstrapEstimate(0.1, r, (0.0, math.inf)).interval == pytest.approx((0.0, 1.05))
    few = BootstrapEstimate(0.0, torch.linspace(-1, 1, 21))
    assert few.interval == pytest.approx((-2.1 * few.stderr, 2.1 * few.stderr))
