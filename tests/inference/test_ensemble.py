"""Ensembles: equal to their members one by one, and without influence on each other."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from advae.inference.ensemble import ModuleEnsemble
from advae.inference.families import make_family
from advae.inference.infer_options import FAMILIES, InferOptions
from advae.networks.mlp import ResidualCritic


def test_an_ensemble_equals_its_copies() -> None:
    copies: list[nn.Module] = []

    def make() -> nn.Module:
        copies.append(ResidualCritic((1,), (3,), width=8))
        return copies[-1]

    ensemble = ModuleEnsemble(make, 3)
    x, z = torch.randn(3, 5, 1), torch.randn(3, 5, 3)
    alone = torch.stack([copy(a, b) for copy, a, b in zip(copies, x, z, strict=True)])
    torch.testing.assert_close(ensemble(x, z), alone)
    assert ensemble.num_weights() == sum(p.numel() for p in copies[0].parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_of_one_fit_has_no_gradient_for_others(family: str) -> None:
    options = InferOptions.from_dict({"family": family, "hidden": (8, 8)})
    ensemble = ModuleEnsemble(make_family(options, 3), 2)
    u = ensemble(n=4)[0]
    grads = torch.autograd.grad(u[0].square().sum(), ensemble.parameters(), allow_unused=True)
    assert any(g is not None and bool(g[0].abs().sum() > 0) for g in grads)
    assert all(g is None or not bool(g[1].abs().sum() > 0) for g in grads)
