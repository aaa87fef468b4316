"""The certified ELBO against encoders whose density is an integral over one normal number, hence known by quadrature.

z = offset(x) + a v(ε) + s |a| ξ,    q(z|x) = ∫ N(z; offset + a v(ε), s² a²) N(ε; 0, 1) dε
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from advae.distributions import Distribution
from advae.distributions.auxiliary import AuxiliaryPosterior
from advae.distributions.base import ImplicitDistribution
from advae.distributions.noise_basis import NoiseBasis, NoiseBasisPosterior
from advae.distributions.normal import Normal, batched_normal
from advae.errors import ConfigError, NoDensityError
from advae.evaluation.estimate import EvaluationResult, from_per_example
from advae.evaluation.eval_config import AISConfig
from advae.evaluation.eval_data import EvalData
from advae.evaluation.likelihood.annealing import anneal, make_temperatures
from advae.evaluation.likelihood.certified_elbo import CertifiedELBO, certified_elbo, noise_path
from advae.model import LatentModel
from evaluation import toy
from evaluation.toy import D, data_of, toy_model
from truth.sampling import SIGMAS

B, CHAINS = 4, 1000
GRID = torch.linspace(-8, 8, 1001)
ENCODERS = ("noise basis", "auxiliary", "mixture")


class Mixture(ImplicitDistribution):
    """Two narrow normals at ± (1, 1), joined where the noise is near zero."""

    noise_dim = 1

    def __init__(self, center: Tensor) -> None:
        self.center = center
        self.batch_shape, self.event_shape = center.shape[:1], center.shape[1:]

    def given_noise(self, noise: Tensor) -> Normal:
        mean = self.center + torch.tanh(3 * noise) * torch.ones(D)
        return batched_normal(mean, torch.tensor(0.5).log())

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        return self.given_noise(torch.randn(*sample_shape, *self.batch_shape, 1)).rsample()


class Encoder(nn.Module):
    """An encoder of the toy model with one number of noise."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.kind, self.A = kind, 0.3 * torch.randn(D, toy.N, generator=generator)
        self.basis = NoiseBasis(1, 1, (8,), D, bounded=True).requires_grad_(False)
        for weight in self.basis.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))

    def forward(self, x: Tensor) -> Distribution:
        offset = x @ self.A.T
        if self.kind == "mixture":
            return Mixture(offset)
        if self.kind == "noise basis":
            coefficients = torch.stack([0.5 + offset.sigmoid()], 1)
            return NoiseBasisPosterior(offset, coefficients, self.basis, 0, smoothing_std=0.5)
        if self.kind == "curve":
            return NoiseBasisPosterior(offset, torch.ones(len(x), 1, D), self.basis, 0)
        q_a = Normal(offset[:, :1], torch.tensor(0.7).log())

        def q_z(a: Tensor) -> Normal:
            return batched_normal(offset + torch.cat([a, a**2], -1), torch.tensor(0.4).log())

        return AuxiliaryPosterior(q_a, q_z, lambda z: q_a, (D,))


def log_density(q: Distribution, z: Tensor) -> Tensor:
    """``log q(z|x)`` of ``z [B, D]`` by quadrature over the noise."""
    noise = GRID.unsqueeze(-1).expand(-1, len(z)).unsqueeze(-1)
    log_prior = -0.5 * (GRID.square() + math.log(2 * math.pi)).unsqueeze(-1)
    return torch.logsumexp(q.given_noise(noise).log_prob(z) + log_prior, 0) + math.log(
        float(GRID[1] - GRID[0])
    )


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_weights_are_unbiased_for_the_density_and_its_reciprocal(kind: str, reverse: bool) -> None:
    torch.manual_seed(0)
    q = Encoder(kind)(torch.randn(B, toy.N))
    noise = torch.randn(B, q.noise_dim)
    z = q.given_noise(noise).sample()
    if reverse:  # E[w⁻¹ | z] = 1/q(z|x) over noise from the posterior: by importance resampling on a grid
        noise = _posterior_noise(q, z, CHAINS)
    path = noise_path(q, z, 0.0, CHAINS)
    start = noise.flatten(0, 1) if reverse else path.sample_initial()
    betas = make_temperatures(60, "sigmoid")
    steps = lambda beta: torch.full((CHAINS * B, 1), 0.3)  # noqa: E731
    log_w, _ = anneal(path, start, betas[::-1] if reverse else betas, steps, 2)
    log_q = log_density(q, z).double()
    ratio = (log_w.reshape(CHAINS, B) + (log_q if reverse else -log_q)).exp()
    error = ratio.std(0) / math.sqrt(CHAINS)
    assert bool((error < 0.1).all())
    assert bool(((ratio.mean(0) - 1).abs() < SIGMAS * error).all()), (ratio.mean(0), error)


def _posterior_noise(q: Distribution, z: Tensor, n: int) -> Tensor:
    """Exact samples ``[n, B, 1]`` of p(ε|x, z), by inversion on the grid."""
    noise = GRID.unsqueeze(-1).expand(-1, len(z)).unsqueeze(-1)
    log_p = q.given_noise(noise).log_prob(z) - 0.5 * GRID.square().unsqueeze(-1)
    index = torch.multinomial(torch.softmax(log_p, 0).T, n, replacement=True).T
    jitter = (torch.rand(n, len(z)) - 0.5) * (GRID[1] - GRID[0])
    return (GRID[index] + jitter).unsqueeze(-1)


@torch.no_grad()
@pytest.mark.parametrize("kind", ENCODERS)
def test_bounds_enclose_the_elbo(kind: str) -> None:
    torch.manual_seed(0)
    model = _model(kind)
    data = EvalData(data_of(model), limit=64)
    result = certified_elbo(model, data, AISConfig(2, 20, init="prior", leapfrog_steps=3))
    lower, upper, gap = (result.find(f"elbo-certified {name}") for name in ("lower", "upper", "gap"))
    x = torch.cat([batch.x for batch in data.batches(torch.device("cpu"))])
    q, samples = model.encode(x), 100
    z = q.sample((samples,))
    log_q = torch.stack([log_density(q, z_k) for z_k in z])
    log_p = model.decode(z.flatten(0, 1)).log_prob(x.repeat(samples, 1)).reshape(samples, -1)
    exact = (log_p + model.prior.log_prob(z) - log_q).double().mean(0)
    low, high = (e.per_example["value"] for e in (lower, upper))
    for excess in (low - exact, exact - high):  # each has expectation ≤ 0
        assert float(excess.mean()) < 4 * float(excess.std()) / math.sqrt(len(excess))
    assert gap.value > 0
    if kind == "noise basis":  # the gap falls as 1 / temperatures
        finer = certified_elbo(model, data, AISConfig(2, 160, init="prior", leapfrog_steps=3))
        assert finer.find("elbo-certified gap").value < gap.value / 3
    assert (lower.kind, gap.kind) == ("lower bound", "upper bound")
    assert lower.higher_is_better and upper.higher_is_better is None


@torch.no_grad()
@pytest.mark.parametrize("std", [0.3, None])
def test_added_noise_bounds_the_evidence_from_below_and_the_elbo_from_above(std: float | None) -> None:
    """The ELBO of a latent that is a function of its noise is −∞; with τ added its weights are finite."""
    model = _model("curve")
    data = EvalData(data_of(model), limit=64)
    result = certified_elbo(model, data, AISConfig(2, 20, init="prior", leapfrog_steps=3), added_std=std)
    x = torch.cat([batch.x for batch in data.batches(torch.device("cpu"))])
    excess = result.find("elbo-certified lower").per_example["value"] - toy.exact(model, x).double()
    assert float(excess.mean()) < 4 * float(excess.std()) / math.sqrt(len(excess))
    assert result.find("elbo-certified gap").value > 0


@torch.no_grad()
def test_added_noise_widens_the_density_by_its_variance() -> None:
    """The weights are unbiased for the density of z + τξ."""
    torch.manual_seed(0)
    q = Encoder("curve")(torch.randn(B, toy.N))
    z = q.sample() + 0.3 * torch.randn(B, D)
    path = noise_path(q, z, 0.3, CHAINS)
    betas = make_temperatures(60, "sigmoid")
    log_w, _ = anneal(path, path.sample_initial(), betas, lambda beta: torch.full((CHAINS * B, 1), 0.3), 2)
    noise = GRID.unsqueeze(-1).expand(-1, B).unsqueeze(-1)
    wide = torch.distributions.Normal(q.given_noise(noise).mean, 0.3).log_prob(z).sum(-1)
    log_prior = -0.5 * (GRID.square() + math.log(2 * math.pi)).unsqueeze(-1)
    log_q = torch.logsumexp(wide + log_prior, 0) + math.log(float(GRID[1] - GRID[0]))
    ratio = (log_w.reshape(CHAINS, B) - log_q.double()).exp()
    error = ratio.std(0) / math.sqrt(CHAINS)
    assert bool(((ratio.mean(0) - 1).abs() < SIGMAS * error).all()), (ratio.mean(0), error)


@pytest.mark.parametrize(("claim", "failed"), [(0.5, None), (4.0, "above"), (-4.0, "below")])
def test_claims_of_a_critic_are_compared_with_both_bounds(claim: float, failed: str | None) -> None:
    names = {"elbo-certified lower": 0.0, "elbo-certified upper": 1.0, "elbo (critic)": claim}
    noise = torch.randn(50)
    estimates = [
        from_per_example(noise + value, name, "diagnostic", "nats", {}) for name, value in names.items()
    ]
    result = EvaluationResult(
        [*estimates[:2], replace(estimates[2], metric="elbo", kind="adversarial estimate")]
    )
    (remark,) = CertifiedELBO().compare(result)
    assert remark.warning == (failed is not None)
    assert [c.name for c in remark.criteria if not c.passed] == [
        c.name for c in remark.criteria if f"{failed} " in c.name
    ]
    assert CertifiedELBO().compare(EvaluationResult(estimates)) == []  # no critic


def _model(kind: str) -> LatentModel:
    return LatentModel(Encoder(kind), toy_model(1.0).decoder, x_shape=(toy.N,), latent_dim=D)


def test_encoders_without_a_density_given_their_noise_are_an_error() -> None:
    for model in (toy_model(1.0, implicit=True), toy_model(1.0)):
        assert isinstance(CertifiedELBO.unsupported(model, EvalData(data_of(model))), NoDensityError)
    for kind in ("noise basis", "curve"):
        assert CertifiedELBO.unsupported(_model(kind), EvalData(data_of(_model(kind)))) is None
        CertifiedELBO().check(_model(kind))
    with pytest.raises(NoDensityError):
        CertifiedELBO(added_std=0).check(_model("curve"))
    for std in (-1.0, "much"):
        with pytest.raises(ConfigError):
            CertifiedELBO(added_std=std)  # type: ignore[arg-type]
