"""Telescoped critics: log ratios of normals, and the waymarks and bridges that methods use."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from advae.density_ratio import add_known_terms, interpolate_waymarks, logistic_contrast, telescoped_contrast
from advae.errors import ConfigError
from advae.methods import METHODS
from advae.model import LatentModel, build_model
from advae.networks.base import build_critic, critic_of_x
from contract import parts

RHO = 0.98  # correlation of each pair of coordinates under P; under Q they are independent
PAIR_NATS = -0.5 * math.log(1 - RHO**2)


def features(x: Tensor) -> Tensor:
    """Sufficient statistics ``[B, 2]`` of every waymark, centered under Q, for ``x [B, 2n]``."""
    a, b = x.chunk(2, 1)
    n = a.shape[1]
    return torch.stack([((a + sign * b).square().sum(1) / 2 - n) / n**0.5 for sign in (-1, 1)], 1)


def estimated_kl(num_pairs: int, num_bridges: int, samples: int) -> float:
    """Return E_P of the log ratio that a linear critic of the features learns, with as many weights per bridge.

    The loss is convex and L-BFGS finds its minimum, so the errors are those of the samples. At P the features have mean
    ∓ρ√n.
    """
    torch.manual_seed(0)
    a, noise = torch.randn(2, samples, num_pairs)
    p, q = torch.cat([a, RHO * a + (1 - RHO**2) ** 0.5 * noise], 1), torch.randn(samples, 2 * num_pairs)
    spec = {"name": "concat", "hidden": [], "zero_init": True, "num_bridges": num_bridges}
    critic = build_critic(spec, "x", (2,), (0,))
    solver = torch.optim.LBFGS(critic.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = telescoped_contrast(lambda x: critic_of_x(critic, features(x)), [p], [q]).loss.mean()
        loss.backward()
        return loss

    solver.step(closure)
    with torch.no_grad():
        mean = RHO * num_pairs**0.5 * torch.tensor([[-1.0, 1.0]])
        return float(critic_of_x(critic, mean).sum())


@pytest.mark.slow
def test_bridges_add_up_to_the_kl() -> None:
    """For one pair of coordinates, 1.6 nats, where a single critic finds the KL as well, within 3 %."""
    for num_bridges in (1, 16):
        assert estimated_kl(1, num_bridges, 20_000) == pytest.approx(PAIR_NATS, rel=0.03)


def test_waymarks_keep_the_variance_and_are_symmetric() -> None:
    """(1 − a²) + a² = 1, so white noise stays white; from Q to P they are the same."""
    p, q = torch.randn(2, 50, 3, dtype=torch.float64)
    waymarks = interpolate_waymarks(p, q.requires_grad_(), 7)
    weights = torch.stack(
        [
            torch.linalg.lstsq(
                torch.stack([p.flatten(), q.detach().flatten()], 1), w.flatten()[:, None]
            ).solution[:, 0]
            for w in waymarks
        ]
    )
    torch.testing.assert_close(weights.square().sum(1), torch.ones(6, dtype=torch.float64))
    assert bool((weights[1:, 1] > weights[:-1, 1]).all()) and not any(w.requires_grad for w in waymarks)
    for forward, back in zip(waymarks, reversed(interpolate_waymarks(q, p, 7)), strict=True):
        torch.testing.assert_close(forward, back)


def test_each_bridge_contrasts_its_own_waymarks() -> None:
    """Loss, sum and diagnostics, for a critic whose bridge k returns (k + 1) x."""
    p, q, factors = torch.randn(9), torch.randn(9), torch.arange(1.0, 4.0)
    contrast = telescoped_contrast(lambda x: x[:, None] * factors, [p], [q])
    chain = [p, *interpolate_waymarks(p, q, 3), q]
    losses = [logistic_contrast((k + 1) * chain[k], (k + 1) * chain[k + 1]).loss for k in range(3)]
    torch.testing.assert_close(contrast.loss, losses[0] + losses[1] + losses[2])
    torch.testing.assert_close(contrast.log_ratio_p, 6 * p)
    torch.testing.assert_close(contrast.log_ratio_q, 6 * q)
    diagnostics = contrast.diagnostics("critic")
    assert torch.equal(diagnostics["critic/bridge_3/log_ratio_p"], 3 * chain[2])
    accuracy = 0.5 * ((chain[1] > 0).float() + (chain[2] < 0).float())
    assert torch.equal(diagnostics["critic/bridge_2/accuracy"], accuracy)


def telescoped_model(name: str, **options: Any) -> tuple[Any, LatentModel, Tensor]:
    method = METHODS.build({"name": name, **options})
    model = parts.model(method)
    assert model is not None and model.spec is not None
    spec = {**model.spec, "critic": {**model.spec["critic"], "num_bridges": 3}}
    model = build_model(spec, model.x_shape, method.critics)
    return method, model, parts.observations(model, 5)


@pytest.mark.parametrize("name", ["avb", "ali"])
def test_methods_sum_the_bridges(name: str) -> None:
    """Losses per example, a gradient for every weight of the critic, and the model's loss by the sum."""
    method, model, x = telescoped_model(name, known="none")
    method.check(model)
    losses = method.losses(model, x)
    assert all(loss.shape == (5,) for loss in losses.values())
    gradients = torch.autograd.grad(
        losses["critic"].mean(), method.parameters(model, "critic"), retain_graph=True
    )
    assert all(bool((g != 0).any()) for g in gradients)
    assert len(method.parameters(model, "critic")[-1]) == 3
    assert {f"critic/bridge_{k}/saturation" for k in (1, 2, 3)} <= set(losses.diagnostics)
    if name == "avb":
        expected = losses.diagnostics["reconstruction"] + losses.diagnostics["critic/log_ratio_p"]
        torch.testing.assert_close(losses["model"].detach(), expected)


def test_bridges_where_they_have_no_meaning() -> None:
    for name in ("gan", "aae"):
        method, model, _ = telescoped_model(name)
        with pytest.raises(ConfigError, match="bridges"):
            method.check(model)
    method, model, x = telescoped_model("avb", known="densities")
    with pytest.raises(ConfigError, match="known"):
        method.losses(model, x)
    with pytest.raises(ConfigError, match="num_bridges"):
        build_critic({"name": "dcgan", "num_bridges": 0}, "x", (1, 8, 8), (0,))
    assert torch.equal(add_known_terms(torch.ones(2), 1.0), torch.full((2,), 2.0))


@pytest.mark.parametrize("name", ["concat", "residual", "conv", "bavae", "projection"])
def test_critics_with_bridges(name: str) -> None:
    critic = parts.critic(name, (1, 8, 8), (3,), num_bridges=4)
    assert critic(torch.randn(5, 1, 8, 8), torch.randn(5, 3)).shape == (5, 4)
