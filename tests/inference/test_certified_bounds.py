"""Certified ELBO of the implicit families, on a normal target and with families that are normal."""

from __future__ import annotations

from copy import copy
from dataclasses import replace

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

import advae
from advae.evaluation.estimate import EvaluationResult
from advae.evaluation.eval_config import AISConfig
from advae.inference.certified_bounds import certify_elbo
from advae.inference.diagnostics import diagnose_elbo
from inference.targets import LOG_Z, CorrelatedNormal

FITS, LATENTS = 2, 32
CONFIG = AISConfig(chains=2, temperatures=40, schedule="linear", init="prior", leapfrog_steps=3)


def fit(family: str) -> advae.Posterior:
    target = CorrelatedNormal(2)
    return advae.infer(
        target.log_joint,
        target.parameters,
        family=family,
        initial_power=1.0,
        steps=1,
        fits=FITS,
        samples_per_step=32,
        dtype="float64",
        quiet=True,
    )


@pytest.fixture(scope="module")
def normal_fit() -> advae.Posterior:
    """The implicit family as a normal, far from the target in the first of two fits."""
    posterior = fit("implicit")
    weights = posterior._fit.ema_weights
    for name, weight in weights.items():
        if name.startswith("network"):
            weight.zero_()
    weights["linear"][0] *= 0.5
    weights["mean"][0] += 0.7
    return posterior


def exact_elbos(posterior: advae.Posterior) -> list[float]:
    target, affine, weights = CorrelatedNormal(2), posterior._fit.affine, posterior._fit.ema_weights
    p = MultivariateNormal(target.mean, target.cov)
    means = affine(weights["mean"].unsqueeze(1)).squeeze(1)
    factors = affine.factor @ weights["linear"]
    return [
        LOG_Z - float(kl_divergence(MultivariateNormal(m, L @ L.T), p))
        for m, L in zip(means, factors, strict=True)
    ]


def test_bounds_enclose_the_exact_elbo(normal_fit: advae.Posterior) -> None:
    """Each holds in expectation."""
    result = certify_elbo(normal_fit._fit, CONFIG, LATENTS)
    for i, exact in enumerate(exact_elbos(normal_fit)):
        low, high = (result.find(f"elbo-certified {bound}[fit {i}]") for bound in ("lower", "upper"))
        assert low.value < exact + 4 * low.stderr and exact < high.value + 4 * high.stderr
        assert low.value < LOG_Z + 4 * low.stderr
        assert high.value - low.value < 3
    assert exact_elbos(normal_fit)[0] < LOG_Z - 0.5


@pytest.mark.parametrize("shift", [0.0, 30.0])
def test_claims_outside_the_bounds_are_a_warning(
    normal_fit: advae.Posterior, shift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    certified = certify_elbo(normal_fit._fit, CONFIG, LATENTS)
    posterior = copy(normal_fit)
    elbos = [
        replace(normal_fit.elbo()[i], value=e + shift, stderr=0.0)
        for i, e in enumerate(exact_elbos(normal_fit))
    ]
    monkeypatch.setattr(posterior, "elbo", lambda: EvaluationResult(elbos))
    (remark,) = diagnose_elbo(posterior, certified).remarks
    assert remark.warning == bool(shift)
    assert sum(not criterion.passed for criterion in remark.criteria) == (FITS if shift else 0)


@pytest.mark.parametrize("family", ["implicit", "noise-basis"])
def test_samples_are_the_same_function_of_given_noise(family: str) -> None:
    q = fit(family)._fit.q
    noise = torch.randn(FITS, 5, q.template.noise_dim, dtype=torch.float64)
    (u,), (again,) = q(noise, n=5), q(noise.flip(1), n=5)
    assert u.shape == (FITS, 5, 2) and torch.allclose(u, again.flip(1))
    (more,) = q(torch.randn(FITS, 4000, q.template.noise_dim, dtype=torch.float64), n=4000)
    (own,) = q(n=4000)
    assert torch.allclose(more.mean(1), own.mean(1), atol=0.15) and torch.allclose(
        more.std(1), own.std(1), rtol=0.15
    )


def test_families_with_a_density_need_no_certificate(exact_posterior: advae.Posterior) -> None:
    assert exact_posterior.certified_elbo() == diagnose_elbo(exact_posterior, EvaluationResult()) == []
