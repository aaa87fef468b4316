"""Floors of a KL against KLs that are known."""

from __future__ import annotations

import math

import pytest
import torch

from advae.evaluation.critics.kl_bounds import (
    accuracy_floor,
    aggregate_floor,
    gaussian_kl,
    ratio_floor,
    wishart_log_det,
)
from evaluation.critic_cases import SIGMAS, calibrated_pairs
from truth.linear_gaussian import Gauss


def test_the_floor_by_moments_of_a_normal_is_its_kl_whatever_the_draws() -> None:
    """12 draws in 3 dimensions: without Wishart's correction the floor would be 0.3 nats too high."""
    mean, L = torch.tensor([0.4, -1.0, 0.2]), torch.tensor([[0.7, 0, 0], [0.5, 0.4, 0], [-0.9, 0.1, 1.5]])
    exact = float(Gauss(mean, L @ L.T).kl(Gauss(torch.zeros(3), torch.eye(3))))
    values = gaussian_kl(mean + torch.randn(12, 20_000, 3) @ L.T)
    assert abs(float(values.mean()) - exact) < SIGMAS * float(values.std()) / math.sqrt(20_000)
    assert -0.5 * wishart_log_det(3, 11) == pytest.approx(0.304, abs=1e-3)  # by tables of digamma


def test_the_floor_by_moments_lies_below_the_kl_of_two_modes() -> None:
    """q = ½ N(−a, s²) + ½ N(a, s²): its KL to N(0, 1) by the trapezium rule, the floor that of N(0, a² + s²)."""
    a, s = 1.5, 0.3
    z = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    modes = torch.stack([-0.5 * ((z + sign * a) / s) ** 2 - math.log(s) for sign in (-1, 1)])
    log_q = torch.logsumexp(modes, 0) - math.log(2) - 0.5 * math.log(2 * math.pi)
    log_p = -0.5 * z**2 - 0.5 * math.log(2 * math.pi)
    kl = float(torch.trapezoid(log_q.exp() * (log_q - log_p), z))
    exact = 0.5 * (a**2 + s**2 - 1 - math.log(a**2 + s**2))
    assert kl > exact + 0.5  # the floor is a floor, and leaves something out
    codes = a * (2.0 * torch.randint(2, (256, 4000, 1)) - 1) + s * torch.randn(256, 4000, 1)
    values = gaussian_kl(codes)
    # The correction is that of normal codes; those of two modes have less kurtosis, and the floor is (κ − 3)/4S lower.
    fourth, variance = a**4 + 6 * a**2 * s**2 + 3 * s**4, a**2 + s**2
    lower = (fourth / variance**2 - 3) / (4 * 256)
    assert abs(float(values.mean()) - exact - lower) < SIGMAS * float(values.std()) / math.sqrt(4000) + 1e-5


def test_a_code_that_does_not_vary_has_a_high_floor_that_is_a_number() -> None:
    """Its KL is infinite; at the variance that stands for none, 1e-12, it is ½ (1e-12 − 1 + log 1e12), 13.3 nats."""
    z = torch.cat([torch.randn(400, 2), torch.zeros(400, 1)], 1).double()
    found, without = aggregate_floor(z, torch.zeros(400)), aggregate_floor(z[:, :2], torch.zeros(400))
    # what the sample's correction adds, d and n being known, is not that of the constant
    added = 0.5 * (math.log(1e12) - 1) + 0.5 * (wishart_log_det(3, 399) - wishart_log_det(2, 399))
    assert found.value - without.value == pytest.approx(added, abs=1e-6)
    assert math.isfinite(found.stderr)


def test_the_floor_by_accuracy_by_hand() -> None:
    """96 images, 94 and 6 of them above zero: with two added of each kind 96 and 8 of 100."""
    p = torch.tensor([1.0] * 94 + [-1.0] * 2).unsqueeze(1)
    q = torch.tensor([1.0] * 6 + [-1.0] * 90).unsqueeze(1)
    exact = 0.96 * math.log(0.96 / 0.08) + 0.04 * math.log(0.04 / 0.92)
    assert accuracy_floor(p, q).value == pytest.approx(exact)
    assert accuracy_floor(p, q).short == pytest.approx(exact - 88 / 96 - 4 / 96)
    assert math.isfinite(accuracy_floor(torch.ones(50, 1), -torch.ones(50, 1)).value)


def test_the_floor_by_ratios_finds_the_kl_behind_a_shift() -> None:
    """N(m, 1) from N(0, 1) with m = 1: KL ½. What is added for pairs not shown, and the limit, cost less than 0.02."""
    noise = torch.randn(2, 20_000, 2)
    for shift in (-7.0, 0.0, 3.0):
        floor = ratio_floor(0.5 + noise[0] + shift, -0.5 + noise[1] + shift)
        assert 0.5 - 0.02 - SIGMAS * floor.stderr < floor.value < 0.5 + SIGMAS * floor.stderr
        assert floor.short == pytest.approx(floor.value - float((0.5 + noise[0] + shift).mean()))


@pytest.mark.parametrize("size", [5.0, 20.0, 100.0, 1e5])
def test_the_floor_by_ratios_never_says_more_than_its_pairs_can(size: int) -> None:
    """Sides that no pair crosses: the plain bound would be 2 size, whatever the KL is."""
    floor = ratio_floor(torch.full((300, 1), size), torch.full((300, 1), -size))
    assert floor.value <= math.log(300 / 3)


def test_floors_of_trained_pairs_have_the_error_that_is_told() -> None:
    """Over 300 sets: the deviation of each floor, and of how far the claim is short of it, is the error it gives."""
    ps, qs = calibrated_pairs(300, 200, 2)
    for floor in (accuracy_floor, ratio_floor):
        found = [floor(p - 1, q - 1) for p, q in zip(ps, qs, strict=True)]
        for value, error in (("value", "stderr"), ("short", "error")):
            seen = float(torch.tensor([getattr(f, value) for f in found]).std())
            told = float(torch.tensor([getattr(f, error) for f in found]).mean())
            assert 0.8 * seen < told, (
                floor,
                value,
            )  # 4 % to 5 errors; told may be more: parts are correlated
