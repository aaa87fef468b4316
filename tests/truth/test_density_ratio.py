"""Contrast losses between known normals: their optimum is the log ratio, and the KL contrast's value is the KL."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from advae.density_ratio import kl_contrast, kl_loss, logistic_contrast, logistic_loss
from truth.linear_gaussian import Gauss

pytestmark = pytest.mark.usefixtures("double")

P = Gauss(torch.tensor([0.5], dtype=torch.float64), torch.tensor([[0.8**2]], dtype=torch.float64))
Q = Gauss(torch.tensor([-0.3], dtype=torch.float64), torch.tensor([[1.2**2]], dtype=torch.float64))
CONTRASTS = {"logistic": (logistic_loss, 0.0), "kl": (kl_loss, 1.0)}

each_contrast = pytest.mark.parametrize("name", CONTRASTS)


def quadrature(nodes: int = 120) -> tuple[Tensor, Tensor, Tensor]:
    """Points of P, points of Q and their common weights, by Gauss–Hermite quadrature for E f(u_P) + E g(u_Q).

    Both losses are sums of a function of each side, so one weighted mean of pairs is their expectation. 120
    nodes integrate softplus and exp of these quadratics to about 1e-9 (as the first test sees).
    """
    n, w = np.polynomial.hermite_e.hermegauss(nodes)
    node, weight = torch.from_numpy(n), torch.from_numpy(w / w.sum())
    return P.mean + P.cov.sqrt()[0] * node, Q.mean + Q.cov.sqrt()[0] * node, weight


def quadratic(u: Tensor) -> Tensor:
    """Features whose span contains the log ratio of two normals."""
    return torch.stack([torch.ones_like(u), u, u.square()], -1)


def optimum(shift: float) -> Tensor:
    """Coefficients of log P − log Q (+ 1 for the KL contrast) in the quadratic features."""
    (m, v), (k, w) = [(float(g.mean), float(g.cov)) for g in (P, Q)]
    constant = 0.5 * (np.log(w / v) + k * k / w - m * m / v) + shift
    return torch.tensor([constant, m / v - k / w, 0.5 / w - 0.5 / v])


def expected_loss(name: str, coefficients: Tensor) -> Tensor:
    u_p, u_q, weight = quadrature()
    loss = CONTRASTS[name][0](quadratic(u_p) @ coefficients, quadratic(u_q) @ coefficients)
    return weight @ loss


@each_contrast
def test_gradient_vanishes_at_the_log_ratio(name: str) -> None:
    coefficients = optimum(CONTRASTS[name][1]).requires_grad_()
    (slope,) = torch.autograd.grad(expected_loss(name, coefficients), coefficients)
    assert slope.abs().max() < 1e-8  # the quadrature's error


@each_contrast
def test_trained_critic_converges_to_log_ratio_and_kl(name: str) -> None:
    """From zero, by L-BFGS, in a family that contains the optimum.

    The loss's curvature here is above 1e-2 in every direction and L-BFGS stops at a slope of 1e-9, so the
    coefficients are right to 1e-6 and the values, being stationary, far better.
    """
    shift = CONTRASTS[name][1]
    coefficients = torch.zeros(3, requires_grad=True)
    solver = torch.optim.LBFGS(
        [coefficients], max_iter=500, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        loss = expected_loss(name, coefficients)
        loss.backward()
        return loss

    solver.step(closure)
    torch.testing.assert_close(coefficients.detach(), optimum(shift), atol=1e-6, rtol=0)

    u_p, u_q, weight = quadrature()
    make = {"logistic": logistic_contrast, "kl": kl_contrast}[name]
    contrast = make(quadratic(u_p) @ coefficients.detach(), quadratic(u_q) @ coefficients.detach())
    exact_p = P.log_prob(u_p[:, None]) - Q.log_prob(u_p[:, None])
    exact_q = P.log_prob(u_q[:, None]) - Q.log_prob(u_q[:, None])
    near = quadrature()[2] > 1e-12  # beyond seven standard deviations the quadratic magnifies 1e-6
    torch.testing.assert_close(contrast.log_ratio_p[near], exact_p[near], atol=1e-4, rtol=0)
    torch.testing.assert_close(contrast.log_ratio_q[near], exact_q[near], atol=1e-4, rtol=0)
    assert abs(weight @ contrast.log_ratio_p - P.kl(Q)) < 1e-6
    assert abs(weight @ contrast.log_ratio_q + Q.kl(P)) < 1e-6
    if name == "kl":
        assert abs(-weight @ contrast.loss - P.kl(Q)) < 1e-9
    else:  # the logistic game's value: 2 JS − 2 log 2, with JS by the same rule
        js = (
            0.5
            * weight
            @ (np.log(2) - torch.log1p(torch.exp(-exact_p)) + np.log(2) - torch.log1p(torch.exp(exact_q)))
        )
        assert abs(-weight @ contrast.loss - (2 * js - 2 * np.log(2))) < 1e-8


def test_the_two_bounds_of_bavae_are_one() -> None:
    """(6) in D is (14) in T = 1 − D, at any critic values."""
    d_p, d_q = 3 * torch.randn(2, 1000)
    eq_6 = (1 - d_p) - torch.exp(-d_q)
    torch.testing.assert_close(-kl_loss(1 - d_p, 1 - d_q), eq_6, atol=1e-12, rtol=1e-12)
    eq_14 = d_p - torch.exp(d_q - 1)
    torch.testing.assert_close(-kl_loss(d_p, d_q), eq_14, atol=1e-12, rtol=1e-12)


@each_contrast
def test_known_terms_do_not_move_the_optimum_of_the_sum(name: str) -> None:
    """With any known term added, the residual's optimum is the log ratio less that term."""
    u_p, u_q, weight = quadrature()
    known = torch.tensor([0.3, -0.2, 0.05])
    residual = (optimum(CONTRASTS[name][1]) - known).requires_grad_()
    loss = CONTRASTS[name][0](quadratic(u_p) @ (residual + known), quadratic(u_q) @ (residual + known))
    (slope,) = torch.autograd.grad(weight @ loss, residual)
    assert slope.abs().max() < 1e-8


@each_contrast
def test_every_other_critic_is_worse(name: str) -> None:
    best = expected_loss(name, optimum(CONTRASTS[name][1]))
    for direction in torch.eye(3):
        for size in (-0.05, 0.05):
            assert expected_loss(name, optimum(CONTRASTS[name][1]) + size * direction) > best


def test_losses_where_they_overflow_naively() -> None:
    """The logistic loss is |T| on the wrong side at any size, and 0 on the right one."""
    T = torch.tensor([1e4, -1e4])
    torch.testing.assert_close(logistic_loss(T, T.flip(0)), torch.tensor([0.0, 2e4]), atol=0, rtol=0)


def test_diagnostics_of_a_critic() -> None:
    contrast = logistic_contrast(torch.tensor([11.0, 1.0, -1.0]), torch.tensor([-11.0, 2.0, -3.0]))
    report = contrast.diagnostics("critic")
    assert report["critic/accuracy"].tolist() == [1.0, 0.5, 0.5]
    assert report["critic/saturation"].tolist() == [1.0, 0.0, 0.0]
