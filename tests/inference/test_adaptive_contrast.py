"""The critic's known term in the tails."""

from __future__ import annotations

import torch

from advae.inference.adaptive_contrast import MAX_LOG_RATIO, MIN_LOG_RATIO, PosteriorCritic, clamp_log_ratio
from advae.inference.preconditioner import normal_log_prob


def test_samples_in_a_heavy_tail_are_not_pushed_outward() -> None:
    """For a Cauchy target and q equal to it, T + log r − log p is flat, also far from the normal r."""
    critic = PosteriorCritic(1, 8, 1)
    with torch.no_grad():
        critic.slope.fill_(1.0)
    u = torch.linspace(-12, 12, 49).unsqueeze(1).requires_grad_()
    log_p, log_r = -torch.log1p(u.square().squeeze(1)), normal_log_prob(u, torch.zeros(()))
    known = clamp_log_ratio(log_p - log_r)
    assert known.min() > MIN_LOG_RATIO and 60 < known.max() < MAX_LOG_RATIO, "no value is clamped"
    slope = torch.autograd.grad((critic(known, u) + log_r - log_p).sum(), u)[0]
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-5)


def test_non_finite_log_ratios_are_clamped() -> None:
    extreme = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e9, -1e9])
    low, high = MIN_LOG_RATIO, MAX_LOG_RATIO
    assert clamp_log_ratio(extreme).tolist() == [low, high, low, high, low]
