"""Fits run in one batch are the fits one by one, and do not touch each other."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from advae.inference.ensemble import Stack
from advae.inference.families import maker
from advae.inference.infer_options import FAMILIES, InferOptions
from advae.networks.residual_mlp import ResidualCritic


def test_a_stack_is_its_copies() -> None:
    copies: list[nn.Module] = []

    def make() -> nn.Module:
        copies.append(ResidualCritic((1,), (3,), width=8, blocks=2))
        return copies[-1]

    stack = Stack(make, 3)
    x, z = torch.randn(3, 5, 1), torch.randn(3, 5, 3)
    alone = torch.stack([copy(a, b) for copy, a, b in zip(copies, x, z, strict=True)])
    torch.testing.assert_close(stack(x, z), alone)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fits_loss_moves_its_own_weights_only(family: str) -> None:
    options = InferOptions(family=family, hidden=(8, 8))  # type: ignore[arg-type]
    stack = Stack(maker(options, 3), 2)
    u = stack(n=4)[0]
    grads = torch.autograd.grad(u[0].square().sum(), stack.parameters(), allow_unused=True)
    assert any(g is not None and bool(g[0].abs().sum() > 0) for g in grads)
    assert all(g is None or not bool(g[1].abs().sum() > 0) for g in grads)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_begins_near_the_standard_normal(family: str) -> None:
    """The noise basis is standardised by 2,000 draws: its moments err by 1/√2000 = 0.022, and by 4 of them at most."""
    stack = Stack(maker(InferOptions(family=family), 4), 2)  # type: ignore[arg-type]
    u = stack(n=20_000)[0]
    assert float(u.mean(1).abs().max()) < 0.12
    assert float((u.std(1) - 1).abs().max()) < 0.12


@pytest.mark.parametrize("family", ["mean-field", "full-rank", "flow"])
def test_densities_are_right(family: str, double: None) -> None:
    """Of changed weights: E_q[f/q] over draws is the integral of f, here of a normal, within 5 standard errors."""
    stack = Stack(maker(InferOptions(family=family, hidden=(8,)), 2), 1)  # type: ignore[arg-type]
    with torch.no_grad():
        for weight in stack.weights.values():
            weight.add_(0.1 * torch.randn_like(weight))
        u, log_q = stack(n=20_000)
        narrow = torch.distributions.Normal(0.0, 0.5).log_prob(u).sum(-1)
        ratio = (narrow - log_q).exp()
    assert abs(float(ratio.mean()) - 1) < 5 * float(ratio.std()) / 20_000**0.5
