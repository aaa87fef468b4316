"""Normal targets: mean, covariance and log evidence, for every family that can represent them.

The targets have a condition number of 100 and means up to 16 standard deviations from where fits begin.

Tolerances. For the normals the gradient has no noise at a normal target, so they are exact but for the draws that they
are read off by: with N = 8,000 draws a mean errs by 1/√N = 0.011 standard deviations and a standard deviation by
1/√(2N) = 0.008; the largest of 50 coordinates of two fits lies within four of these. The other families keep the noise
of their last steps, at a tenth of a standard deviation at most; a draw of too few steps, or a wrong Jacobian, contrast
or entropy, is off by much more (see the broken versions below).
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import advae
from advae.inference import adaptive_contrast as contrast
from inference.targets import LOG_Z, Gaussian

DRAWS = 8000
SMALL: dict[str, Any] = {"fits": 2, "hidden": (32, 32), "critic_width": 32, "batch": 128, "quiet": True}
EXACT, CLOSE = 0.045, 0.12
CASES = [
    *(("full-rank", d, 150, EXACT) for d in (2, 10, 50)),
    *(("mean-field", d, 150, EXACT) for d in (2, 10, 50)),
    *(("implicit", d, steps, CLOSE) for d, steps in ((2, 200), (10, 250), (50, 450))),
    *(("flow", d, 200, CLOSE) for d in (2, 10, 50)),
    *(("noise-basis", d, steps, CLOSE) for d, steps in ((2, 250), (10, 250), (50, 450))),
]


def off(posterior: advae.Posterior, target: Gaussian) -> tuple[float, float, float]:
    """The largest errors: of a mean and of a standard deviation in units of the latter, of a correlation."""
    x = posterior.sample(DRAWS * posterior.fits, chains=True)["x"].double()
    sd = target.cov.diagonal().sqrt()
    mean = float(((x.mean(1) - target.mean) / sd).abs().max())
    deviation = float((x.std(1) / sd - 1).abs().max())
    exact = target.cov / sd.outer(sd)
    found = torch.stack([torch.corrcoef(one.T) for one in x])
    return mean, deviation, float((found - exact).abs().max())


@pytest.mark.parametrize(("family", "d", "steps", "most"), CASES, ids=str)
def test_moments_and_bound(family: str, d: int, steps: int, most: float) -> None:
    target = Gaussian(d, diagonal=family == "mean-field")
    posterior = advae.infer(target.log_joint, target.parameters, family=family, steps=steps, seed=1, **SMALL)
    mean, deviation, correlation = off(posterior, target)
    assert mean < most
    assert deviation < most
    assert correlation < most
    # A bound lies below the evidence by KL(q‖p); an error of a tenth in every standard deviation costs d/100 nats.
    for bound in posterior.bounds():
        assert abs(bound.value - LOG_Z) < 0.05 + (0 if most == EXACT else 0.015 * d)


def test_a_small_batch_in_many_dimensions_still_has_a_covariance() -> None:
    """32 draws in 60 dimensions would leave r flat; unit normals, so that nothing else is hard."""
    posterior = advae.infer(
        lambda x: -0.5 * x.square().sum(-1), {"x": (60,)}, steps=500, seed=1, **{**SMALL, "batch": 32}
    )
    deviations = posterior.sample(DRAWS * posterior.fits, chains=True)["x"].std(1)
    assert float((deviations - 1).abs().max()) < CLOSE
    exact = 60 * 0.5 * math.log(2 * math.pi)
    assert all(abs(bound.value - exact) < 0.05 + 0.015 * 60 for bound in posterior.bounds())


def test_a_contrast_that_forgets_the_covariance_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with a wrong log volume in r: the entropy's gradient through the draws is right, the bound is not."""
    target, right = Gaussian(10), contrast.Normals.standardised

    def wrong(self: contrast.Normals, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        bar, log_r = right(self, u)
        return bar, log_r + self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1, keepdim=True)

    monkeypatch.setattr(contrast.Normals, "standardised", wrong)
    posterior = advae.infer(target.log_joint, target.parameters, steps=250, seed=1, **SMALL)
    assert all(abs(bound.value - LOG_Z) > 0.2 for bound in posterior.bounds())


def test_draws_scaled_by_a_tenth_more_are_seen() -> None:
    """What the tolerances tell apart."""
    target = Gaussian(10)
    posterior = advae.infer(
        target.log_joint, target.parameters, family="full-rank", steps=150, seed=1, **SMALL
    )
    place = posterior._fit.place
    posterior._fit.place = type(place)(place.mean, 1.1 * place.factor)
    assert off(posterior, target)[1] > EXACT
