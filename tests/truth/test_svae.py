"""Gradients of the symmetric VAE at its optimal critic are those of the symmetric KL, on a linear-Gaussian model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from advae.errors import ConfigError
from advae.methods.svae import SVAE
from truth.linear_gaussian import Exact, Truth, make
from truth.sampling import assert_close, assert_sharp, batch_means, gradient
from truth.test_linear_gaussian import SIZE, ali_residual

pytestmark = pytest.mark.usefixtures("double")


def joint_kl(q: Truth, p: Truth) -> Tensor:
    """KL(q(x, z) ‖ p(x, z)) + KL(p(x, z) ‖ q(x, z)) of one model's encoder and another's decoder."""
    return q.q.kl(p.p) + p.p.kl(q.q)


def reconstruction(t: Truth) -> Tensor:
    return -t.expected_log_p() - t.expected_log_q(t.p)


def critic_alone(t: Truth) -> Tensor:
    """At λ = 0 φ follows the first KL and θ the second: each through its own samples."""
    frozen = t.frozen()
    first = t.q.kl(frozen.p) + frozen.p.kl(frozen.q)
    second = frozen.q.kl(frozen.p) + t.p.kl(frozen.q)
    return first + second - joint_kl(frozen, frozen)


CASES = {
    "λ = 1": (SVAE(), lambda t: joint_kl(t, t)),
    "λ = 1, known densities": (SVAE(known="densities"), lambda t: joint_kl(t, t)),
    "λ = 0": (SVAE(reconstruction=0.0), critic_alone),
    "λ = 0, known densities": (SVAE(known="densities", reconstruction=0.0), critic_alone),
    "sampled pairs": (
        SVAE(pairs="sampled", reconstruction=0.6),
        lambda t: critic_alone(t) + 0.6 * reconstruction(t),
    ),
}


@pytest.mark.parametrize(("method", "objective"), CASES.values(), ids=CASES)
def test_gradients_at_the_optimal_critic(method: SVAE, objective: object) -> None:
    """The value is the symmetric KL plus λ times the reconstruction terms, whose pairs need not move."""
    model, data = make()
    truth = Truth(model, data)
    known = method.known == "densities"
    model.critics = nn.ModuleDict({"critic": Exact(ali_residual(truth.frozen(), known), 4)})
    theta, phi = list(model.decoder.parameters()), list(model.encoder.parameters())

    def sample() -> Tensor:
        loss = method.losses(model, data.rsample(SIZE))["model"].mean()
        return torch.cat([loss[None], gradient(loss, theta), gradient(loss, phi)])

    exact = {
        "value": (joint_kl(truth, truth) + method.reconstruction * reconstruction(truth))[None],
        "θ": gradient(objective(truth), theta),  # type: ignore[operator]
        "φ": gradient(objective(truth), phi),  # type: ignore[operator]
    }
    mean, error = batch_means(sample)
    sizes = [len(part) for part in exact.values()]
    for (name, right), m, e in zip(exact.items(), mean.split(sizes), error.split(sizes), strict=True):
        assert_close((m, e), right.detach(), name)
        assert_sharp((m, e), right, name)


@pytest.mark.parametrize("known", ["densities", "none"])
def test_critic_is_stationary_at_its_optimum(known: str) -> None:
    model, data = make()
    residual = ali_residual(Truth(model, data).frozen(), known == "densities")
    model.critics = nn.ModuleDict({"critic": Exact(residual, 4, disturbed=True)})
    method = SVAE(known=known)  # type: ignore[arg-type]

    def sample() -> Tensor:
        loss = method.losses(model, data.rsample(SIZE))["critic"].mean()
        return gradient(loss, [model.critics["critic"].alpha])

    estimate = batch_means(sample)
    assert_close(estimate, torch.zeros_like(estimate[0]), "slope")


def test_diagnostics_have_their_closed_forms() -> None:
    model, data = make()
    truth = Truth(model, data)
    model.critics = nn.ModuleDict({"critic": Exact(ali_residual(truth.frozen(), False), 4)})

    def sample() -> Tensor:
        diagnostics = SVAE().losses(model, data.rsample(SIZE)).diagnostics
        keys = ("reconstruction", "z_reconstruction", "kl", "critic/log_ratio_p", "critic/log_ratio_q")
        return torch.stack([diagnostics[key].mean() for key in keys])

    exact = [-truth.expected_log_p(), -truth.expected_log_q(truth.p), truth.kl()]
    exact += [truth.q.kl(truth.p), -truth.p.kl(truth.q)]
    assert_close(batch_means(sample), torch.stack(exact).detach(), "diagnostics")


def test_negative_weights_are_an_error() -> None:
    with pytest.raises(ConfigError):
        SVAE(reconstruction=-1.0)
