"""Evidence and ELBO of conjugate models against closed forms, which hold only with the constraints' Jacobians.

Annealing from a fitted normal is unbiased for the evidence, with a known standard error; the tolerance is four of them.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import advae
from advae.errors import ConfigError
from advae.evaluation.eval_config import AISConfig
from advae.inference.evidence import estimate_log_evidence, log_mean_weight
from advae.inference.parameters import ParameterSpace
from inference.targets import Conjugate, beta_binomial, normal_gamma

CONFIG = AISConfig(chains=128, temperatures=50, leapfrog_steps=3)


def fit(model: Conjugate) -> advae.Posterior:
    return advae.infer(
        model.log_joint,
        model.parameters,
        family="full-rank",
        steps=100,
        fits=2,
        samples_per_step=64,
        dtype="float64",
        quiet=True,
    )


@pytest.mark.parametrize("model", [beta_binomial, normal_gamma], ids=lambda f: f.__name__)
def test_evidence_and_elbo(model: Callable[[], Conjugate]) -> None:
    """The ELBO is below the evidence by KL(q‖p): a normal in unconstrained coordinates comes within 0.15 nats."""
    known = model()
    posterior = fit(known)
    evidence = posterior.log_evidence(CONFIG)
    assert evidence.kind == "lower bound"
    assert abs(evidence.value - known.evidence) < 4 * evidence.stderr < 0.2
    for elbo in posterior.elbo():
        assert known.evidence - 0.15 - 4 * elbo.stderr < elbo.value < known.evidence + 4 * elbo.stderr


def test_a_missing_jacobian_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    known, constrain = normal_gamma(), ParameterSpace.constrain

    def without_jacobian(
        self: ParameterSpace, z: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        values, log_det = constrain(self, z)
        return values, 0 * log_det

    monkeypatch.setattr(ParameterSpace, "constrain", without_jacobian)
    evidence = fit(known).log_evidence(CONFIG)
    assert abs(evidence.value - known.evidence) > 4 * evidence.stderr


def test_only_a_full_normal_can_be_the_start(exact_posterior: advae.Posterior) -> None:
    z = exact_posterior.sample_unconstrained(10).flatten(0, 1)
    with pytest.raises(ConfigError):
        estimate_log_evidence(exact_posterior.target, z, AISConfig(init="prior"))


def test_mean_of_equal_weights() -> None:
    value, stderr, ess = log_mean_weight(torch.full((8,), -3.0))
    assert value == pytest.approx(-3.0) and stderr == 0 and ess == pytest.approx(8)
