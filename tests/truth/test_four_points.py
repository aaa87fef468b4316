"""Measurements of ``experiments/four_points`` against closed forms: grid integrals, divergences, models."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from four_points import grid
from four_points.grid import (
    centers,
    count_in_cells,
    evidence,
    kl_from_counts,
    kl_from_mass,
    log_count,
    log_prior,
    mass_from_log_density,
    measure,
    merge_cells,
    overlap,
)
from scipy.special import exp1
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, Poisson, kl_divergence

from advae.model import LatentModel, build_model

LOG4 = math.log(4)
BEYOND = 1.2e-6  # of the prior's mass outside the grid
PRIOR = MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())


def quadrants(z: Tensor, turn: float = 0.0) -> Tensor:
    """Return the one-hot sector, of four, of each of ``K`` points ``[K, 2]``: ``[4, K]``."""
    angle = torch.remainder(torch.atan2(z[:, 1], z[:, 0]) - turn, 2 * math.pi)
    return torch.nn.functional.one_hot((angle / (math.pi / 2)).long().clamp_max(3), 4).T.double()


# --- densities ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slope", [1.0, 10.0])
def test_evidence_of_a_probit_decoder(slope: float) -> None:
    """∫ Φ(a z₁ + b) N(z) dz = Φ(b / √(1 + a²)); the only error is the mass beyond the grid."""
    z, b = centers(), torch.tensor([-1.0, 0.0, 0.5, 2.0]).double()
    log_p = torch.special.log_ndtr(slope * z[:, 0] + b[:, None])
    exact = torch.special.ndtr(b / math.sqrt(1 + slope**2))
    assert torch.allclose(evidence(log_p).exp(), exact, rtol=0, atol=BEYOND)


def test_quadrant_posteriors_have_no_overlap_and_average_to_the_prior() -> None:
    """Four quadrants: p(x_i) = 1/4, no overlap, and together they are the prior."""
    log_p = quadrants(centers()).log()
    log_x = evidence(log_p)
    assert torch.allclose(log_x.exp(), torch.full((4,), 0.25).double(), rtol=0, atol=BEYOND)
    true = mass_from_log_density(log_p + log_prior(centers()) - log_x[:, None])
    assert overlap(true) == 0.0
    assert kl_from_mass(true.mean(0)) == pytest.approx(0.0, abs=2 * BEYOND)  # the mass beyond is put inside
    assert sum(kl_from_mass(each) for each in true) / 4 == pytest.approx(LOG4, abs=2 * BEYOND)


def test_overlap_is_the_entropy_of_the_observation_given_z() -> None:
    a, b = quadrants(centers(64))[:2].unflatten(1, (64, 64)) / 1024
    assert overlap(torch.stack([a, a, a, a])) == pytest.approx(LOG4)
    assert overlap(torch.stack([a, a, b, b])) == pytest.approx(math.log(2))
    three = torch.stack([a, a, a, b])
    assert overlap(three) == pytest.approx(0.75 * math.log(3))


def normals(means: Tensor, stds: Tensor) -> Tensor:
    """Masses of diagonal normals ``[4, bins, bins]``."""
    return mass_from_log_density(Normal(means[:, None], stds[:, None]).log_prob(centers()).sum(-1))


MEANS = torch.tensor([[1.0, 0.5], [-1.0, 0.3], [0.2, -1.2], [0.0, 0.0]]).double()
STDS = torch.tensor([[0.5, 0.3], [0.4, 0.4], [0.6, 0.2], [0.7, 0.7]]).double()


def test_divergence_of_normals_on_the_grid() -> None:
    """The tails of these beyond the grid, times the log ratio there, are below 1e-8."""
    exact = kl_divergence(Normal(MEANS, STDS), Normal(0.0, 1.0)).sum(-1)
    result = torch.tensor([kl_from_mass(each) for each in normals(MEANS, STDS)])
    assert torch.allclose(result.double(), exact, rtol=0, atol=1e-6)


def test_overlap_and_kls_of_a_mixture_satisfy_their_identity() -> None:
    """H(x|z) = log 4 − E KL(q_i ‖ p) + KL(q ‖ p), an identity whatever the q_i."""
    mass = normals(MEANS, STDS)
    kl = sum(kl_from_mass(each) for each in mass) / 4
    assert 0.1 < overlap(mass) < LOG4 - 0.1
    assert overlap(mass) == pytest.approx(LOG4 - kl + kl_from_mass(mass.mean(0)), abs=1e-6)


# --- samples --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.1, 1.0, 5.0])
def test_log_count_has_grassbergers_bias(rate: float) -> None:
    """E[n G(n)] = λ log λ + λ E₁(2λ) for a Poisson count: by the sum over counts, of which 200 hold all."""
    n = torch.arange(1, 200).double()
    result = (Poisson(torch.tensor(rate, dtype=torch.float64)).log_prob(n).exp() * n * log_count(n)).sum()
    assert float(result) == pytest.approx(rate * math.log(rate) + rate * exp1(2 * rate), abs=1e-12)


def test_merged_cells_equal_counts_in_coarser_cells() -> None:
    z = 1.5 * torch.randn(1000, 2)
    assert torch.equal(merge_cells(count_in_cells(z, 64)), count_in_cells(z, 32))
    assert count_in_cells(z, 64).sum() == 1000
    counts = count_in_cells(torch.tensor([[-9.0, 9.0]]), 64)
    assert counts[0, 63] == 1  # points beyond the grid are in a corner; the first axis is the row


K, CELLS = 2**20, 128


def scatter(log_ratio_std: float) -> float:
    """Standard deviation of a divergence from K samples in the cells: of the mean log ratio, and of the counting.

    The second is that of half a χ² of as many degrees of freedom as there are cells, over K. ``high``, twice one
    estimate less another, has at most three times of it.
    """
    return 3 * math.hypot(log_ratio_std / math.sqrt(K), math.sqrt(CELLS**2 / 2) / K)


def assert_between(result: dict[str, float], exact: float, allowed: float) -> None:
    assert result["low"] - allowed < exact < result["high"] + allowed, (result, exact, allowed)
    assert result["high"] - result["low"] < 0.02  # else it says nothing


def test_divergence_of_samples_of_the_prior_is_zero() -> None:
    assert_between(kl_from_counts(count_in_cells(torch.randn(K, 2), CELLS)), 0.0, 4 * scatter(0.0))


def test_divergence_of_samples_of_a_normal() -> None:
    q = MultivariateNormal(
        torch.tensor([0.8, -0.3]).double(), torch.tensor([[0.4, 0.1], [0.1, 0.3]]).double()
    )
    z = q.sample((K,))
    exact = float(kl_divergence(q, PRIOR))
    counts = count_in_cells(z, CELLS)
    allowed = 4 * scatter(float((q.log_prob(z) - PRIOR.log_prob(z)).std()))
    assert_between(kl_from_counts(counts), exact, allowed)


def test_divergence_of_samples_of_a_wave() -> None:
    """Density 1 + a cos 2πu of u = Φ(z₁): KL = 1 − s + log (1 + s)/2 with s = √(1 − a²); and smooth, so of order 4."""
    u = torch.rand(4 * K, 3).double()
    u = u[1.8 * u[:, 2] < 1 + 0.8 * (2 * math.pi * u[:, 0]).cos()][:K, :2]  # by rejection, a = 0.8
    assert len(u) == K
    z, exact = torch.special.ndtri(u), 0.4 + math.log(0.8)
    assert_between(kl_from_counts(count_in_cells(z, CELLS)), exact, 4 * scatter(0.7))
    assert (
        3.5 < kl_from_counts(count_in_cells(z, 16))["order"] < 4.5
    )  # few cells: their loss is far above the scatter


def test_divergence_of_samples_of_a_sector() -> None:
    """A quarter of the prior with edges across the cells: log 4, with an error proportional to the width of a cell."""
    z = torch.randn(4 * K + 40_000, 2).double()
    z = z[quadrants(z, turn=0.3)[0] > 0][:K]
    result = kl_from_counts(count_in_cells(z, CELLS))
    assert len(z) == K
    assert_between(result, LOG4, 4 * scatter(0.0))
    assert result["low"] < LOG4 - 0.001  # the loss is seen, and `high` makes it good
    assert 1.5 < result["order"] < 2.5


# --- models -------------------------------------------------------------------------------------------------


def model_of(posterior: dict[str, Any]) -> LatentModel:
    spec = {
        "latent_dim": 2,
        "encoder": {"name": "mlp", "hidden": []},
        "posterior": posterior,
        "decoder": {"name": "mlp", "hidden": [16]},
        "likelihood": {"name": "bernoulli"},
        "critic": {"name": "concat", "hidden": [8]},
    }
    critics = ["critic"] if posterior["name"] == "implicit" else []
    name = "avb" if critics else "vae"
    model = build_model(spec, (4,), critics, {"method": {"name": name}})
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(2.0)  # so that it says something of z
    return model


def sampled_elbo(model: LatentModel, q: Any, count: int = 2**17) -> tuple[float, float]:
    """E log p(x|z) + log p(z) − log q(z|x), and its standard error, from samples of the q given."""
    x = torch.eye(4)
    z = q.sample((count,))
    flat = z.flatten(0, 1)
    with torch.no_grad():
        log_p = model.decode(flat.float()).log_prob(x.repeat(count, 1)).double().reshape(count, 4)
    values = (log_p + log_prior(z) - q.log_prob(z)).mean(1)
    return float(values.mean()), float(values.std() / math.sqrt(count))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SQUARE_BINS": CELLS,
        "NUM_SAMPLES": K // 2,
        "NUM_DECODED": 2**17,
        "SAMPLES_PER_BLOCK": 2**17,
    }.items():
        monkeypatch.setattr(grid, name, value)


@pytest.mark.usefixtures("few")
def test_measurements_of_a_model_with_an_encoder_density() -> None:
    model = model_of({"name": "normal"})
    layer: Any = model.encoder.network.body[0]
    with torch.no_grad():  # well inside the grid
        layer.weight.mul_(0.5)
        layer.bias[2:] = -1.0
    result = measure(model)
    with torch.no_grad():
        mean, var = (m.double() for m in model.encode(torch.eye(4)).moments())
    q = MultivariateNormal(mean, torch.diag_embed(var))
    value, error = sampled_elbo(model, q)
    assert result["elbo"] == pytest.approx(value, abs=4 * error)
    assert result["inference_gap"] > 0 and result["adversarial_elbo"] is None
    by_samples = result["by_samples"]
    assert by_samples["kl"]["low"] == pytest.approx(result["kl"], abs=0.005)
    assert by_samples["marginal"]["low"] == pytest.approx(result["marginal"], abs=0.005)
    assert by_samples["overlap"] == pytest.approx(result["overlap"], abs=0.005)
    spread = by_samples["reconstruction"]
    assert result["reconstruction"] == pytest.approx(spread["value"], abs=4 * spread["stderr"])
    log_p = grid.log_likelihoods(model, centers()).detach()
    mass = mass_from_log_density(q.log_prob(centers()[:, None]).T).flatten(1)
    variance = (mass * log_p.square()).sum(1) - (mass * log_p).sum(1).square()
    error = float((variance.mean() / 4 / grid.NUM_DECODED).sqrt())
    assert spread["stderr"] == pytest.approx(error, rel=0.05)  # the error for 131,072 samples is below 1 %


@pytest.mark.usefixtures("few")
def test_true_posteriors_match_importance_weighted_prior_samples() -> None:
    """By samples of the prior and weights w_i = p(x_i|z) / p(x_i): KL(mean p_i ‖ p) = E w̄ log w̄, with w̄ their mean."""
    model = model_of({"name": "normal"})
    result = measure(model)
    z = torch.randn(2**18, 2)
    log_p = grid.log_likelihoods(model, z).detach()
    log_x = log_p.exp().mean(1).log()
    # With so many samples the error of p(x) is 0.2 %.
    assert result["evidence"] == pytest.approx(float(log_x.mean()), abs=0.01)
    w = (log_p - log_x[:, None]).exp()
    values = {
        "exact_marginal": w.mean(0) * w.mean(0).log(),
        "exact_overlap": -(w * (w / w.sum(0)).log()).mean(0),
    }
    for name, value in values.items():
        # The normalization of the weights adds an error of the same size.
        allowed = 8 * float(value.std()) / math.sqrt(len(z))
        assert result[name] == pytest.approx(float(value.mean()), abs=allowed), name
        assert result[name] > 2 * allowed


@pytest.mark.usefixtures("few")
def test_measurements_of_an_implicit_encoder_from_its_samples() -> None:
    """A linear encoder of x and two noise variables is a correlated normal; only its samples are used."""
    model = model_of({"name": "implicit", "noise_dim": 2})
    layer: Any = model.encoder.network.body[0]
    slant = torch.tensor([[0.5, 0.2], [0.0, 0.4]])
    with torch.no_grad():
        layer.weight.copy_(torch.cat([torch.tensor([[1.0, -1, 0, 0], [0, 0, 1, -1]]), slant], 1))
    result = measure(model)
    mean = layer.weight[:, :4].T.detach().double()
    q = MultivariateNormal(mean, (slant @ slant.T).double().expand(4, 2, 2))
    kl = float(kl_divergence(q, PRIOR).mean())
    assert result["kl"] == pytest.approx(kl, abs=0.005)
    assert result["kl"] > kl - 4 * scatter(1.0)  # the lower estimate
    mass = mass_from_log_density(q.log_prob(centers()[:, None]).T)
    assert result["marginal"] == pytest.approx(kl_from_mass(mass.mean(0)), abs=0.005)
    assert result["overlap"] == pytest.approx(overlap(mass), abs=0.005)
    value, error = sampled_elbo(model, q)
    assert result["elbo"] == pytest.approx(value, abs=0.005 + 4 * error)
    assert result["inference_gap"] > 0
    # A critic of zero implies that log q is 0: KL = E −log p(z) = log 2π + E ½|z|².
    with torch.no_grad():
        for parameter in model.critics.parameters():
            parameter.zero_()
    claim = math.log(2 * math.pi) + float(q.mean.square().sum(1).mean() + (slant @ slant.T).trace()) / 2
    assert grid.adversarial_elbo(model) == pytest.approx(
        -result["reconstruction"] - claim, abs=0.03
    )  # sd 2 of 131,072 samples
