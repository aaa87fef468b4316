"""Conjugate models against their closed forms: right only if the constraints' Jacobians are.

Annealing from a fitted normal is unbiased for the evidence, and its standard error is known: four of them. Chains of
Hamiltonian Monte Carlo are worth the effective size that they say: five standard errors of a mean, and of a standard
deviation. Without the log determinant the posterior of lam would be Gamma(5, ·) in place of Gamma(6, ·), a sixth less
in the mean, or 0.4 standard deviations, and that of p Beta(8, 15).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

import advae
from advae.inference.evidence import Annealed
from advae.inference.hmc_reference import HMC, hmc
from advae.inference.parameters import Space
from advae.inference.target import Target
from inference.targets import Conjugate, beta_binomial, normal_unknown

MODELS = pytest.mark.parametrize("model", [beta_binomial, normal_unknown], ids=lambda f: f.__name__)
SHORT, CHAINS = (
    Annealed(chains=128, temperatures=50, leapfrogs=3),
    HMC(chains=32, warmup=120, draws=60, thin=2),
)


def fitted(model: Conjugate) -> advae.Posterior:
    """A quick fit."""
    return advae.infer(
        model.log_joint, model.parameters, family="full-rank", steps=150, fits=2, dtype="float64", quiet=True
    )


@MODELS
def test_evidence_and_bound(model: Callable[[], Conjugate]) -> None:
    known = model()
    posterior = fitted(known)
    evidence = posterior.log_evidence(SHORT)
    assert evidence.kind == "lower bound"
    assert abs(evidence.value - known.evidence) < 4 * evidence.stderr < 0.2
    for bound in posterior.bounds():  # a normal over the unconstrained numbers comes close, and stays below
        assert known.evidence - 0.15 < bound.value < known.evidence + 4 * bound.stderr


@MODELS
def test_chains_have_the_moments(model: Callable[[], Conjugate]) -> None:
    known = model()
    space = Space(known.parameters)
    found = hmc(Target(known.log_joint, space, dtype=torch.float64), CHAINS, seed=3)
    assert found.rhat < 1.05
    values = space.constrained(found.z.flatten(0, 1))[0]
    for name, mean in known.mean.items():
        sd = known.sd[name]
        assert abs(float(values[name].mean()) - mean) < 5 * sd / math.sqrt(found.ess)
        assert abs(float(values[name].std()) / sd - 1) < 5 * math.sqrt(1 / found.ess)


def test_chains_that_begin_where_there_is_no_density_begin_elsewhere() -> None:
    """A unit normal below 1 and not a number above, where a third of the chains would begin and stay."""

    def below_one(a: torch.Tensor) -> torch.Tensor:
        return -0.5 * a.square() + 0 * (1 - a).sqrt()

    found = hmc(Target(below_one, Space({"a": ()}), dtype=torch.float64), CHAINS, seed=4)
    assert bool((found.z < 1).all()) and found.rhat < 1.05
    hazard = math.exp(-0.5) / math.sqrt(2 * math.pi) / (0.5 + 0.5 * math.erf(math.sqrt(0.5)))
    mean, sd = -hazard, math.sqrt(1 - hazard - hazard**2)
    assert abs(float(found.z.mean()) - mean) < 5 * sd / math.sqrt(found.ess)
    assert abs(float(found.z.std()) / sd - 1) < 5 * math.sqrt(1 / found.ess)


def test_a_missing_jacobian_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    known, right = normal_unknown(), Space.constrained

    def wrong(self: Space, z: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        values, log_det = right(self, z)
        return values, 0 * log_det

    monkeypatch.setattr(Space, "constrained", wrong)
    evidence = fitted(known).log_evidence(SHORT)
    assert abs(evidence.value - known.evidence) > 4 * evidence.stderr
