"""What the critic is told, where the target and its normal part ways."""

from __future__ import annotations

import torch

from advae.inference.critic import FAR, LOWEST, Critic, held
from advae.inference.families import normal_log_prob


def test_nothing_is_gained_by_going_further_out_in_a_heavy_tail() -> None:
    """A Cauchy target and q at it: T + log r − log p is flat, however far the draws are from the normal r."""
    critic = Critic(1, 8, 1)
    with torch.no_grad():
        critic.share.fill_(1.0)
    u = torch.linspace(-12, 12, 49).unsqueeze(1).requires_grad_()
    log_p, log_r = -torch.log1p(u.square().squeeze(1)), normal_log_prob(u, torch.zeros(()))
    known = held(log_p - log_r)
    assert known.min() > LOWEST and 60 < known.max() < FAR, "the case is one"
    slope = torch.autograd.grad((critic(known, u) + log_r - log_p).sum(), u)[0]
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-5)


def test_what_overflows_is_held() -> None:
    wild = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e9, -1e9])
    assert held(wild).tolist() == [LOWEST, FAR, LOWEST, FAR, LOWEST]
