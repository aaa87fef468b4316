"""Adversarial autoencoder on a linear-Gaussian model, where q(z) is normal and its log ratio to p(z) is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advae.density_ratio import logistic_loss
from advae.evaluation.critics.critic_diagnostics import evaluate_critics
from advae.evaluation.eval_data import EvalData
from advae.methods.aae import AAE
from advae.networks.base import build_critic, critic_of_z
from evaluation.critics.critic_cases import IMAGES, assert_is, data_of, failed, only, with_critics
from truth.linear_gaussian import Exact, Gauss, Truth, make
from truth.sampling import assert_close, assert_sharp, batch_means, gradient

SIZE = 2048  # of each of 64 batches
GENERATORS = ("kl", "non-saturating", "minimax")

double = pytest.mark.usefixtures("double")
each_generator = pytest.mark.parametrize("generator", GENERATORS)


def log_ratio(t: Truth) -> Any:
    """T* = log q(z) − log p(z), as a critic that ignores its absent x."""
    return lambda x, z: t.q_z.log_prob(z) - t.prior.log_prob(z)


def divergence(generator: str, q: Gauss, p: Gauss) -> Tensor:
    """KL(q‖p), KL(q‖p) − 2 JSD or 2 JSD in one dimension, the latter by the trapezoidal rule on a fine grid."""
    z = torch.linspace(-12, 12, 4001)[:, None]
    log_q, log_p = q.log_prob(z), p.log_prob(z)
    log_m = torch.logaddexp(log_q, log_p) - math.log(2)
    two_jsd = torch.trapezoid(log_q.exp() * (log_q - log_m) + log_p.exp() * (log_p - log_m), z[:, 0])
    return {"kl": q.kl(p), "non-saturating": q.kl(p) - two_jsd, "minimax": two_jsd}[generator]


@double
@each_generator
@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_gradients_at_the_optimal_critic(generator: str, beta: float) -> None:
    """They are those of E[−log p(x|z)] + λ D(q(z), p(z)) in θ and in φ: what a fixed critic drops has mean zero."""
    model, data = make(n=1)
    truth = Truth(model, data)
    model.critics = nn.ModuleDict({"critic": Exact(log_ratio(truth.frozen()), 1)})
    parameters = [*model.decoder.parameters(), *model.encoder.parameters()]
    method = AAE(generator=generator, beta=beta)  # type: ignore[arg-type]

    def sample() -> Tensor:
        return gradient(method.losses(model, data.rsample(SIZE))["model"].mean(), parameters)

    objective = -truth.expected_log_p() + beta * divergence(generator, truth.q_z, truth.prior)
    exact = gradient(objective, parameters)
    estimate = batch_means(sample)
    assert_close(estimate, exact, generator)
    assert_sharp(estimate, exact, generator)


@double
@pytest.mark.parametrize("correlated", [False, True])
def test_value_with_the_kl_is_the_negative_elbo_less_the_information(correlated: bool) -> None:
    """KL(q(z|x)‖p(z)) = I_q(x; z) + KL(q(z)‖p(z)); for an encoder with a density or without one."""
    model, data = make(correlated)
    truth = Truth(model, data)
    model.critics = nn.ModuleDict({"critic": Exact(log_ratio(truth.frozen()), 2)})
    phi = list(model.encoder.parameters())

    def sample() -> Tensor:
        loss = AAE(generator="kl").losses(model, data.rsample(SIZE))["model"].mean()
        return torch.cat([loss[None], gradient(loss, phi)])

    exact = -truth.elbo() - truth.information()
    estimate = batch_means(sample)
    assert_close(estimate, torch.cat([exact[None], gradient(exact, phi)]).detach(), "kl")


@double
def test_critic_is_stationary_at_the_log_ratio() -> None:
    """In every direction of degree two in z: P is q(z) and Q is p(z), and neither is exchanged."""
    model, data = make()
    model.critics = nn.ModuleDict(
        {"critic": Exact(log_ratio(Truth(model, data).frozen()), 2, disturbed=True)}
    )

    def sample() -> Tensor:
        loss = AAE().losses(model, data.rsample(SIZE), ("critic",))["critic"].mean()
        return gradient(loss, [model.critics["critic"].alpha])

    estimate = batch_means(sample)
    assert_close(estimate, torch.zeros_like(estimate[0]), "slope")


def test_trained_critic_approaches_the_log_ratio() -> None:
    """A network trained by the method's loss for N(μ, s²) against N(0, 1), compared by its excess loss.

    The expected logistic loss of T exceeds that of T* by at most ⅛ E_{P+Q}[(T − T*)²]. Both are integrated by Gauss
    and Hermite's rule. The excess of a constant T, which knows nothing, is 2 JSD; a tenth of it is allowed.
    """
    model, data = make(n=1)
    model.encoder.bias.data += 1.0
    truth = Truth(model, data).frozen()
    model.critics["critic"] = build_critic({"name": "concat", "hidden": [32]}, "z", (1,), (1,))
    critic = model.critics["critic"]
    optimizer = torch.optim.Adam(critic.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        AAE().losses(model, data.rsample(256), ("critic",))["critic"].mean().backward()
        optimizer.step()
    node, weight = (torch.from_numpy(v).float() for v in np.polynomial.hermite_e.hermegauss(60))
    weight = weight / weight.sum()
    z_q, z_p = truth.q_z.mean + truth.q_z.cov.sqrt()[0] * node[:, None], node[:, None]
    exact = log_ratio(truth)

    def loss(T: Any) -> float:
        return float(weight @ logistic_loss(T(z_q), T(z_p)))

    with torch.no_grad():
        learned = loss(lambda z: critic_of_z(critic, z))
        best = loss(lambda z: exact(None, z))
    constant = 2 * math.log(2)
    assert constant - best > 0.1  # there is something to learn
    assert best - 1e-6 <= learned < best + 0.1 * (constant - best)


@pytest.mark.parametrize("right", [True, False])
def test_critic_report_compares_with_the_aggregate_posterior(right: bool) -> None:
    """The bound by the moments of q(z) is KL(q(z)‖p(z)) itself, as q(z) is normal; a constant critic violates it."""
    model, data = make()
    model.encoder.bias.data += 1.0
    truth = Truth(model, data).frozen()
    T = log_ratio(truth) if right else (lambda x, z: torch.zeros(len(z)))
    with_critics(model, AAE(), {"critic": T})
    x = data.rsample(2 * IMAGES)
    result = evaluate_critics(model, EvalData(data_of(x[:IMAGES], x[IMAGES:])))
    exact = float(truth.q_z.kl(truth.prior))
    assert_is(result.find("KL by aggregate posterior[critic]"), exact)
    assert not any("prior" in e.name for e in result)  # no KL(q(z|x)‖p(z)) is made from this critic
    if right:
        assert_is(result.find("claimed KL[critic]"), exact)
    assert failed(only(result)) == (set() if right else {"KL by aggregate posterior"})
