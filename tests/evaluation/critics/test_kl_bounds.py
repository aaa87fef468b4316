"""Lower bounds on a KL, compared with KLs that are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from advae.evaluation.critics.kl_bounds import (
    KL_BOUNDS,
    KLReference,
    accuracy_bound,
    aggregate_posterior_bound,
    density_ratio_bound,
    gaussian_kl,
    log_mean_exp,
    wishart_log_det,
)
from advae.methods import KLBound
from evaluation.critics.critic_cases import SIGMAS, calibrated_pairs
from truth.linear_gaussian import Gauss


def test_gaussian_kl_is_unbiased_for_few_normal_samples() -> None:
    """12 samples in 3 dimensions: without Wishart's correction the bound would be 0.3 nats too high."""
    mean, L = torch.tensor([0.4, -1.0, 0.2]), torch.tensor([[0.7, 0, 0], [0.5, 0.4, 0], [-0.9, 0.1, 1.5]])
    exact = float(Gauss(mean, L @ L.T).kl(Gauss(torch.zeros(3), torch.eye(3))))
    values = gaussian_kl(mean + torch.randn(12, 20_000, 3) @ L.T)
    assert abs(float(values.mean()) - exact) < SIGMAS * float(values.std()) / math.sqrt(20_000)
    assert -0.5 * wishart_log_det(3, 11) == pytest.approx(0.304, abs=1e-3)  # from tables of digamma


def test_moment_bound_is_below_the_kl_of_a_bimodal_posterior() -> None:
    """q = ½ N(−a, s²) + ½ N(a, s²): its KL to N(0, 1) by the trapezoidal rule; the bound is that of N(0, a² + s²)."""
    a, s = 1.5, 0.3
    z = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    modes = torch.stack([-0.5 * ((z + sign * a) / s) ** 2 - math.log(s) for sign in (-1, 1)])
    log_q = torch.logsumexp(modes, 0) - math.log(2) - 0.5 * math.log(2 * math.pi)
    log_p = -0.5 * z**2 - 0.5 * math.log(2 * math.pi)
    kl = float(torch.trapezoid(log_q.exp() * (log_q - log_p), z))
    exact = 0.5 * (a**2 + s**2 - 1 - math.log(a**2 + s**2))
    assert kl > exact + 0.5
    samples = a * (2.0 * torch.randint(2, (256, 4000, 1)) - 1) + s * torch.randn(256, 4000, 1)
    values = gaussian_kl(samples)
    # The correction is exact for normal samples; two modes have less kurtosis, and the bound is (κ − 3)/4S lower.
    fourth, variance = a**4 + 6 * a**2 * s**2 + 3 * s**4, a**2 + s**2
    lower = (fourth / variance**2 - 3) / (4 * 256)
    assert abs(float(values.mean()) - exact - lower) < SIGMAS * float(values.std()) / math.sqrt(4000) + 1e-5


def aggregate(z: Tensor) -> KLReference:
    bound = aggregate_posterior_bound({"z": z}, torch.zeros(len(z)))
    assert bound is not None
    return bound


def test_aggregate_posterior_bound_of_a_constant_dimension_is_finite() -> None:
    """The KL is infinite; with the added variance, 1e-12, the dimension has ½ (1e-12 − 1 + log 1e12) = 13.3 nats."""
    z = torch.cat([torch.randn(400, 2), torch.zeros(400, 1)], 1).double()
    with_constant, without = aggregate(z), aggregate(z[:, :2])
    correction = 0.5 * (wishart_log_det(3, 399) - wishart_log_det(2, 399))
    added = 0.5 * (math.log(1e12) - 1) + correction
    assert with_constant.value - without.value == pytest.approx(added, abs=1e-6)
    assert math.isfinite(with_constant.stderr)


def test_bounds_without_their_inputs_are_absent() -> None:
    """A model without an encoder has no latents, and few examples have no covariance."""
    for compute in KL_BOUNDS.values():
        assert compute({}, torch.zeros(5)) is None
    assert aggregate_posterior_bound({"z": torch.randn(15, 2).double()}, torch.zeros(15)) is None
    assert set(KL_BOUNDS) == set(KLBound)


def test_accuracy_bound_by_hand() -> None:
    """96 examples, 94 and 6 of them above zero: with two added of each kind 96 and 8 of 100."""
    p = torch.tensor([1.0] * 94 + [-1.0] * 2).unsqueeze(1)
    q = torch.tensor([1.0] * 6 + [-1.0] * 90).unsqueeze(1)
    exact = 0.96 * math.log(0.96 / 0.08) + 0.04 * math.log(0.04 / 0.92)
    assert accuracy_bound(p, q).value == pytest.approx(exact)
    assert accuracy_bound(p, q).shortfall == pytest.approx(exact - 88 / 96 - 4 / 96)
    assert math.isfinite(accuracy_bound(torch.ones(50, 1), -torch.ones(50, 1)).value)


def test_density_ratio_bound_is_invariant_to_a_shift() -> None:
    """N(m, 1) from N(0, 1) with m = 1: KL ½. The correction for unseen pairs and the clip cost less than 0.02."""
    noise = torch.randn(2, 20_000, 2)
    for shift in (-7.0, 0.0, 3.0):
        bound = density_ratio_bound(0.5 + noise[0] + shift, -0.5 + noise[1] + shift)
        assert 0.5 - 0.02 - SIGMAS * bound.stderr < bound.value < 0.5 + SIGMAS * bound.stderr
        assert bound.shortfall == pytest.approx(bound.value - float((0.5 + noise[0] + shift).mean()))


@pytest.mark.parametrize("size", [5.0, 20.0, 100.0, 1e5])
def test_density_ratio_bound_is_at_most_what_the_pairs_can_show(size: int) -> None:
    """Separable sides: the uncorrected bound would be 2 size, whatever the KL is."""
    bound = density_ratio_bound(torch.full((300, 1), size), torch.full((300, 1), -size))
    assert bound.value <= math.log(300 / 3)


def test_standard_errors_of_the_bounds_are_their_standard_deviations() -> None:
    """Over 300 data sets, for each bound and its shortfall; the error may be larger, as parts are correlated."""
    ps, qs = calibrated_pairs(300, 200, 2)
    for compute in (accuracy_bound, density_ratio_bound):
        bounds = [compute(p - 1, q - 1) for p, q in zip(ps, qs, strict=True)]
        for value, stderr in (("value", "stderr"), ("shortfall", "shortfall_stderr")):
            deviation = float(torch.tensor([getattr(b, value) for b in bounds]).std())
            mean_stderr = float(torch.tensor([getattr(b, stderr) for b in bounds]).mean())
            assert 0.8 * deviation < mean_stderr, (
                compute,
                value,
            )  # a deviation over 300 sets has an error of 4 %


def test_log_mean_exp_and_its_error() -> None:
    """E_Q[e^T] is 1 for a log ratio and e^c for one c too large; over 300 sets its error is the deviation."""
    m, count = 0.7, 300
    q = -0.5 * m**2 + m * torch.randn(count, 200, 2)
    values, stderrs = torch.tensor([log_mean_exp(t + 1.3) for t in q]).T
    tolerance = SIGMAS * float(values.std()) / math.sqrt(count) + 0.002  # its bias is var/2n
    assert abs(float(values.mean()) - 1.3) < tolerance
    assert float(values.std()) == pytest.approx(
        float(stderrs.mean()), rel=0.25
    )  # 4 % to 5 errors, heavy tails


def reference(value: float, shortfall: float, stderr: float = 0.0, kind: str = "lower bound") -> KLReference:
    return KLReference("test", value, 0.0, shortfall, stderr, kind=kind)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("of", "passed"),
    [
        (reference(10, 0.4), True),  # below half a nat
        (reference(10, 0.6), False),
        (reference(2, 0.3), False),  # above a tenth of the bound
        (reference(2, 0.3, stderr=0.11), True),  # within three standard errors
        (reference(10, -3), True),  # a lower bound may be exceeded
        (reference(10, -3, kind="unbiased"), False),  # an unbiased estimate may not
        (reference(-1, 5), True),  # a negative bound says nothing
    ],
)
def test_tolerance_of_a_violation(of: KLReference, passed: bool) -> None:
    assert of.criterion.passed == passed
