"""R-hat, effective sample size and Pareto k-hat: known cases, and agreement with ArviZ."""

from __future__ import annotations

import math

import pytest
import torch

from advae.metrics.mcmc_diagnostics import effective_sample_size, pareto_k, split_rhat


def test_pareto_k_of_known_tails() -> None:
    """Weights u^(−k), u uniform, have a tail of shape k.

    One fit to a tail of 190 weights has a standard error of about (1 + k)/√190 ≤ 0.16, the mean of ten 0.05. The
    estimate is shrunk towards 0.5 as by ten observations.
    """
    for k in (0.3, 0.7, 1.2):
        estimates = torch.tensor([pareto_k(-k * torch.rand(4000).log()) for _ in range(10)])
        assert abs(float(estimates.mean()) - (190 * k + 5) / 200) < 3 * (1 + k) / math.sqrt(1900)


def test_pareto_k_without_a_tail() -> None:
    assert pareto_k(torch.zeros(100)) == -math.inf
    assert pareto_k(torch.tensor([0.0, math.nan] * 50)) == math.inf
    assert pareto_k(torch.full((100,), -math.inf)) == math.inf


def test_rhat_detects_shifted_and_scaled_chains() -> None:
    """A shift of one chain by δ of 1 in 4 gives B/n = 3/16 · 4/3 = 0.25, so R̂ = √1.25 = 1.12."""
    samples = torch.randn(4, 500, 3)
    assert float(split_rhat(samples).max()) < 1.02
    shifted, scaled = samples.clone(), samples.clone()
    shifted[0] += 1
    scaled[0] *= 3
    assert float(split_rhat(shifted).min()) > 1.05
    assert float(split_rhat(scaled).min()) > 1.05


def test_effective_sample_size_of_independent_samples_is_their_number() -> None:
    """Its relative error is of the order of the autocorrelations' 1/√2000, summed over a few lags."""
    ess = effective_sample_size(torch.randn(4, 500, 3))
    assert float(ess.min()) > 1200 and float(ess.max()) < 3500


def test_constant_coordinates() -> None:
    """A coordinate with one value everywhere agrees; one with a different constant per chain does not."""
    samples = torch.randn(4, 500, 3)
    samples[..., 1] = 1.0
    samples[..., 2] = torch.arange(4.0).unsqueeze(1)
    rhat = split_rhat(samples)
    assert float(rhat[0]) < 1.02 and float(rhat[1]) == 1 and not float(rhat[2]) < 1e3
    assert float(effective_sample_size(samples)[1]) == samples[..., 1].numel()


def test_agreement_with_arviz_stats() -> None:
    """The same formulas in another library; effective sample size and k-hat differ in details of truncation."""
    base = pytest.importorskip("arviz_stats.base")
    samples = torch.randn(4, 301, 1).double().cumsum(1) * 0.1 + torch.randn(4, 301, 1)
    array = samples[..., 0].numpy()
    assert float(split_rhat(samples)[0]) == pytest.approx(float(base.array_stats.rhat(array)), rel=1e-9)
    assert float(effective_sample_size(samples)[0]) == pytest.approx(
        float(base.array_stats.ess(array)), rel=0.05
    )
    log_w = (
        -0.6 * torch.rand(4000).double().log()
    )  # psislw takes log likelihoods: log weights with the sign changed
    assert pareto_k(log_w) == pytest.approx(float(base.array_stats.psislw(-log_w.numpy())[1]), abs=0.02)
