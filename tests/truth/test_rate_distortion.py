"""Rate-distortion curves against the closed form of a linear decoder.

x̂ = W z, z ~ N(0, I), d = ‖x − x̂‖²:  q_β = N(m, P⁻¹) with P = I + 2β WᵀW and m = 2β P⁻¹ Wᵀx

log Z_β = −½ log |P| − β ‖x‖² + ½ mᵀ P m
D_β     = ‖x − W m‖² + tr(WᵀW P⁻¹)
Var d   = 4 rᵀ W P⁻¹ Wᵀ r + 2 tr((WᵀW P⁻¹)²),   r = x − W m
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from advae.distributions.implicit import ImplicitHead, ImplicitSampler
from advae.errors import ConfigError, NoDensityError, UnsupportedError
from advae.evaluation.eval_config import AISConfig
from advae.evaluation.eval_data import EvalData
from advae.evaluation.evaluate import evaluate
from advae.evaluation.likelihood.annealing import AnnealingPath, WeightTrace, anneal, make_temperatures
from advae.evaluation.likelihood.rate_distortion import (
    RateDistortion,
    RateDistortionAnnealer,
    rate_distortion,
    rates_at,
)
from advae.evaluation.resumable import PartialResult
from advae.model import Conditional, LatentModel
from advae.networks.base import NullNetwork
from evaluation.toy import D, N, data_of, exact, toy_model, weights
from truth.sampling import SIGMAS

IMAGES = 40
CONFIG = AISConfig(chains=8, temperatures=60, leapfrog_steps=3)


class Linear(nn.Module):
    """The toy decoder's ``W z`` without a density; its last ``noise_dim`` latents may come as noise."""

    def __init__(self, W: Tensor) -> None:
        super().__init__()
        self.W = nn.Parameter(W)

    def forward(self, z: Tensor, noise: Tensor | None = None) -> Tensor:
        return (torch.cat([z] if noise is None else [z, noise], 1) @ self.W.T).unsqueeze(1)


def implicit_model(noise_dim: int) -> LatentModel:
    """The toy model with an implicit decoder, of which the last ``noise_dim`` latents are its noise."""
    model = toy_model(1.0)
    decoder = Conditional(Linear(weights(model)), ImplicitHead((N,), noise_dim=noise_dim))
    return LatentModel(model.encoder, decoder, x_shape=(N,), latent_dim=D - noise_dim)


@dataclass(frozen=True)
class Truth:
    """Closed forms ``[b, K]`` for examples ``x [b, n]`` at ``beta [K]``."""

    log_z: Tensor
    distortion: Tensor
    variance: Tensor

    @classmethod
    def of(cls, W: Tensor, x: Tensor, beta: Tensor) -> Truth:
        columns = []
        for b in beta.double():
            P = torch.eye(W.shape[1]).double() + 2 * b * W.T @ W
            S = W.T @ W @ torch.linalg.inv(P)
            m = torch.linalg.solve(P, 2 * b * (x @ W).T).T
            r = x - m @ W.T
            log_z = -0.5 * torch.logdet(P) - b * x.square().sum(1) + 0.5 * ((m @ P) * m).sum(1)
            spread = ((r @ W) @ torch.linalg.inv(P) * (r @ W)).sum(1)
            columns.append((log_z, r.square().sum(1) + S.trace(), 4 * spread + 2 * (S @ S).trace()))
        return cls(*(torch.stack(column, 1) for column in zip(*columns, strict=True)))


def mean_and_error(values: Tensor) -> tuple[float, float]:
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


@pytest.mark.parametrize("noise_dim", [None, 0, 1], ids=["density", "implicit", "noise"])
def test_curve_of_a_linear_decoder(noise_dim: int | None) -> None:
    """Log Ẑ is below log Z_β by g = E[log Z − log Ẑ] ≥ 0, which is at least KL(q̂ ‖ q_β).

    By Donsker and Varadhan |E D̂ − D| ≤ (g + log E exp(λ(d − D))) / λ for every λ, in q_β. With λ = √(2g / Var d) that
    is √(2g Var d) if d is normal; a factor 1.5 covers the skewness at small g. Everything is per example and averaged,
    with 4 standard errors of the paired difference.
    """
    model = toy_model(1.0) if noise_dim is None else implicit_model(noise_dim)
    data = EvalData(data_of(toy_model(1.0)), limit=IMAGES)
    result = rate_distortion(model, data, CONFIG)
    curve = result[0].per_example
    x = data.data.test.raw(range(IMAGES)).double()
    beta = curve["beta"] / N
    truth = Truth.of(weights(toy_model(1.0)).double(), x, beta)
    distortion, rate = N * curve["distortion"].double(), curve["rate"].double()
    log_z = -rate - beta * distortion
    assert len(beta) > 40 and float(beta[0]) == 0 and 2 < float(rate[:, -1].mean()) < 8
    assert float((rate[:, 0]).abs().max()) == 0
    for k in range(0, len(beta), 5):
        deficit, error = mean_and_error(truth.log_z[:, k] - log_z[:, k])
        assert -SIGMAS * error - 1e-5 < deficit < 0.2 + SIGMAS * error, k
        shift, error = mean_and_error(distortion[:, k] - truth.distortion[:, k])
        gap = max(deficit, 0.0) + SIGMAS * mean_and_error(truth.log_z[:, k] - log_z[:, k])[1]
        bound = 1.5 * math.sqrt(2 * gap * float(truth.variance[:, k].mean()))
        assert abs(shift) < SIGMAS * error + bound * (k > 0), k


def make_annealer(chains: int, noise_dim: int = 0) -> RateDistortionAnnealer:
    config = AISConfig(chains, 100, init="prior", schedule="geometric", leapfrog_steps=3)
    data = EvalData(data_of(toy_model(1.0)), limit=IMAGES)
    return RateDistortionAnnealer(implicit_model(noise_dim), data, config, max_beta=2.0)


@pytest.mark.parametrize("level", [50, 100])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_weights_of_generated_examples_are_unbiased_on_both_sides(level: int, reverse: bool) -> None:
    """E[w] = Z_β forward, and E[1/w] = 1/Z_β in reverse from the sample that an example was generated from."""
    examples, chains = 400, 4
    annealer = make_annealer(chains)
    x, z = annealer.generate(examples, level, 0)
    betas = annealer.betas[: level + 1]
    path = annealer.make_path(x)(chains, level)
    u = path.whiten(z.repeat(chains, 1)) if reverse else path.sample_initial()
    step = torch.full((len(u), 1), 0.15)
    log_w, _ = anneal(path, u, betas[::-1] if reverse else betas, lambda beta: step, 6)
    beta = torch.tensor([annealer.max_beta * betas[-1]])
    log_z = Truth.of(weights(toy_model(1.0)).double(), x.double(), beta).log_z[:, 0]
    ratio = (log_w.reshape(chains, -1) + (log_z if reverse else -log_z)).exp().mean(0)
    mean, error = mean_and_error(ratio)
    assert error < 0.1
    assert abs(mean - 1) < SIGMAS * error, (mean, error)


def test_density_as_distortion_gives_the_marginal_likelihood() -> None:
    """At β = 1 the estimate is that of annealing from the prior: a lower bound on the exact log p(x)."""
    model = toy_model(1.0)
    data = EvalData(data_of(model), limit=IMAGES)
    config = AISConfig(8, 60, leapfrog_steps=3)
    result = rate_distortion(model, data, config, distortion="nll")
    estimate, curve = result.find("rate-distortion log p(x)"), result[0].per_example
    log_p = exact(model, data.data.test.raw(range(IMAGES))).double()
    deficit, error = mean_and_error(log_p - estimate.per_example["value"])
    assert error < 0.1 and -SIGMAS * error < deficit < 0.2 + SIGMAS * error
    k = int((curve["beta"] - 1).abs().argmin())
    assert float(curve["beta"][k]) == pytest.approx(1)
    value = -(curve["rate"] + curve["distortion"])[:, k]
    torch.testing.assert_close(value, estimate.per_example["value"].float())
    assert (estimate.kind, estimate.higher_is_better) == ("lower bound", True)


def test_rate_at_a_distortion() -> None:
    """R(D) = −log D at D = e^(−t): a chord of the convex curve over a step h is at most h²/8 above it."""
    t = torch.linspace(0, 3, 61).double()
    offset = torch.tensor([-0.1, 0.1]).double().unsqueeze(1)  # examples that differ along the curve's tangent
    distortion, rate = torch.exp(-t) * (1 + offset), t.expand(2, -1) - offset
    values = rates_at(0.3, distortion, rate)
    assert values is not None
    assert float(values.mean()) == pytest.approx(-math.log(0.3), abs=0.05**2 / 8 + 1e-9)
    assert float(values.std()) < 0.01  # first order: errors along the tangent do not change the rate
    assert rates_at(0.01, distortion, rate) is None
    zero = rates_at(2.0, distortion, rate)
    assert zero is not None and not bool(zero.any())


class Stored(PartialResult):
    """State in memory, stored before each step."""

    def __init__(self) -> None:
        super().__init__(None)
        self.state: dict[str, Tensor] | None = None

    is_save_due = True  # type: ignore[assignment]

    def load_state(self) -> dict[str, Tensor] | None:
        return self.state

    def save_state(self, state: Mapping[str, Tensor]) -> None:
        self.state = {name: value.clone() for name, value in state.items()}


def test_an_interrupted_run_gives_the_same_curve() -> None:
    path = AnnealingPath(torch.zeros(8, 2), torch.ones(8, 2), lambda z: -3 * z.square().sum(-1))
    betas = make_temperatures(20, "geometric")

    def run(trace: WeightTrace, partial_result: PartialResult, stop: int = -1) -> Tensor:
        def tick(n: int) -> None:
            count[0] += n
            if count[0] == stop:
                raise KeyboardInterrupt

        count = [0]
        step = torch.full((8, 1), 0.3)
        torch.manual_seed(0)
        u = path.sample_initial()
        anneal(path, u, betas, lambda b: step, 2, tick=tick, partial_result=partial_result, trace=trace)
        return trace.values

    steps, stored = [0, 3, 4, 5, 12, 20], Stored()
    expected = run(WeightTrace(steps, 2), Stored())
    with pytest.raises(KeyboardInterrupt):
        run(WeightTrace(steps, 2), stored, stop=9)
    assert torch.equal(run(WeightTrace(steps, 2), stored), expected)
    assert bool((expected[1:] != 0).all())


def test_decoders_without_a_density_or_an_encoder_are_evaluated() -> None:
    decoder = implicit_model(0).decoder
    model = LatentModel(Conditional(NullNetwork((N,), (2, D)), None), decoder, x_shape=(N,), latent_dim=D)
    options = {
        "likelihood": ("rate-distortion",),
        "annealing": AISConfig(2, 10, leapfrog_steps=2),
        "limit": 8,
    }
    result = evaluate(model, data_of(toy_model(1.0)), diagnostics=(), **options)
    metrics = {e.metric for e in result}
    assert metrics == {"rate-distortion"}
    assert result.find("rate-distortion rmse").kind == "error"
    rates = [e for e in result if e.name.startswith("rate at")]
    assert rates and all(e.kind == "upper bound" and e.higher_is_better is False for e in rates)
    assert [e.value for e in rates] == sorted(e.value for e in rates)  # a smaller error costs more


def test_models_without_such_a_distortion_are_an_error() -> None:
    with pytest.raises(NoDensityError):
        RateDistortion(distortion="nll").check(implicit_model(0))

    def decoder(z: Tensor) -> ImplicitSampler:
        return ImplicitSampler(lambda n: torch.randn(n, len(z), N), len(z), (N,))

    model = toy_model(1.0)
    random = LatentModel(model.encoder, Linear(weights(model)), x_shape=(N,), latent_dim=D)
    random.decoder.forward = decoder  # type: ignore[method-assign]
    with pytest.raises(UnsupportedError):
        RateDistortion().check(random)
    for options in ({"distortion": "psnr"}, {"min_noise": 0.0}):
        with pytest.raises(ConfigError):
            RateDistortion(**options)  # type: ignore[arg-type]


def test_trace_weighs_the_chains_of_each_example() -> None:
    """Weights 1 and 3 of values 1 and 5 have the mean 2 and the weighted mean 4; equal ones 7 and 3."""
    trace = WeightTrace([2], 2)
    log_w = torch.tensor([1.0, 7.0, 3.0, 7.0]).double().log()  # chain-major
    trace.record(2, log_w, torch.tensor([1.0, 2.0, 5.0, 4.0]).double())
    torch.testing.assert_close(trace.values[0, 0].exp(), torch.tensor([2.0, 7.0]).double())
    torch.testing.assert_close(trace.values[0, 1], torch.tensor([4.0, 3.0]).double())
