"""The start as probabilistic PCA: the encoder is the exact posterior of the decoder, whatever the likelihood's form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from advae.errors import ConfigError
from advae.model import LatentModel, build_model
from advae.networks.principal_components import principal_components
from advae.training.data_start import start_from_components

N, DIM, RANK = 4000, 12, 3
NORMAL = {"name": "normal", "variance": "shared"}
MLP = {"name": "mlp", "hidden": [16]}


def examples(noise: float = 0.3) -> torch.Tensor:
    """Return examples ``[N, DIM]`` of a factor model with RANK factors."""
    generator = torch.Generator().manual_seed(0)
    loadings = torch.randn(RANK, DIM, generator=generator, dtype=torch.float64)
    factors = torch.randn(N, RANK, generator=generator, dtype=torch.float64)
    return 5 + factors @ loadings + noise * torch.randn(N, DIM, generator=generator, dtype=torch.float64)


def started_model(x: torch.Tensor, d: int = RANK, **parts: Any) -> LatentModel:
    spec = {
        "latent_dim": d,
        "encoder": MLP,
        "decoder": MLP,
        "posterior": {"name": "normal"},
        "likelihood": NORMAL,
    }
    spec |= {"critic": {"name": "concat"}, "skip": "linear"}
    model = build_model(spec | parts, x.shape[1:])
    start_from_components(model, principal_components(x, d, d))
    return model


@pytest.mark.parametrize("variance", ["shared", "feature", "pixel"])
def test_bound_is_tight_at_the_start(variance: str) -> None:
    """log p(x|z) + log p(z) − log q(z|x) is log p(x) at every z: the density of N(μ, U (Λ − σ²) Uᵀ + σ² I)."""
    x = examples()
    model = started_model(x, likelihood={"name": "normal", "variance": variance})
    components = principal_components(x, RANK, RANK)
    low_rank = components.axes * (components.variances - components.residual)
    covariance = low_rank @ components.axes.T + components.residual * torch.eye(DIM)
    exact = torch.distributions.MultivariateNormal(components.mean, covariance).log_prob(x[:50])
    with torch.no_grad():
        q = model.encode(x[:50].float())
        z = q.sample((20,))
        log_joint = model.decode(z.reshape(-1, RANK)).log_prob(x[:50].float().repeat(20, 1)).reshape(20, 50)
        bound = log_joint + model.prior.log_prob(z) - q.log_prob(z)
    # Each of the two densities has terms of about 30 nats in float32, whose epsilon is 1.2e-7.
    torch.testing.assert_close(bound.double(), exact.expand(20, 50), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "posterior",
    [
        {"name": "implicit", "noise_dim": 8},
        {"name": "noise-basis", "num_basis": 4, "noise_dim": 8, "hidden": [16], "smoothing_std": 0.5},
    ],
)
def test_implicit_posteriors_start_with_the_moments_of_the_exact_one(posterior: dict[str, Any]) -> None:
    x = examples()
    exact = started_model(x).encode(x[:5].float())
    torch.manual_seed(0)
    q = started_model(x, posterior=posterior).encode(x[:5].float())
    count = 20_000
    with torch.no_grad():
        z = q.sample((count,))
        std = exact.scale
    # Five standard errors of a mean; of a standard deviation, 1/√(2n) for a normal. A noise basis also starts with
    # its own mean, and with a scale from 4,096 samples, whose relative standard error is at most 1/√(2·4096).
    offset = 0.0 if posterior["name"] == "implicit" else math.inf
    if not offset:
        assert ((z.mean(0) - exact.mean).abs() < 5 * std / math.sqrt(count)).all()
    relative = 5 / math.sqrt(2 * count) + (5 / math.sqrt(2 * 4096) if offset else 0)
    assert ((z.std(0) / std - 1).abs() < relative).all()


def test_dimension_explains_the_variance() -> None:
    x = examples(noise=0.01)
    assert len(principal_components(x, 1, 8, explained=0.99).variances) == RANK
    assert len(principal_components(x, 5, 8, explained=0.99).variances) == 5
    assert len(principal_components(x, 1, 2, explained=0.99).variances) == 2


def test_residual_is_that_of_new_examples() -> None:
    """With as many axes as there are fitted examples nothing is left of these, but noise is left of others."""
    noise = torch.randn(20, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    components = principal_components(noise, 15, 15)
    assert 0.8 < components.residual < 1.2  # 1 − 15/200 in expectation


def test_components_beyond_the_rank_are_those_of_the_prior() -> None:
    x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = started_model(torch.cat([x, x], 1), d=6)
    with torch.no_grad():
        q = model.encode(torch.cat([x, x], 1)[:4].float())
    torch.testing.assert_close(q.mean[:, 4:], torch.zeros(4, 2))
    torch.testing.assert_close(q.scale[:, 4:], torch.ones(4, 2), rtol=1e-3, atol=0)
    assert q.mean.isfinite().all()


def test_networks_learn_from_the_start() -> None:
    x = examples().float()
    model = started_model(examples())
    q = model.encode(x[:64])
    loss = -model.decode(q.rsample()).log_prob(x[:64]).mean() + q.kl_to_standard().mean()
    loss.backward()
    for network in (model.encoder.network, model.decoder.network):
        assert network.mixing.grad.abs().sum() > 0
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in network.network.parameters())


def test_squashed_means_cannot_start_linear() -> None:
    with pytest.raises(ConfigError):
        started_model(examples(), likelihood={"name": "normal", "variance": "shared", "squash": "sigmoid"})
