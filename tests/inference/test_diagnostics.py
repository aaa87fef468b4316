"""Diagnostics: no warning for an exact posterior, and the right warning for each constructed error.

The errors are made by hand, not by training, so that each has a known size. q = N(0, s² I) in place of N(0, I) in d = 2
dimensions has KL(q‖p) = s² − 1 − 2 log s, and weights p/q with an exact Pareto tail of shape k = 1 − s².
"""

from __future__ import annotations

import math
from copy import copy

import pytest
import torch

import advae
from advae.evaluation.estimate import EvaluationResult
from advae.inference.diagnostics import diagnose_agreement, diagnose_critic, diagnose_stein, diagnose_weights
from inference.targets import StandardNormal, rescaled

NARROW = 0.25  # standard deviation of the constructed q, where p has 1


def warnings(result: EvaluationResult) -> set[str]:
    return {remark.about for remark in result.remarks if remark.warning}


def test_an_exact_posterior_passes(exact_posterior: advae.Posterior, quick_annealing: None) -> None:
    result = copy(exact_posterior).check()
    assert not warnings(result), [remark.text for remark in result.remarks]
    assert all(criterion.passed for remark in result.remarks for criterion in remark.criteria)
    assert result.remarks[0].about == "posterior"


def test_a_narrow_posterior_fails(exact_posterior: advae.Posterior, quick_annealing: None) -> None:
    """s = 1/4: KL = 1.84 nats where 0.5 are tolerated, and k = 0.94 where 0.7 are.

    k-hat has a standard error of (1 + k)/√190 = 0.14 and is shrunk to 0.92; the larger one of two fits is above 0.7
    with probability 0.997. The evidence warns of the gap, or of few effective chains if annealing fails.
    """
    result = rescaled(exact_posterior, NARROW).check()
    assert warnings(result) == {"posterior", "Stein", "weights", "evidence"}
    elbo = torch.tensor([e.value for e in result if e.metric == "elbo"]).mean()
    kl = NARROW**2 - 1 - 2 * math.log(NARROW)
    assert abs(StandardNormal(2).evidence - float(elbo) - kl) < 0.1


def test_fits_that_differ_are_detected(exact_posterior: advae.Posterior) -> None:
    """A shift of one of two fits by a standard deviation: B/n = 0.33 of half chains, R-hat = 1.15; limit 1.05."""
    result = diagnose_agreement(rescaled(exact_posterior, 1.0, shift=1.0))
    assert warnings(result) == {"agreement"}
    rhat, elbo_range = result.remarks[0].criteria
    assert not rhat.passed and rhat.value > 1.1
    assert elbo_range.passed == (elbo_range.value <= elbo_range.threshold)


def test_a_single_fit_has_unknown_agreement(exact_posterior: advae.Posterior) -> None:
    target = StandardNormal(1)
    posterior = advae.infer(
        target.log_joint,
        target.parameters,
        family="mean-field",
        fits=1,
        steps=1,
        samples_per_step=8,
        quiet=True,
    )
    assert warnings(diagnose_agreement(posterior)) == {"agreement"}


def test_many_fits_can_be_rejected_by_the_stein_test() -> None:
    """The level is divided by the number of fits: with 999 bootstrap samples no p-value would reach it."""
    target = StandardNormal(2)
    posterior = advae.infer(
        target.log_joint,
        target.parameters,
        family="full-rank",
        steps=2,
        fits=11,
        samples_per_step=8,
        quiet=True,
    )
    result = diagnose_stein(rescaled(posterior, 3.0))
    assert warnings(result) == {"Stein"}
    assert not any(criterion.passed for criterion in result.remarks[0].criteria)


def test_wide_posteriors_have_bounded_weights(exact_posterior: advae.Posterior) -> None:
    """q wider than p: p/q is bounded, so k < 0."""
    assert not warnings(diagnose_weights(rescaled(exact_posterior, 1.5)))


def test_a_biased_critic_is_detected() -> None:
    """An implicit family that is exact, with a critic of T = 0, and the same critic with T = 3.

    T = 3 everywhere says 95 % from q, where half are: a calibration error of 0.45.
    """
    target = StandardNormal(2)
    posterior = advae.infer(
        target.log_joint,
        target.parameters,
        family="implicit",
        fits=2,
        steps=4,
        samples_per_step=32,
        hidden=(8,),
        critic_width=8,
        quiet=True,
    )
    trainer = posterior._fit.critic_trainer
    assert trainer is not None
    weights = trainer.critic.weights
    with torch.no_grad():
        for value in (v for name, v in weights.items() if name == "slope" or ".last." in name):
            value.zero_()
        assert not warnings(diagnose_critic(posterior))
        weights["residual.last.bias"].fill_(3.0)
        assert warnings(diagnose_critic(posterior)) == {"critic"}
        weights["residual.last.bias"].fill_(math.nan)
        assert warnings(diagnose_critic(posterior)) == {"critic"}


def test_families_with_a_density_have_no_critic(exact_posterior: advae.Posterior) -> None:
    assert not diagnose_critic(exact_posterior)


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode", "float64"])
def test_the_callers_modes_do_not_matter(
    mode: str, exact_posterior: advae.Posterior, quick_annealing: None
) -> None:
    expected = copy(exact_posterior).check()
    posterior = copy(exact_posterior)
    posterior._diagnostics = posterior._evidence = None
    if mode == "float64":
        torch.set_default_dtype(torch.float64)
    try:
        context = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}.get(
            mode, torch.enable_grad
        )
        with context():
            result = posterior.check()
    finally:
        torch.set_default_dtype(torch.float32)
    assert [e.value for e in result] == [e.value for e in expected]
