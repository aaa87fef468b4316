"""Adversarial methods without an encoder: their losses and gradients in closed form."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advae.data import DataOptions, load_data
from advae.density_ratio import input_gradient, zero_centered_penalty
from advae.distributions import Distribution
from advae.distributions.implicit import ImplicitSampler
from advae.errors import ConfigError
from advae.methods import METHODS, Method
from advae.methods.wgan import interpolate
from advae.model import LatentModel, build_model
from advae.networks import CRITICS
from advae.networks.base import NullNetwork, critic_of_x
from advae.training.validation import Validation
from contract import parts

LOG_2 = math.log(2)


class Given(nn.Module):
    """A generator whose samples are given points plus ``shift``, independent of z."""

    def __init__(self, points: Tensor, shift: float = 0.0) -> None:
        super().__init__()
        self.points, self.shift = points, nn.Parameter(torch.tensor(shift, dtype=points.dtype))

    def forward(self, z: Tensor) -> Distribution:
        return ImplicitSampler(
            lambda n: (self.points + self.shift)[None], len(self.points), self.points.shape[1:]
        )


class Function(nn.Module):
    """A critic given as a function of x alone."""

    def __init__(self, f: Any) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        assert z.shape == (len(x), 0)
        return self.f(x)


class Linear(nn.Module):
    """``f(x) = w·x + b``."""

    def __init__(self, w: Tensor, b: float = 0.7) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(w), nn.Parameter(torch.tensor(b))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return x @ self.w + self.b


def model_of(points: Tensor, critic: nn.Module, shift: float = 0.0) -> LatentModel:
    """A model without an encoder whose samples are the given points."""
    null = NullNetwork((1,), (1,))
    encoder = nn.Module()
    encoder.network = null
    return LatentModel(
        encoder, Given(points, shift), x_shape=points.shape[1:], latent_dim=1, critics={"critic": critic}
    )


def method(name: str, **options: Any) -> Method:
    built: Method = METHODS.build({"name": name, **options})
    return built


def tiny(method: Method, norm: str = "none", x_shape: tuple[int, ...] = (1, 16, 16)) -> LatentModel:
    """DCGAN of width 2, at three scales."""
    spec = {
        "latent_dim": 3,
        "encoder": {"name": "none"},
        "posterior": {"name": "normal"},
        "decoder": {"name": "dcgan-generator", "base_channels": 2},
        "likelihood": {"name": "implicit", "noise_dim": 0, "squash": "sigmoid"},
        "critic": {"name": "dcgan", "base_channels": 2, "norm": norm},
    }
    return build_model(spec, x_shape, method.critics)


# --- gan ----------------------------------------------------------------------------------------------------


def test_loss_at_the_optimal_critic_is_the_jensen_shannon_divergence() -> None:
    """(6), for discrete distributions in eighths, which a batch of eight represents exactly.

    The divergence is H(m) − ½ H(q) − ½ H(p). Critics are evaluated in float32: 1e-6 of a nat.
    """
    q, p = torch.tensor([1, 2, 5]) / 8, torch.tensor([4, 3, 1]) / 8
    entropy = [float(-(d * d.log()).sum()) for d in ((q + p) / 2, q, p)]
    divergence = entropy[0] - 0.5 * (entropy[1] + entropy[2])
    x, x_p = (torch.arange(3).repeat_interleave((8 * d).long())[:, None].float() for d in (q, p))
    best = (q / p).log()
    model = model_of(x_p, Function(lambda x: best[x[:, 0].long()]))
    losses = method("gan").losses(model, x)
    assert float(losses["critic"].mean()) == pytest.approx(2 * LOG_2 - 2 * divergence, abs=1e-6)
    assert divergence > 0.1  # the two are distinguishable
    accuracy = 0.5 * (q[best > 0].sum() + p[best < 0].sum())
    assert float(losses.diagnostics["critic/accuracy"].mean()) == pytest.approx(float(accuracy), abs=1e-6)
    assert float(losses.diagnostics["critic/log_ratio_p"].mean()) == pytest.approx(
        float((q * best).sum()), abs=1e-6
    )


SHIFT, MEAN = -0.4, 0.9  # the generator's N(SHIFT, 1), and data of N(MEAN, 1)


def divergences(theta: Tensor) -> tuple[Tensor, Tensor]:
    """KL(N(θ, 1)‖N(MEAN, 1)), and the Jensen–Shannon divergence of the two by the trapezoidal rule on a fine grid."""
    grid = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    log_p, log_q = (-0.5 * (grid - mean) ** 2 - 0.5 * math.log(2 * math.pi) for mean in (theta, MEAN))
    log_m = torch.logaddexp(log_p, log_q) - LOG_2
    js = 0.5 * torch.trapezoid(log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m), grid)
    return 0.5 * (theta - MEAN) ** 2, js


@pytest.mark.parametrize("generator", ["non-saturating", "minimax"])
def test_generator_gradient_at_the_optimal_critic(generator: str) -> None:
    """(1) has that of 2 JSD, and the non-saturating loss that of KL(p‖q) − 2 JSD.

    The latter by Arjovsky and Bottou (2017), theorem 2.5. Expectations over the generator's normal are by
    Gauss–Hermite quadrature, whose error is far below that of float32 critics, 1e-6.
    """
    node, weight = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(120))
    weight = weight / weight.sum()
    best = Function(
        lambda x: (MEAN - SHIFT) * x[:, 0] - 0.5 * (MEAN**2 - SHIFT**2)
    )  # log q − log p at θ = SHIFT
    model = model_of(node[:, None], best, SHIFT)
    loss = weight @ method("gan", generator=generator).losses(model, node[:, None])["model"].double()
    (gradient,) = torch.autograd.grad(loss, model.decoder.parameters())
    theta = torch.tensor(SHIFT, dtype=torch.float64, requires_grad=True)
    kl, js = divergences(theta)
    exact = 2 * js if generator == "minimax" else kl - 2 * js
    (slope,) = torch.autograd.grad(exact, theta)
    assert float(gradient) == pytest.approx(float(slope), abs=1e-6)
    assert abs(float(slope)) > 0.1


@pytest.mark.parametrize("name", ["gan", "wgan-gp"])
def test_data_and_samples_pass_the_critic_separately(name: str) -> None:
    """Batch statistics are never of both: every pass has one side, or points between them."""
    passes: list[Tensor] = []

    def record(x: Tensor) -> Tensor:
        passes.append(x.detach())
        return x.sum(1)

    x, x_p = torch.full((6, 2), 1.0), torch.full((6, 2), -1.0)
    method(name).losses(model_of(x_p, Function(record)), x)
    assert all(len(batch) == 6 for batch in passes)
    constant = [bool((batch == batch[0, 0]).all() and batch.abs().eq(1).all()) for batch in passes]
    assert sum(constant) == 2 and len(passes) == (2 if name == "gan" else 3)


# --- R1 and R2 ------------------------------------------------------------------------------------------------


def test_zero_centered_penalty_of_a_linear_and_a_quadratic_critic() -> None:
    """``∇(w·x) = w`` and ``∇½‖x‖² = x``, also where gradients are off; the critic's parameters alone have gradients."""
    p, q, w = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3), torch.tensor([3.0, 0.0, 4.0])
    linear = Linear(w)
    critic = partial(critic_of_x, linear)
    penalty = zero_centered_penalty(critic, [p], [q], 0.1)
    torch.testing.assert_close(penalty, torch.full((5,), 0.1 * 25))
    (gradient,) = torch.autograd.grad(penalty.mean(), [linear.w], retain_graph=True)
    torch.testing.assert_close(gradient, 2 * 0.1 * w)
    assert torch.autograd.grad(penalty.mean(), [p], allow_unused=True) == (None,)
    with torch.no_grad():
        bowl = zero_centered_penalty(lambda x, z: 0.5 * (x**2).sum(1) + 2 * z[:, 0], [p, q], [q, p], 1.0)
    torch.testing.assert_close(bowl, 0.5 * (p.square().sum(1) + 4 + q.square().sum(1) + 4))


@pytest.mark.parametrize("name", ["gan", "ali"])
def test_penalty_changes_the_loss_of_the_critic_only(name: str) -> None:
    plain = method(name)
    penalized = replace(plain, gradient_penalty=2.0)
    model = parts.model(plain)
    assert model is not None
    x, runs = parts.observations(model, 4), []
    for options in (plain, penalized):
        torch.manual_seed(0)
        runs.append(options.losses(model, x))
    torch.testing.assert_close(runs[0]["model"], runs[1]["model"], rtol=0, atol=0)
    assert bool((runs[1]["critic"] > runs[0]["critic"]).all())
    torch.manual_seed(0)
    partial_losses = penalized.losses(model, x, ("critic",))
    torch.testing.assert_close(partial_losses["critic"], runs[1]["critic"])


def test_penalty_of_invalid_critics_and_weights() -> None:
    with pytest.raises(ConfigError, match="batch normalization"):
        method("gan", gradient_penalty=1.0).check(tiny(method("gan"), norm="batch"))
    for name in ("gan", "ali"):
        with pytest.raises(ConfigError, match="gradient_penalty"):
            method(name, gradient_penalty=-1.0)


# --- wgan-gp ------------------------------------------------------------------------------------------------


def test_gradient_penalty_of_a_linear_critic() -> None:
    """(‖w‖ − 1)² for every pair, the loss w·(x_p − x) + λ (‖w‖ − 1)², and both gradients in closed form."""
    w, weight = torch.tensor([1.5, -2.0, 0.3]), 7.0
    x, x_p = torch.randn(5, 3), torch.randn(5, 3)
    model = model_of(x_p, Linear(w.clone()), 0.25)
    losses = method("wgan-gp", penalty=weight).losses(model, x)
    norm, apart = w.norm(), (x_p + 0.25 - x) @ w
    torch.testing.assert_close(losses.diagnostics["critic/slope"], norm.expand(5))
    torch.testing.assert_close(losses["critic"], apart + weight * (norm - 1) ** 2)
    torch.testing.assert_close(losses.diagnostics["critic/distance"], -apart)
    torch.testing.assert_close(losses.diagnostics["critic/accuracy"], (apart < 0).float())
    gradients = torch.autograd.grad(
        losses["critic"].mean(), list(model.critics.parameters()), retain_graph=True
    )
    exact = (x_p + 0.25 - x).mean(0) + 2 * weight * (norm - 1) * w / norm  # by double backward
    torch.testing.assert_close(gradients[0], exact)
    assert float(gradients[1]) == pytest.approx(0, abs=1e-6)  # the constant has no effect
    (theta,) = torch.autograd.grad(losses["model"].mean(), list(model.decoder.parameters()))
    assert float(theta) == pytest.approx(-float(w.sum()), abs=1e-5)  # −∇f, along the shift of all coordinates


def test_constant_critic_has_a_penalty_and_finite_gradients() -> None:
    model = model_of(torch.randn(4, 2), Linear(torch.zeros(2)))
    loss = method("wgan-gp").losses(model, torch.randn(4, 2))["critic"]
    torch.testing.assert_close(loss, torch.full((4,), 10.0))
    grads = torch.autograd.grad(loss.mean(), list(model.critics.parameters()))
    assert all(bool(g.isfinite().all()) for g in grads)


def test_penalty_is_between_each_pair() -> None:
    """One uniform ε per pair: x̂ − x_p = ε (x − x_p) in every coordinate; the slope of f = ½‖x‖² is ‖x̂‖.

    The mean of n = 40,000 uniform numbers lies within 5 standard errors, 5/√(12 n), of ½; their mean square, of
    variance 4/45, of ⅓.
    """
    n = 40_000
    x, x_p = torch.randn(n, 2, 3), torch.randn(n, 2, 3)
    x_hat = interpolate(x.requires_grad_(), x_p)
    epsilon = ((x_hat - x_p) / (x - x_p)).flatten(1).detach()
    torch.testing.assert_close(
        epsilon.median(1, keepdim=True).values.expand(n, 6), epsilon, atol=1e-2, rtol=1e-2
    )
    middle = epsilon.median(1).values
    assert middle.min() >= 0 and middle.max() <= 1
    assert abs(middle.mean() - 0.5) < 5 / math.sqrt(12 * n)
    assert abs(middle.square().mean() - 1 / 3) < 5 * math.sqrt(4 / 45 / n)
    assert not x_hat.requires_grad
    bowl = Function(lambda x: 0.5 * x.flatten(1).square().sum(1))
    torch.testing.assert_close(input_gradient(partial(critic_of_x, bowl), x_hat), x_hat.flatten(1))


def test_trained_critic_estimates_the_wasserstein_distance() -> None:
    """Between N(s, 1) and N(0, 1) it is s; the slope exceeds 1 by what the penalty allows.

    A linear critic's expected loss is −w s + λ (|w| − 1)², with a minimum at w = 1 + s/2λ = 1.1; another one has
    negative w, so training starts at a positive w. Adam with a decaying learning rate ends at the optimum of the last
    batches, 1 + (x̄ − x̄_p)/2λ: within 5 standard deviations √(2/B)/2λ of that. The
    distance divided by the slope is the difference of the means on fresh data, within 5 standard errors √(2/n) of s.
    """
    s, weight, batch, n, steps = 2.0, 10.0, 256, 20_000, 400
    critic = CRITICS.build({"name": "concat", "hidden": []}, x_shape=(1,), z_shape=(0,))
    nn.init.constant_(critic.body[-1].weight, 0.3)
    options = method("wgan-gp", penalty=weight)
    solver = torch.optim.Adam(critic.parameters(), lr=0.05, betas=(0.0, 0.9))
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(solver, steps)
    for _ in range(steps):
        model = model_of(torch.randn(batch, 1), critic)
        solver.zero_grad()
        options.losses(model, s + torch.randn(batch, 1), ("critic",))["critic"].mean().backward()
        solver.step()
        decay.step()
    diagnostics = options.losses(model_of(torch.randn(n, 1), critic), s + torch.randn(n, 1)).diagnostics
    slope = float(diagnostics["critic/slope"].mean())
    assert abs(slope - (1 + s / (2 * weight))) < 5 * math.sqrt(2 / batch) / (2 * weight)
    assert abs(float(diagnostics["critic/distance"].mean()) / slope - s) < 5 * math.sqrt(2 / n)


@pytest.mark.parametrize("name", ["gan", "wgan-gp"])
def test_validation_has_the_diagnostics_of_training(name: str) -> None:
    """Also without gradients and with frozen weights; there is no validation error."""
    data = load_data(DataOptions(source="digits", preprocessing="dequantize"))
    model = tiny(method(name), x_shape=data.x_shape).eval()
    x = data.preprocessing.apply(data.validation.raw(torch.arange(40)))
    torch.manual_seed(1)
    with_gradients = method(name).losses(model, x).diagnostics
    model.requires_grad_(False)
    with torch.no_grad():
        torch.manual_seed(1)
        without = method(name).losses(model, x).diagnostics
    assert set(with_gradients) == set(without)
    for key, value in with_gradients.items():
        torch.testing.assert_close(without[key], value)
    metrics = Validation(data, 0, torch.device("cpu"))(model, method(name))
    assert set(metrics) == set(without) and all(math.isfinite(value) for value in metrics.values())


def test_gradient_penalty_refuses_batch_normalization() -> None:
    method("gan").check(tiny(method("gan"), norm="batch"))
    for norm in ("none", "layer", "spectral"):
        method("wgan-gp").check(tiny(method("wgan-gp"), norm=norm))
    with pytest.raises(ConfigError, match="batch normalization"):
        method("wgan-gp").check(tiny(method("wgan-gp"), norm="batch"))
    with pytest.raises(ConfigError, match="penalty"):
        method("wgan-gp", penalty=0)
