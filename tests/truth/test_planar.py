"""Planar layers: constraint, identity, and the equation of the inverse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from advae.distributions import HEADS
from advae.distributions.flow import Flow
from advae.distributions.planar import DELTA, constrain_u, solve_layer

double = pytest.mark.usefixtures("double")
B = 3


def extreme_parameters() -> tuple[Tensor, Tensor]:
    """Return random u and w ``[·, 5]`` of all lengths, also with u opposite to w, the least invertible case."""
    u, w = torch.randn(2000, 5), torch.randn(2000, 5)
    lengths = torch.logspace(-4, 2, 2000).unsqueeze(-1)
    against = -lengths.flip(0) * w
    zero = torch.zeros(2000, 5)
    pairs = [(u, w), (u * lengths, w), (u, w * lengths), (against, w), (-lengths * w, lengths * w), (u, zero)]
    us, ws = zip(*pairs, strict=True)
    return torch.cat(us), torch.cat(ws)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_layer_is_invertible(dtype: torch.dtype) -> None:
    """wᵀû > −1 for any output of the network, and the returned wᵀû is that of the returned û.

    To rounding: n + 2 roundings of numbers as large as |w||û| and wᵀu; without the constraint wᵀû would be below −1 by
    a number of order one. The value that the density uses is above the margin in both precisions.
    """
    u, w = (v.to(dtype) for v in extreme_parameters())
    u_hat, a = constrain_u(u, w)
    assert bool(torch.isfinite(u_hat).all())
    rounding = 10 * torch.finfo(dtype).eps * (1 + (w * u).sum(-1).abs() + w.norm(dim=-1) * u_hat.norm(dim=-1))
    dot = (w.double() * u_hat.double()).sum(-1)
    assert float((dot - a).abs().sub(rounding).max()) <= 0
    assert float((-1 - dot - rounding).max()) <= 0
    # The margin is added last, so it is exact to the rounding of numbers of order one.
    assert float(a.min()) >= -1 + DELTA - torch.finfo(dtype).eps
    assert float((w * u).sum(-1).min()) < -100, "the test needs u far outside the constraint"


@double
def test_layer_with_zero_u_is_the_identity() -> None:
    """To rounding."""
    head = HEADS.build({"name": "planar", "num_layers": 80}, event_shape=(3,))
    raw = torch.randn(B, head.num_params, 3)
    raw[:, 2:82] = 0
    q = head(lambda inputs: raw, torch.zeros(B, 1))
    assert isinstance(q, Flow)
    start = q.base.sample((5,))
    value, log_det = q.forward(start)
    torch.testing.assert_close(value, start, atol=1e-13, rtol=0)
    torch.testing.assert_close(log_det, torch.zeros(5, B), atol=1e-13, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_newton_steps_solve_the_layer_equation(dtype: torch.dtype) -> None:
    """t + a tanh t = r from the least invertible a to a steep one, from tiny to large r of both signs.

    The residual is a few roundings of its three terms; five are allowed.
    """
    a = torch.cat([-1 + DELTA + torch.logspace(-6, 0, 60), torch.logspace(-4, 4, 60)]).to(dtype)
    r = torch.cat([torch.zeros(1), torch.logspace(-8, 4.5, 300)]).to(dtype)
    for sign in (1, -1):
        r_, a_ = torch.meshgrid(sign * r, a, indexing="ij")
        t = solve_layer(r_, a_).double()
        a_tanh = a_.double() * torch.tanh(t)
        residual = (t + a_tanh - r_.double()).abs()
        terms = t.abs() + a_tanh.abs() + r_.double().abs()
        assert float((residual / terms.clamp_min(1e-300)).max()) < 5 * torch.finfo(dtype).eps


@double
def test_solution_has_the_gradient_of_the_implicit_function() -> None:
    """Compared with finite differences."""
    r = torch.tensor([-30.0, -1.0, -0.02, 0.01, 0.4, 3.0], requires_grad=True)
    a = torch.tensor([5.0, -0.9, 0.5, -0.99, 40.0, -0.3], requires_grad=True)
    assert torch.autograd.gradcheck(solve_layer, (r, a))
