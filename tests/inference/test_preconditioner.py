"""Affine maps, and the preconditioner that is built from them."""

from __future__ import annotations

import torch

from advae.inference.preconditioner import AffineMap, diagonal_approximation, step_towards
from inference.targets import CorrelatedNormal


def test_inverse_and_log_volume(double: None) -> None:
    affine = AffineMap(torch.randn(2, 3), torch.randn(2, 3, 3).tril() + 3 * torch.eye(3))
    u = torch.randn(2, 5, 3)
    torch.testing.assert_close(affine.inverse(affine(u)), u)
    torch.testing.assert_close(affine.log_volume, torch.linalg.slogdet(affine.factor).logabsdet)


def test_moments_of_samples(double: None) -> None:
    affine = AffineMap(torch.randn(3), torch.randn(3, 3).tril() + 3 * torch.eye(3))
    fitted = AffineMap.from_samples(affine(torch.randn(1000, 3)))
    whitened = fitted.inverse(affine(torch.randn(100_000, 3)))
    assert float(whitened.mean(0).abs().max()) < 5 / 1000**0.5  # of the 1,000 samples of the fit
    assert float((whitened.std(0) - 1).abs().max()) < 5 / 2000**0.5


def test_a_full_step_reaches_a_normal_target_within_the_step_limits(double: None) -> None:
    """The regression is exact at a normal target, except for the ridge of 1e-3."""
    target = CorrelatedNormal(3)
    exact = AffineMap(target.mean.unsqueeze(0), torch.linalg.cholesky(target.cov).unsqueeze(0))
    shift = exact.factor @ torch.full((3, 1), 0.5)
    affine = AffineMap(exact.mean + shift.squeeze(-1), 1.2 * exact.factor)
    u = torch.randn(1, 50, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(target.log_joint(affine(u)[0]).sum(), u)
    after = step_towards(affine, grad, u.detach(), 1.0)
    torch.testing.assert_close(after.mean, exact.mean, atol=5e-3, rtol=5e-3)
    torch.testing.assert_close(after.factor @ after.factor.mT, target.cov.unsqueeze(0), atol=5e-3, rtol=5e-3)


def test_the_diagonal_approximation_keeps_precisions(double: None) -> None:
    affine = AffineMap(torch.randn(1, 3), torch.randn(1, 3, 3).tril() + 3 * torch.eye(3))
    precision = torch.linalg.inv(affine.factor @ affine.factor.mT).diagonal(dim1=-2, dim2=-1)
    diagonal = diagonal_approximation(affine).factor.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(diagonal.pow(-2), precision)
