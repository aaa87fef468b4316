"""Variational families: their start near N(0, I), and their densities."""

from __future__ import annotations

import pytest
import torch

from advae.inference.ensemble import ModuleEnsemble
from advae.inference.families import make_family
from advae.inference.infer_options import FAMILIES, InferOptions


@pytest.mark.parametrize("family", FAMILIES)
def test_families_begin_near_the_standard_normal(family: str) -> None:
    """The noise basis is standardized by 2,000 samples: its moments have errors of 1/√2000 = 0.022, 4 of them 0.09.

    The networks of the others begin near zero, and 20,000 samples add 0.007, 4 of them 0.03.
    """
    options = InferOptions.from_dict({"family": family})
    u = ModuleEnsemble(make_family(options, 4), 2)(n=20_000)[0].detach()
    assert float(u.mean(1).abs().max()) < 0.12
    assert float((u.std(1) - 1).abs().max()) < 0.12


@pytest.mark.parametrize("family", ["mean-field", "full-rank", "flow"])
def test_densities_integrate_to_one(family: str, double: None) -> None:
    """For random weights: E_q[f/q] is the integral of f, here of a normal; within 5 standard errors."""
    ensemble = ModuleEnsemble(make_family(InferOptions.from_dict({"family": family, "hidden": (8,)}), 2), 1)
    with torch.no_grad():
        for weight in ensemble.weights.values():
            weight.add_(0.1 * torch.randn_like(weight))
        u, log_q = ensemble(n=20_000)
        narrow = torch.distributions.Normal(0.0, 0.5).log_prob(u).sum(-1)
        ratio = (narrow - log_q).exp()
    assert abs(float(ratio.mean()) - 1) < 5 * float(ratio.std()) / 20_000**0.5
