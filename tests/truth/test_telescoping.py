"""Telescoped critics: log ratios of normals, and the waymarks and bridges that methods use."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advae.density_ratio import add_known_terms, interpolate_waymarks, logistic_contrast, telescoped_contrast
from advae.errors import ConfigError
from advae.methods import METHODS
from advae.model import LatentModel, build_model
from advae.networks.base import build_critic
from contract import parts

RHO = 0.98  # correlation of each pair of coordinates under P; under Q they are independent
PAIR_NATS = -0.5 * math.log(1 - RHO**2)


def features(x: Tensor) -> Tensor:
    """Sufficient statistics ``[B, 2]`` of every waymark, centered under Q, for ``x [B, 2n]``."""
    a, b = x.chunk(2, 1)
    n = a.shape[1]
    return torch.stack([((a + sign * b).square().sum(1) / 2 - n) / n**0.5 for sign in (-1, 1)], 1)


def best_weights(p: Tensor, q: Tensor) -> Tensor:
    """Return the weights ``[3]`` of the logistic regression of rows ``[n, 3]`` of P against rows of Q (Newton)."""
    w = torch.zeros(3, dtype=torch.float64)
    for _ in range(60):
        error_p, error_q = torch.sigmoid(-p @ w), torch.sigmoid(q @ w)
        hessian = sum((x.T * (e * (1 - e))) @ x for x, e in ((p, error_p), (q, error_q)))
        step = torch.linalg.solve(hessian + 1e-9 * torch.eye(3), q.T @ error_q - p.T @ error_p)
        w = w - step / (step.abs().max() / 10).clamp_min(1)
    return w


def estimated_kl(num_pairs: int, num_bridges: int, samples: int) -> float:
    """Return E_P of the log ratio by the best critic that is linear in the features, with its own weights per bridge.

    At P the features have mean ∓ρ√n. One critic of so many nats has no optimum: the samples can be separated.
    """
    torch.manual_seed(0)
    a, noise = torch.randn(2, samples, num_pairs, dtype=torch.float64)
    p = torch.cat([a, RHO * a + (1 - RHO**2) ** 0.5 * noise], 1)
    q = torch.randn(samples, 2 * num_pairs, dtype=torch.float64)
    chain = [features(x) for x in (p, *interpolate_waymarks(p, q, num_bridges), q)]
    means = torch.stack([torch.cat(pair).mean(0) for pair in pairwise(chain)])
    scales = torch.stack([torch.cat(pair).std(0) for pair in pairwise(chain)])

    def rows(f: Tensor, bridge: int) -> Tensor:
        return nn.functional.pad((f - means[bridge]) / scales[bridge], (0, 1), value=1.0)

    weights = torch.stack(
        [best_weights(rows(a, k), rows(b, k)) for k, (a, b) in enumerate(pairwise(chain))]
    ).requires_grad_()

    def critic(f: Tensor) -> Tensor:
        bridges = torch.stack([rows(f, k) @ weights[k] for k in range(num_bridges)], 1)
        return bridges if num_bridges > 1 else bridges[:, 0]

    if num_bridges > 1:
        loss = telescoped_contrast(lambda x: critic(features(x)), [p], [q]).loss.mean()
        (slope,) = torch.autograd.grad(loss, weights)
        assert (
            float(slope.abs().max()) < 1e-8
        )  # the optimum of the bridges is that of the telescoped contrast
    at_p = RHO * num_pairs**0.5 * torch.tensor([[-1.0, 1.0]], dtype=torch.float64)
    return float(critic(at_p).detach().sum())


@pytest.mark.parametrize(("num_pairs", "samples"), [(1, 80_000), (6, 40_000), (62, 20_000)], ids=str)
def test_bridges_add_up_to_the_kl(num_pairs: int, samples: int) -> None:
    """KLs of 1.6, 9.7 and 100 nats within 3 %, of which a single critic misses more than 30 % of the last.

    The errors for a quarter of the samples were up to 4, 4 and 2 % over three seeds; those of the mean fall with the
    root of their number.
    """
    kl = num_pairs * PAIR_NATS
    assert estimated_kl(num_pairs, 16, samples) == pytest.approx(kl, rel=0.03)
    if num_pairs == 62:
        assert estimated_kl(num_pairs, 1, samples) < 0.7 * kl


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


@pytest.mark.parametrize(
    ("name", "known", "role"),
    [("avb", "none", "critic"), ("ali", "none", "critic"), ("asvae", "marginals", "d_x")],
)
def test_methods_sum_the_bridges(name: str, known: str, role: str) -> None:
    """Losses per example, a gradient for every weight of the critic, and the model's loss by the sum."""
    method, model, x = telescoped_model(name, known=known)
    method.check(model)
    losses = method.losses(model, x)
    assert all(loss.shape == (5,) for loss in losses.values())
    gradients = torch.autograd.grad(losses[role].mean(), method.parameters(model, role), retain_graph=True)
    assert all(bool((g != 0).any()) for g in gradients)
    assert len(method.parameters(model, role)[-1]) == 3
    assert {f"{role}/bridge_{k}/saturation" for k in (1, 2, 3)} <= set(losses.diagnostics)
    if name == "avb":
        expected = losses.diagnostics["reconstruction"] + losses.diagnostics["critic/log_ratio_p"]
        torch.testing.assert_close(losses["model"].detach(), expected)


def test_bridges_where_they_have_no_meaning() -> None:
    for name, options in {"gan": {}, "aae": {}, "asvae": {"known": "f1"}}.items():
        method, model, _ = telescoped_model(name, **options)
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
