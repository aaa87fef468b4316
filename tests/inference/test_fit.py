"""Normal targets: mean, covariance and log evidence, for every family.

The targets have a condition number of 100 and means up to 16 standard deviations from the fits' starts.

Tolerances. The gradient of the normal families has no noise at a normal target, so that they are exact. Only the
samples for the comparison matter: with N = 8,000, a mean has an error of 1/√N = 0.011 standard deviations and a
standard deviation of 1/√(2N) = 0.008; EXACT is four of the former. The other families keep the noise of their last
steps. Over several seeds for each of them and d up to 50, the largest error was 0.06, half of CLOSE, and the ELBO was
within 0.04 nats. Too few steps, or a wrong Jacobian, contrast or entropy, give larger errors (see the broken versions
below).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import advae
from advae.inference.adaptive_contrast import GaussianContrast
from inference.targets import LOG_Z, CorrelatedNormal, StandardNormal, rescaled

NUM_SAMPLES = 8000
SMALL: dict[str, Any] = {
    "fits": 2,
    "hidden": (32, 32),
    "critic_width": 32,
    "samples_per_step": 128,
    "lr": 3e-3,
    "quiet": True,
}
EXACT, CLOSE = 0.045, 0.12
CASES = [
    *(("full-rank", d, 150, EXACT) for d in (2, 10, 50)),
    *(("mean-field", d, 150, EXACT) for d in (2, 10, 50)),
    *((family, 2, 100, CLOSE) for family in ("flow", "implicit", "noise-basis")),
    *((family, 20, 150, CLOSE) for family in ("flow", "implicit", "noise-basis")),
]


def moment_errors(posterior: advae.Posterior, target: CorrelatedNormal) -> tuple[float, float, float]:
    """Return the largest errors of means and standard deviations, in standard deviations, and of correlations."""
    x = posterior.sample(NUM_SAMPLES * posterior.fits, chains=True)["x"].double()
    sd = target.cov.diagonal().sqrt()
    mean_error = float(((x.mean(1) - target.mean) / sd).abs().max())
    sd_error = float((x.std(1) / sd - 1).abs().max())
    correlations = torch.stack([torch.corrcoef(fit.T) for fit in x])
    return mean_error, sd_error, float((correlations - target.cov / sd.outer(sd)).abs().max())


@pytest.mark.parametrize(("family", "d", "steps", "tolerance"), CASES, ids=str)
def test_moments_and_elbo(family: str, d: int, steps: int, tolerance: float) -> None:
    target = CorrelatedNormal(d, diagonal=family == "mean-field")
    posterior = advae.infer(target.log_joint, target.parameters, family=family, steps=steps, seed=1, **SMALL)
    assert max(moment_errors(posterior, target)) < tolerance
    # The ELBO is below the evidence by KL(q‖p); an error of a tenth in every standard deviation costs d/100 nats.
    for elbo in posterior.elbo():
        assert abs(elbo.value - LOG_Z) < 0.05 + (0 if tolerance == EXACT else 0.015 * d)


def test_small_batches_still_have_a_full_covariance() -> None:
    """8 samples in 30 dimensions would give a singular r: a step takes four samples per dimension.

    The fit starts at the target (power 1); with a singular r it leaves it.
    """
    target = StandardNormal(30)
    posterior = advae.infer(
        target.log_joint,
        target.parameters,
        steps=100,
        seed=1,
        initial_power=1.0,
        **{**SMALL, "samples_per_step": 8},
    )
    assert posterior._fit.samples_per_step == 120
    sd = posterior.sample(NUM_SAMPLES * posterior.fits, chains=True)["x"].std(1)
    assert float((sd - 1).abs().max()) < CLOSE
    assert all(abs(elbo.value - target.evidence) < 0.05 + 0.015 * 30 for elbo in posterior.elbo())


def test_a_wrong_log_volume_of_the_contrast_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of the entropy through the samples is right, but the ELBO is not.

    The preconditioner fits a power of 0.3 of the target, so that q has standard deviations of √0.3 in u, and a log
    volume of 0.5 d log 0.3 = −1.2 nats for d = 2.
    """
    target, whiten = CorrelatedNormal(2), GaussianContrast.whiten

    def wrong(self: GaussianContrast, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        whitened, log_r = whiten(self, u)
        return whitened, log_r + self.log_volume.unsqueeze(-1)

    monkeypatch.setattr(GaussianContrast, "whiten", wrong)
    posterior = advae.infer(target.log_joint, target.parameters, steps=100, seed=1, **SMALL)
    assert all(abs(elbo.value - LOG_Z) > 0.2 for elbo in posterior.elbo())


def test_an_error_of_a_tenth_is_detected() -> None:
    """The tolerance of the exact families tells scales of 1 and 1.1 apart."""
    target = CorrelatedNormal(10)
    options = {**SMALL, "family": "full-rank", "initial_power": 1.0, "steps": 1}
    posterior = advae.infer(target.log_joint, target.parameters, seed=1, **options)
    assert moment_errors(posterior, target)[1] < EXACT
    assert moment_errors(rescaled(posterior, 1.1), target)[1] > EXACT
