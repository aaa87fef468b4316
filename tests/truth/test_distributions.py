"""Distributions: samples against densities, sums over all values, moments against Monte Carlo."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from advae.distributions import HEADS, Distribution, StandardNormal
from advae.distributions.bernoulli import Bernoulli
from advae.distributions.discretized_normal import DiscretizedNormal, log1mexp, log_normal_mass
from advae.distributions.implicit import ImplicitSampler
from advae.distributions.noise_basis import NoiseBasis, NoiseBasisPosterior
from advae.distributions.normal import Normal, NormalHead
from advae.errors import ConfigError
from truth.sampling import assert_close, assert_sharp, batch_means

P_VALUE = 1e-5  # probability that a correct implementation fails one of the goodness-of-fit tests


def distribution(name: str, raw: Tensor) -> Distribution:
    """Return the distribution that a head makes of raw numbers ``[B, num_params, *event]``."""
    head = HEADS.build({"name": name}, event_shape=tuple(raw.shape[2:]))
    return head(lambda inputs, noise=None: raw, torch.zeros(len(raw), 1))


def densities() -> list[str]:
    """Return registered heads whose distribution has a density and that accept any raw numbers."""
    names = []
    for name in HEADS.names():
        if name == "passthrough" or name.startswith("autoregressive"):  # see test_autoregressive.py
            continue
        head = HEADS.build({"name": name}, event_shape=(2,))
        raw = torch.zeros(3, head.num_params, 2)
        if not head.noise_dim and distribution(name, raw).has_log_prob:
            names.append(name)
    return names


# --- samples against log densities, for every registered head -----------------------------------------------


@pytest.mark.parametrize("name", densities())
def test_score_has_mean_zero_under_the_samples(name: str) -> None:
    """E_p[∇ log p] = 0 for every raw number: it fails if samples and density are of different distributions.

    The values are moderate, so that the outermost of the 8-bit levels do not dominate.
    """
    head = HEADS.build({"name": name}, event_shape=(2,))
    raw = torch.stack(
        [torch.linspace(0.2, 0.7, 6).reshape(3, 2) - 0.5 * i for i in range(head.num_params)], 1
    )

    def sample_statistics() -> Tensor:
        leaf = raw.clone().requires_grad_()
        p = distribution(name, leaf)
        (score,) = torch.autograd.grad(p.log_prob(p.sample((500,))).mean(0).sum(), leaf)
        return score.flatten()

    estimate = batch_means(sample_statistics)
    assert_close(estimate, torch.zeros_like(estimate[0]), name)


@pytest.mark.parametrize("name", densities())
def test_rsample_and_log_prob_agrees_with_log_prob(name: str) -> None:
    head = HEADS.build({"name": name}, event_shape=(2,))
    p = distribution(name, torch.randn(3, head.num_params, 2))
    value, log_p = p.rsample_and_log_prob()
    torch.testing.assert_close(p.log_prob(value), log_p)


def test_normal_samples_follow_the_density() -> None:
    """Kolmogorov-Smirnov test against the normal, and the mean log density."""
    n = 20_000
    p = Normal(torch.tensor([[1.3]]), torch.tensor([[math.log(0.4)]]))
    u = p.sample((n,)).flatten().double().numpy()
    assert stats.kstest((u - 1.3) / 0.4, "norm").pvalue > P_VALUE
    estimate = batch_means(lambda: p.log_prob(p.sample((500,))).mean(0))
    assert_close(estimate, torch.tensor([-0.5 * (1 + math.log(2 * math.pi)) - math.log(0.4)]), "−entropy")
    # The density integrates to one: the trapezium rule over ±10 standard deviations is exact to rounding.
    grid = torch.linspace(-2.7, 5.3, 2001)[:, None, None]
    assert abs(float(torch.trapezoid(p.log_prob(grid).exp().flatten(), grid.flatten())) - 1) < 1e-5


def test_standard_normal() -> None:
    p = StandardNormal(3)
    estimate = batch_means(lambda: p.log_prob(p.sample((500,))).mean()[None])
    assert_close(estimate, torch.tensor([-1.5 * (1 + math.log(2 * math.pi))]), "−entropy")
    assert stats.kstest(p.sample((20_000,)).flatten().numpy(), "norm").pvalue > P_VALUE
    exact = torch.distributions.Normal(0.0, 1.0).log_prob(torch.arange(6.0).reshape(2, 3)).sum(-1)
    torch.testing.assert_close(p.log_prob(torch.arange(6.0).reshape(2, 3)), exact)


def test_normal_kl_matches_the_closed_form() -> None:
    q = Normal(torch.tensor([[0.7, -0.2]]), torch.tensor([[-0.5, 0.3]]))
    exact = torch.distributions.kl_divergence(
        torch.distributions.Normal(q.mean, q.scale), torch.distributions.Normal(0.0, 1.0)
    )
    torch.testing.assert_close(q.kl_to_standard(), exact)
    prior = StandardNormal(2)

    def sample_statistics() -> Tensor:
        z = q.sample((500,))
        return (q.log_prob(z) - prior.log_prob(z)).mean(0)

    assert_close(batch_means(sample_statistics), q.kl_to_standard().sum(-1), "kl")


def test_bernoulli_probabilities_sum_to_one() -> None:
    p = Bernoulli(torch.randn(2, 2, 3, dtype=torch.float64) * 3)
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)), dtype=torch.float64).reshape(
        64, 1, 2, 3
    )
    total = p.log_prob(every.expand(64, 2, 2, 3)).exp().sum(0)
    torch.testing.assert_close(total, torch.ones(2, dtype=torch.float64), atol=1e-12, rtol=0)


def test_bernoulli_samples_follow_the_probabilities() -> None:
    p = Bernoulli(torch.tensor([[-1.0, 0.5, 2.0]]))
    n = 20_000
    samples = p.sample((n,)).reshape(n, 3)
    assert set(samples.unique().tolist()) == {0.0, 1.0}
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)))
    expected = p.log_prob(every.reshape(8, 1, 3)).exp().flatten().double() * n
    index = (samples @ torch.tensor([4.0, 2.0, 1.0])).long()
    counts = torch.bincount(index, minlength=8).double()
    chi2 = float(((counts - expected).square() / expected).sum())
    assert chi2 < stats.chi2.isf(P_VALUE, df=7)


def test_bernoulli_log_prob_of_gray_values_is_the_expectation_over_binary_images() -> None:
    p = Bernoulli(torch.randn(1, 4))
    gray = torch.tensor([[0.0, 0.25, 0.5, 1.0]])
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)))
    weight = (every * gray + (1 - every) * (1 - gray)).prod(-1)
    expected = (weight * p.log_prob(every.reshape(16, 1, 4)).flatten()).sum()
    torch.testing.assert_close(p.log_prob(gray)[0], expected)


def test_concrete_samples_round_to_the_bernoulli() -> None:
    """At any temperature a concrete sample exceeds one half with the pixel's probability."""
    p = Bernoulli(torch.tensor([[-1.0, 0.5, 2.0]]), "concrete", 0.5)
    estimate = batch_means(lambda: (p.rsample((500,)) > 0.5).float().mean(0)[0])
    assert_close(estimate, p.mean[0], "P(x > ½)")


# --- the discretized normal ---------------------------------------------------------------------------------

EXTREMES = list(itertools.product([-2.0, -0.01, 0.0, 0.3, 0.998, 1.0, 3.0], [1e-3, 4e-3, 0.05, 0.7, 10.0]))
LEVEL_CENTERS = (torch.arange(256) + 0.5) / 256


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("mu", "sigma"), EXTREMES)
def test_discretized_normal_probabilities_sum_to_one(mu: float, sigma: float, dtype: torch.dtype) -> None:
    """A log probability is a difference of logs of order one: its error is rounding divided by the bin's width in σ.

    At σ = 10 the bin is 4e-4 wide, so single precision leaves 6e-8 / 4e-4 = 2e-4 of each inner bin, whose sum is 4% of
    the whole: 1e-5 (2e-14 in double).
    """
    p = DiscretizedNormal(
        torch.full((1, 1), mu, dtype=dtype), torch.full((1, 1), math.log(sigma), dtype=dtype)
    )
    total = p.log_prob(LEVEL_CENTERS.to(dtype).reshape(256, 1, 1)).exp().sum()
    assert abs(float(total) - 1) < (2e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize(
    ("mu", "sigma"), [*EXTREMES, (0.3, 1e6)]
)  # in the last case, bins are narrower than rounding
def test_discretized_normal_is_finite_at_every_level(mu: float, sigma: float) -> None:
    mean = torch.full((256, 1), mu, requires_grad=True)
    log_scale = torch.full((256, 1), math.log(sigma), requires_grad=True)
    log_p = DiscretizedNormal(mean, log_scale).log_prob(LEVEL_CENTERS.reshape(256, 1))
    assert bool(torch.isfinite(log_p).all()) and bool((log_p <= 0).all())
    grads = torch.autograd.grad(log_p.sum(), [mean, log_scale])
    assert all(bool(torch.isfinite(g).all()) for g in grads)


def test_log_normal_mass_matches_scipy() -> None:
    """Double-precision tails, to the rounding of a difference of logs."""
    for mu, sigma in itertools.product([0.0, 0.3, 1.0], [4e-3, 0.05, 0.7]):
        edges = (torch.arange(257).double() / 256 - mu) / sigma
        upper, lower = stats.norm.sf(edges[1:]), stats.norm.sf(edges[:-1])
        mass = torch.from_numpy(lower - upper)
        below = torch.from_numpy(stats.norm.cdf(edges[1:]) - stats.norm.cdf(edges[:-1]))
        mass = torch.where(edges[:-1] > 0, mass, below)
        log_mass = log_normal_mass(edges[:-1], edges[1:])
        ok = mass > 1e-280
        torch.testing.assert_close(log_mass[ok], mass.log()[ok], atol=1e-10, rtol=1e-10)


def test_log1mexp_is_accurate() -> None:
    """Single precision against double: a few roundings, from tiny arguments to large ones."""
    x = torch.logspace(-30, 1.9, 200).double()
    exact = torch.where(x < 0.1, torch.log(-torch.expm1(-x)), torch.log1p(-torch.exp(-x)))
    torch.testing.assert_close(log1mexp(x.float()).double(), exact, atol=0, rtol=1e-6)


def test_all_values_in_a_bin_have_its_probability() -> None:
    p = DiscretizedNormal(torch.tensor([[0.4]]), torch.tensor([[-2.0]]))
    inside = torch.tensor([0.0, 0.3, 0.999]).reshape(3, 1, 1)
    for level in (0, 77, 255):
        assert len(p.log_prob((level + inside) / 256).unique()) == 1


def test_discretized_samples_follow_the_probabilities() -> None:
    """Chi-squared test over the levels with an expected count of ten or more; the rest are one cell."""
    n = 20_000
    p = DiscretizedNormal(torch.tensor([[0.97]]), torch.tensor([[math.log(0.05)]]))
    level = (p.sample((n,)).flatten() * 256).long()
    expected = p.log_prob(LEVEL_CENTERS.reshape(256, 1, 1)).exp().flatten().double() * n
    counts = torch.bincount(level, minlength=256).double()
    many = expected >= 10
    cells = torch.stack([torch.cat([v[many], v[~many].sum()[None]]) for v in (counts, expected)])
    chi2 = float(((cells[0] - cells[1]).square() / cells[1].clamp_min(1)).sum())
    assert chi2 < stats.chi2.isf(P_VALUE, df=int(many.sum()))


# --- the normal head ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0.0, 3.5, 10.0])
@pytest.mark.parametrize("scale", [0.01, 0.1, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("variance", ["fixed", "shared", "pixel"])
def test_initial_scale_is_the_option_scale(variance: str, scale: float, limit: float) -> None:
    """To rounding, for any limits."""
    options: dict[str, Any] = {"variance": variance, "scale": scale, "max_scale": limit}
    head = NormalHead((2,), **options)
    p = head(lambda inputs: torch.zeros(3, head.num_params, 2), torch.zeros(3, 1))
    assert isinstance(p, Normal)
    torch.testing.assert_close(p.scale, torch.full((3, 2), scale), atol=0, rtol=1e-5)


def test_scale_stays_between_its_limits_with_a_gradient() -> None:
    """The lower limit's softplus lifts the upper limit by the relative amount min_scale / max_scale: 1e-3."""
    head = NormalHead((1,), min_scale=0.01, max_scale=10.0)
    raw = torch.tensor([-60.0, -3.0, 0.0, 3.0, 60.0]).requires_grad_()
    scale = head(lambda inputs: torch.stack([torch.zeros(5, 1), raw[:, None]], 1), torch.zeros(5, 1)).scale
    assert (scale >= 0.01).all() and (scale <= 10 * (1 + 1e-3)).all() and scale.diff(dim=0).min() > 0
    (grad,) = torch.autograd.grad(scale.log().sum(), raw)
    assert (grad[1:4] > 0.05).all() and grad[2] > 0.8
    for wrong in (0.01, 1.0, 10.0):
        with pytest.raises(ConfigError, match="scale"):
            NormalHead((1,), min_scale=0.01, max_scale=wrong, scale=10.0)


# --- moments of the noise basis (III.2), (III.3) and the full covariance -----------------------------------

M, D, B = 4, 3, 2


def posterior(
    moment_samples: int, sample_basis: Any = None, smoothing_std: float = 0.0
) -> NoiseBasisPosterior:
    rng = torch.Generator().manual_seed(3)
    offset, a = torch.randn(B, D, generator=rng), torch.rand(B, M, D, generator=rng) + 0.2
    return NoiseBasisPosterior(offset, a, sample_basis or basis(), moment_samples, smoothing_std)


def basis(bounded: bool = False) -> NoiseBasis:
    """Return basis networks that are far from linear in their noise, and correlated between coordinates."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = NoiseBasis(M, 2, (6, 6), D, bounded)
        for parameter in net.parameters():
            parameter.data += 0.5 * torch.randn_like(parameter)
    return net.requires_grad_(False)


def upper(cov: Tensor) -> Tensor:
    i, j = torch.triu_indices(D, D)
    return cov[:, i, j].flatten()


@pytest.mark.parametrize("smoothing_std", [0.0, 0.7])
def test_noise_basis_moments_match_monte_carlo(smoothing_std: float) -> None:
    """Both sides are unbiased, so their difference over independent batches has mean zero."""
    net = basis(bounded=smoothing_std > 0)

    def sample_statistics() -> Tensor:
        q = posterior(500, net, smoothing_std)
        mean, variance = q.moments()
        full_mean, cov = posterior(500, net, smoothing_std).moments(full=True)
        z = posterior(0, net, smoothing_std).rsample((500,))
        centered = z - z.mean(0)
        sample_cov = torch.einsum("nbk,nbl->bkl", centered, centered) / 499
        differences = [
            (mean - z.mean(0)).flatten(),
            (full_mean - z.mean(0)).flatten(),
            (variance - z.var(0)).flatten(),
            upper(cov - sample_cov),
        ]
        return torch.cat(differences)

    estimate = batch_means(sample_statistics)
    assert_close(estimate, torch.zeros_like(estimate[0]), "moment")
    scale = upper(posterior(5000, net, smoothing_std).moments(full=True)[1])
    assert_sharp((scale, estimate[1]), scale, "moment")


def test_noise_basis_moments_match_a_loop() -> None:
    """With the same basis samples for every x, (III.2) and (III.3) by a loop over basis vectors and examples."""
    v = torch.randn(50, M, D)
    q = posterior(50, lambda n: v[:n])
    mean, variance = q.moments()
    _, cov = posterior(50, lambda n: v[:n]).moments(full=True)
    for b in range(B):
        expected_mean, expected_cov = q.offset[b].clone(), torch.zeros(D, D)
        for i in range(M):
            a = torch.diag(q.coefficients[b, i])
            expected_mean += a @ v[:, i].mean(0)
            expected_cov += a @ torch.cov(v[:, i].T) @ a
        torch.testing.assert_close(mean[b], expected_mean)
        torch.testing.assert_close(variance[b], expected_cov.diagonal())
        torch.testing.assert_close(cov[b], expected_cov)


def test_noise_of_different_examples_is_independent() -> None:
    """(III.1) has separate noise for every x and every sample: the covariance of two examples is zero."""
    net = basis()

    def sample_statistics() -> Tensor:
        z = posterior(0, net).rsample((500,))
        centered = z - z.mean(0)
        return (centered[:, 0, :, None] * centered[:, 1, None, :]).sum(0).flatten() / 499

    estimate = batch_means(sample_statistics)
    assert_close(estimate, torch.zeros_like(estimate[0]), "covariance of two examples")


def test_bounded_basis_is_the_tanh_of_the_unbounded_one() -> None:
    torch.manual_seed(4)
    expected = torch.tanh(basis()(50))
    torch.manual_seed(4)
    torch.testing.assert_close(basis(bounded=True)(50), expected)


@pytest.mark.parametrize("smoothing_std", [0.0, 0.7])
def test_smoothing_bounds_the_basis(smoothing_std: float) -> None:
    head = HEADS.build(
        {"name": "noise-basis", "num_basis": 3, "noise_dim": 2, "smoothing_std": smoothing_std},
        event_shape=(2,),
    )
    q = head(lambda inputs: torch.zeros(1, 4, 2), torch.zeros(1, 1))
    assert head.basis.bounded == (smoothing_std > 0) and q.smoothing_std == smoothing_std


def test_smoothing_alone_is_a_normal() -> None:
    """Basis vectors of zero leave Σ_i a_i s ξ_i: exact moments, normal samples, and their gradient."""
    s, zero = 0.7, lambda n: torch.zeros(n, M, D)
    q = posterior(2, zero, s)
    mean, variance = q.moments()
    _, cov = q.moments(full=True)
    expected = s**2 * q.coefficients.square().sum(1)
    torch.testing.assert_close(mean, q.offset)
    torch.testing.assert_close(variance, expected)
    torch.testing.assert_close(cov, torch.diag_embed(expected))

    def sample_statistics() -> Tensor:
        u = (q.rsample((500,)) - q.offset) / expected.sqrt()
        return torch.stack([u.mean(0), u.square().mean(0) - 1, u.pow(4).mean(0) - 3])

    estimate = batch_means(sample_statistics)
    assert_close(estimate, torch.zeros_like(estimate[0]), "moment of the normal noise")
    q.coefficients.requires_grad_()
    torch.manual_seed(0)
    z = q.rsample()
    (grad,) = torch.autograd.grad(z.sum(), q.coefficients)
    # z − z⁰ = s |a| ξ, so its gradient is (z − z⁰) a / |a|².
    expected_grad = (
        (z - q.offset).unsqueeze(1) * q.coefficients / q.coefficients.square().sum(1, keepdim=True)
    )
    torch.testing.assert_close(grad, expected_grad)


def test_batched_basis_networks_match_a_loop() -> None:
    net = basis()
    torch.manual_seed(7)
    batched = net(5)
    torch.manual_seed(7)
    noise = torch.randn(M, 5, 2)
    for i in range(M):
        h = noise[i]
        for layer in range(3):
            h = (torch.nn.functional.elu(h) if layer else h) @ net.weights[layer][i] + net.biases[layer][i]
        torch.testing.assert_close(batched[:, i], h, atol=1e-5, rtol=1e-5)


def test_covariance_for_two_images_is_near_that_of_many_samples() -> None:
    """16 dimensions and 8 basis vectors: with two samples of each, the covariance would have rank 8."""
    torch.manual_seed(2)
    net, d = NoiseBasis(8, 4, (8,), 16).requires_grad_(False), 16
    offset, a = torch.zeros(2, d), torch.ones(2, 8, d)
    few = NoiseBasisPosterior(offset, a, net, 0).moments(full=True)[1]
    many = NoiseBasisPosterior(offset, a, net, 20_000).moments(full=True)[1]
    # n = 8 d samples each: eigenvalues relative to the truth within about (1 ± sqrt(d / 8 n))², as 8 vectors add up.
    spread = torch.linalg.eigvalsh(torch.linalg.solve(many, few).mT @ torch.linalg.solve(many, few)).sqrt()
    assert float(spread.min()) > 0.5 and float(spread.max()) < 2


@pytest.mark.parametrize("batch_size", [1, 2])
def test_noise_basis_moments_are_finite_for_small_batches(batch_size: int) -> None:
    """Before and after sampling."""
    head = HEADS.build(
        {"name": "noise-basis", "num_basis": 3, "noise_dim": 2, "hidden": [4]}, event_shape=(2,)
    )
    raw = torch.randn(batch_size, 4, 2)
    for sample_first in (False, True):
        q = head(lambda inputs: raw, torch.zeros(batch_size, 1))
        if sample_first:
            q.rsample()
        for full in (False, True):
            mean, spread = q.moments(full)
            assert bool(torch.isfinite(mean).all()) and bool(torch.isfinite(spread).all())


def test_moments_of_an_implicit_distribution() -> None:
    """Unbiased, diagonal and full, for the sampler ``μ + L ε``; with few samples, where a bias would be large."""
    mu, L = torch.randn(D), torch.randn(D, D)
    many = 400

    def sampler(n: int) -> Tensor:
        return mu + torch.randn(n, many, D) @ L.T

    def sample_statistics() -> Tensor:
        q = ImplicitSampler(sampler, many, (D,), 4)
        mean, variance = q.moments()
        full = q.moments(full=True)[1]
        return torch.cat([mean.mean(0), variance.mean(0), upper(full.mean(0)[None]), q.mean.mean(0)])

    cov = L @ L.T
    estimate = batch_means(sample_statistics)
    assert_close(estimate, torch.cat([mu, cov.diagonal(), upper(cov[None]), mu]), "moment")
    assert_sharp((cov, estimate[1]), cov, "moment")
