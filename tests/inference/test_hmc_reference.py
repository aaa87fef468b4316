"""Hamiltonian Monte Carlo against closed forms.

The standard error of a mean follows from the effective sample size; the tolerance is five of them, also for standard
deviations. Without the log determinant the posterior of lam would be Gamma(5, ·) in place of Gamma(6, ·), an error of
0.4 standard deviations in the mean, and that of p Beta(8, 15).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from advae.errors import NotFiniteError
from advae.inference.hmc_reference import HMCConfig, sample_hmc
from advae.inference.parameters import ParameterSpace
from advae.inference.target import Target
from inference.targets import Conjugate, beta_binomial, normal_gamma

CONFIG = HMCConfig(chains=32, warmup=100, samples=40, thin=2)


@pytest.mark.parametrize("model", [beta_binomial, normal_gamma], ids=lambda f: f.__name__)
def test_moments_of_conjugate_models(model: Callable[[], Conjugate]) -> None:
    known = model()
    space = ParameterSpace(known.parameters)
    hmc = sample_hmc(Target(known.log_joint, space, dtype=torch.float64), CONFIG, seed=3)
    assert hmc.rhat < 1.05
    values = space.constrain(hmc.z.flatten(0, 1))[0]
    for name, mean in known.mean.items():
        sd = known.sd[name]
        assert abs(float(values[name].mean()) - mean) < 5 * sd / math.sqrt(hmc.ess)
        assert abs(float(values[name].std()) / sd - 1) < 5 * math.sqrt(1 / hmc.ess)


def test_chains_that_start_outside_the_support_are_moved() -> None:
    """Unit normal truncated at 1 and NaN above, where a third of the chains would start and stay."""

    def below_one(a: Tensor) -> Tensor:
        return -0.5 * a.square() + 0 * (1 - a).sqrt()

    hmc = sample_hmc(Target(below_one, ParameterSpace({"a": ()}), dtype=torch.float64), CONFIG, seed=4)
    assert bool((hmc.z < 1).all()) and hmc.rhat < 1.05
    hazard = math.exp(-0.5) / math.sqrt(2 * math.pi) / (0.5 + 0.5 * math.erf(math.sqrt(0.5)))
    mean, sd = -hazard, math.sqrt(1 - hazard - hazard**2)
    assert abs(float(hmc.z.mean()) - mean) < 5 * sd / math.sqrt(hmc.ess)
    assert abs(float(hmc.z.std()) / sd - 1) < 5 * math.sqrt(1 / hmc.ess)


def test_a_density_that_is_finite_nowhere() -> None:
    target = Target(lambda a: (-1 - a.square()).log(), ParameterSpace({"a": ()}))
    with pytest.raises(NotFiniteError):
        sample_hmc(target, CONFIG)
