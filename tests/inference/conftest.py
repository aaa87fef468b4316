"""Fixtures of the inference tests."""

from __future__ import annotations

import pytest

import advae
from advae.inference import posterior as posterior_module
from inference.targets import SHORT_AIS, StandardNormal


@pytest.fixture
def quick_annealing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anneal briefly by default, for tests that need no precise evidence."""
    monkeypatch.setattr(posterior_module, "DEFAULT_AIS", SHORT_AIS)


@pytest.fixture(scope="session")
def exact_posterior() -> advae.Posterior:
    """The normal family on a standard normal in 2 dimensions: q is exact. Tests that change it use a copy."""
    target = StandardNormal(2)
    return advae.infer(
        target.log_joint,
        target.parameters,
        family="full-rank",
        initial_power=1.0,  # the preconditioner is then exact, and the fit starts there
        steps=1,
        fits=2,
        samples_per_step=32,
        quiet=True,
    )
