"""Distributions: samples against densities, sums over all values, moments against brute force."""

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
from advae.distributions.discretized_normal import DiscretisedNormal, log1mexp, log_normal_mass
from advae.distributions.implicit import Implicit
from advae.distributions.noise_basis import LinearCombination, NoiseBasis
from advae.distributions.normal import Normal, NormalHead
from advae.errors import ConfigError
from truth.sampling import assert_close, assert_sharp, batch_means

RARE = 1e-5  # a right program fails one of the goodness-of-fit tests here with this probability


def made(name: str, raw: Tensor) -> Distribution:
    """The distribution that a head makes of raw values ``[B, values, *event]``."""
    head = HEADS.build({"name": name}, event_shape=tuple(raw.shape[2:]))
    return head(lambda inputs, noise=None: raw, torch.zeros(len(raw), 1))


def densities() -> list[str]:
    """Registered heads whose distribution has a density and that take raw values of any kind."""
    found = []
    for name in HEADS.names():
        if name == "own" or name.startswith("autoregressive"):  # the latter: test_logistics.py
            continue
        head = HEADS.build({"name": name}, event_shape=(2,))
        raw = torch.zeros(3, head.values, 2)
        noisy = torch.zeros(3, 1) if not head.noise else None
        if noisy is not None and made(name, raw).has_log_prob:
            found.append(name)
    return found


# --- samples against log densities, for every registered head -----------------------------------------------


@pytest.mark.parametrize("name", densities())
def test_the_score_has_mean_zero_under_the_samples(name: str) -> None:
    """E_p[∇ log p] = 0, in every raw number: it fails if samples and density are of different distributions.

    The values are moderate, so that an 8-bit reading of them is not all tails.
    """
    head = HEADS.build({"name": name}, event_shape=(2,))
    raw = torch.stack([torch.linspace(0.2, 0.7, 6).reshape(3, 2) - 0.5 * i for i in range(head.values)], 1)

    def draw() -> Tensor:
        leaf = raw.clone().requires_grad_()
        p = made(name, leaf)
        (score,) = torch.autograd.grad(p.log_prob(p.sample((500,))).mean(0).sum(), leaf)
        return score.flatten()

    found = batch_means(draw)
    assert_close(found, torch.zeros_like(found[0]), name)


@pytest.mark.parametrize("name", densities())
def test_log_prob_of_a_sample_and_of_its_copy_agree(name: str) -> None:
    head = HEADS.build({"name": name}, event_shape=(2,))
    p = made(name, torch.randn(3, head.values, 2))
    value, log_p = p.rsample_and_log_prob()
    torch.testing.assert_close(p.log_prob(value), log_p)


def test_normal_samples_follow_its_density() -> None:
    """Kolmogorov and Smirnov's distance to the normal's own distribution function, and the mean log density."""
    n = 20_000
    p = Normal(torch.tensor([[1.3]]), torch.tensor([[math.log(0.4)]]))
    u = p.sample((n,)).flatten().double().numpy()
    assert stats.kstest((u - 1.3) / 0.4, "norm").pvalue > RARE
    found = batch_means(lambda: p.log_prob(p.sample((500,))).mean(0))
    assert_close(found, torch.tensor([-0.5 * (1 + math.log(2 * math.pi)) - math.log(0.4)]), "−entropy")
    # The density integrates to one: the trapezium rule over ±10 standard deviations is exact to rounding.
    grid = torch.linspace(-2.7, 5.3, 2001)[:, None, None]
    assert abs(float(torch.trapezoid(p.log_prob(grid).exp().flatten(), grid.flatten())) - 1) < 1e-5


def test_standard_normal() -> None:
    p = StandardNormal(3)
    found = batch_means(lambda: p.log_prob(p.sample((500,))).mean()[None])
    assert_close(found, torch.tensor([-1.5 * (1 + math.log(2 * math.pi))]), "−entropy")
    assert stats.kstest(p.sample((20_000,)).flatten().numpy(), "norm").pvalue > RARE
    exact = torch.distributions.Normal(0.0, 1.0).log_prob(torch.arange(6.0).reshape(2, 3)).sum(-1)
    torch.testing.assert_close(p.log_prob(torch.arange(6.0).reshape(2, 3)), exact)


def test_normal_kl_in_closed_form() -> None:
    q = Normal(torch.tensor([[0.7, -0.2]]), torch.tensor([[-0.5, 0.3]]))
    exact = torch.distributions.kl_divergence(
        torch.distributions.Normal(q.mean, q.scale), torch.distributions.Normal(0.0, 1.0)
    )
    torch.testing.assert_close(q.kl_to_standard(), exact)
    prior = StandardNormal(2)

    def draw() -> Tensor:
        z = q.sample((500,))
        return (q.log_prob(z) - prior.log_prob(z)).mean(0)

    assert_close(batch_means(draw), q.kl_to_standard().sum(-1), "kl")


def test_bernoulli_probabilities_sum_to_one() -> None:
    p = Bernoulli(torch.randn(2, 2, 3, dtype=torch.float64) * 3)
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)), dtype=torch.float64).reshape(
        64, 1, 2, 3
    )
    total = p.log_prob(every.expand(64, 2, 2, 3)).exp().sum(0)
    torch.testing.assert_close(total, torch.ones(2, dtype=torch.float64), atol=1e-12, rtol=0)


def test_bernoulli_samples_follow_its_probabilities() -> None:
    p = Bernoulli(torch.tensor([[-1.0, 0.5, 2.0]]))
    n = 20_000
    drawn = p.sample((n,)).reshape(n, 3)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)))
    expected = p.log_prob(every.reshape(8, 1, 3)).exp().flatten().double() * n
    code = (drawn @ torch.tensor([4.0, 2.0, 1.0])).long()
    counts = torch.bincount(code, minlength=8).double()
    chi2 = float(((counts - expected).square() / expected).sum())
    assert chi2 < stats.chi2.isf(RARE, df=7)


def test_bernoulli_scores_grey_values_by_the_expected_binary_image() -> None:
    p = Bernoulli(torch.randn(1, 4))
    grey = torch.tensor([[0.0, 0.25, 0.5, 1.0]])
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)))
    weight = (every * grey + (1 - every) * (1 - grey)).prod(-1)
    expected = (weight * p.log_prob(every.reshape(16, 1, 4)).flatten()).sum()
    torch.testing.assert_close(p.log_prob(grey)[0], expected)


def test_concrete_draws_round_to_the_bernoulli() -> None:
    """At any temperature a concrete draw exceeds one half with the pixel's own probability."""
    p = Bernoulli(torch.tensor([[-1.0, 0.5, 2.0]]), "concrete", 0.5)
    found = batch_means(lambda: (p.rsample((500,)) > 0.5).float().mean(0)[0])
    assert_close(found, p.mean[0], "P(x > ½)")


# --- the discretised normal ---------------------------------------------------------------------------------

EXTREMES = list(itertools.product([-2.0, -0.01, 0.0, 0.3, 0.998, 1.0, 3.0], [1e-3, 4e-3, 0.05, 0.7, 10.0]))
LEVELS = (torch.arange(256) + 0.5) / 256


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("mu", "sigma"), EXTREMES)
def test_the_256_probabilities_sum_to_one(mu: float, sigma: float, dtype: torch.dtype) -> None:
    """A log probability is a difference of logs of order one: its error is rounding over the bin's width in σ.

    At σ = 10 the bin is 4e-4 wide, so single precision leaves 6e-8 / 4e-4 = 2e-4 of each inner bin, whose sum is 4% of
    the whole: 1e-5 (2e-14 in double).
    """
    p = DiscretisedNormal(
        torch.full((1, 1), mu, dtype=dtype), torch.full((1, 1), math.log(sigma), dtype=dtype)
    )
    total = p.log_prob(LEVELS.to(dtype).reshape(256, 1, 1)).exp().sum()
    assert abs(float(total) - 1) < (2e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize(
    ("mu", "sigma"), [*EXTREMES, (0.3, 1e6)]
)  # at the last, bins are narrower than rounding
def test_every_level_has_a_finite_log_probability_and_gradient(mu: float, sigma: float) -> None:
    mean = torch.full((256, 1), mu, requires_grad=True)
    log_scale = torch.full((256, 1), math.log(sigma), requires_grad=True)
    log_p = DiscretisedNormal(mean, log_scale).log_prob(LEVELS.reshape(256, 1))
    assert bool(torch.isfinite(log_p).all()) and bool((log_p <= 0).all())
    grads = torch.autograd.grad(log_p.sum(), [mean, log_scale])
    assert all(bool(torch.isfinite(g).all()) for g in grads)


def test_bin_probabilities_against_a_reference() -> None:
    """Against double-precision tails by scipy, to the rounding of a difference of logs."""
    for mu, sigma in itertools.product([0.0, 0.3, 1.0], [4e-3, 0.05, 0.7]):
        edges = (torch.arange(257).double() / 256 - mu) / sigma
        upper, lower = stats.norm.sf(edges[1:]), stats.norm.sf(edges[:-1])
        mass = torch.from_numpy(lower - upper)
        below = torch.from_numpy(stats.norm.cdf(edges[1:]) - stats.norm.cdf(edges[:-1]))
        mass = torch.where(edges[:-1] > 0, mass, below)
        found = log_normal_mass(edges[:-1], edges[1:])
        ok = mass > 1e-280
        torch.testing.assert_close(found[ok], mass.log()[ok], atol=1e-10, rtol=1e-10)


def test_log1mexp_keeps_its_digits() -> None:
    """In single precision against double: a few roundings, from tiny arguments to large ones."""
    x = torch.logspace(-30, 1.9, 200).double()
    exact = torch.where(x < 0.1, torch.log(-torch.expm1(-x)), torch.log1p(-torch.exp(-x)))
    torch.testing.assert_close(log1mexp(x.float()).double(), exact, atol=0, rtol=1e-6)


def test_any_value_in_a_bin_has_the_bins_probability() -> None:
    p = DiscretisedNormal(torch.tensor([[0.4]]), torch.tensor([[-2.0]]))
    inside = torch.tensor([0.0, 0.3, 0.999]).reshape(3, 1, 1)
    for level in (0, 77, 255):
        assert len(p.log_prob((level + inside) / 256).unique()) == 1


def test_discretised_samples_follow_its_probabilities() -> None:
    """Chi-square over the levels with an expected count of ten or more, the rest being one cell."""
    n = 20_000
    p = DiscretisedNormal(torch.tensor([[0.97]]), torch.tensor([[math.log(0.05)]]))
    level = (p.sample((n,)).flatten() * 256).long()
    expected = p.log_prob(LEVELS.reshape(256, 1, 1)).exp().flatten().double() * n
    counts = torch.bincount(level, minlength=256).double()
    many = expected >= 10
    cells = torch.stack([torch.cat([v[many], v[~many].sum()[None]]) for v in (counts, expected)])
    chi2 = float(((cells[0] - cells[1]).square() / cells[1].clamp_min(1)).sum())
    assert chi2 < stats.chi2.isf(RARE, df=int(many.sum()))


# --- the normal head ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0.0, 3.5, 10.0])
@pytest.mark.parametrize("scale", [0.01, 0.1, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("variance", ["fixed", "shared", "pixel"])
def test_the_scale_that_was_asked_for_is_the_one_that_is_used(
    variance: str, scale: float, limit: float
) -> None:
    """ "the standard deviation that training starts from, or stays at": to rounding, whatever its limits."""
    options: dict[str, Any] = {"variance": variance, "scale": scale, "max_scale": limit}
    head = NormalHead((2,), **options)
    p = head(lambda inputs: torch.zeros(3, head.values, 2), torch.zeros(3, 1))
    assert isinstance(p, Normal)
    torch.testing.assert_close(p.scale, torch.full((3, 2), scale), atol=0, rtol=1e-5)


def test_a_scale_stays_between_its_limits_and_can_be_moved_off_them() -> None:
    """The ceiling is below the floor's softplus, which lifts it by min_scale / max_scale, relatively: 1e-3."""
    head = NormalHead((1,), min_scale=0.01, max_scale=10.0)
    raw = torch.tensor([-60.0, -3.0, 0.0, 3.0, 60.0]).requires_grad_()
    scale = head(lambda inputs: torch.stack([torch.zeros(5, 1), raw[:, None]], 1), torch.zeros(5, 1)).scale
    assert (scale >= 0.01).all() and (scale <= 10 * (1 + 1e-3)).all() and scale.diff(dim=0).min() > 0
    (slopes,) = torch.autograd.grad(scale.log().sum(), raw)
    assert (slopes[1:4] > 0.05).all() and slopes[2] > 0.8
    for wrong in (0.01, 1.0, 10.0):
        with pytest.raises(ConfigError, match="between its limits"):
            NormalHead((1,), min_scale=0.01, max_scale=wrong, scale=10.0)


# --- moments of the noise basis (III.2), (III.3) and the whole covariance -----------------------------------

M, D, B = 4, 3, 2


def combination(moment_samples: int, draw: Any = None, normal: float = 0.0) -> LinearCombination:
    rng = torch.Generator().manual_seed(3)
    offset, a = torch.randn(B, D, generator=rng), torch.rand(B, M, D, generator=rng) + 0.2
    return LinearCombination(offset, a, draw or basis(), moment_samples, normal)


def basis(bounded: bool = False) -> NoiseBasis:
    """Basis networks that are far from linear in their noise, and correlated between coordinates."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = NoiseBasis(M, 2, (6, 6), D, bounded)
        for parameter in net.parameters():
            parameter.data += 0.5 * torch.randn_like(parameter)
    return net.requires_grad_(False)


def upper(cov: Tensor) -> Tensor:
    i, j = torch.triu_indices(D, D)
    return cov[:, i, j].flatten()


@pytest.mark.parametrize("normal", [0.0, 0.7])
def test_noise_basis_moments_against_brute_force(normal: float) -> None:
    """Both sides are unbiased; their difference, over independent batches, has mean zero."""
    net = basis(bounded=normal > 0)

    def draw() -> Tensor:
        fresh = combination(500, net, normal)
        mean, variance = fresh.moments()
        full_mean, cov = combination(500, net, normal).moments(full=True)
        z = combination(0, net, normal).rsample((500,))
        centred = z - z.mean(0)
        brute = torch.einsum("nbk,nbl->bkl", centred, centred) / 499
        parts = [
            (mean - z.mean(0)).flatten(),
            (full_mean - z.mean(0)).flatten(),
            (variance - z.var(0)).flatten(),
            upper(cov - brute),
        ]
        return torch.cat(parts)

    found = batch_means(draw)
    assert_close(found, torch.zeros_like(found[0]), "moment")
    scale = upper(combination(5000, net, normal).moments(full=True)[1])
    assert_sharp((scale, found[1]), scale, "moment")


def test_noise_basis_moments_are_those_of_the_draws_exactly() -> None:
    """With the same basis draws for every x, (III.2) and (III.3) by a loop over functions and examples."""
    v = torch.randn(50, M, D)
    q = combination(50, lambda n: v[:n])
    mean, variance = q.moments()
    _, cov = combination(50, lambda n: v[:n]).moments(full=True)
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
    """(III.1) with noise of its own for every x and every sample: the covariance of two examples is zero."""
    net = basis()

    def draw() -> Tensor:
        z = combination(0, net).rsample((500,))
        centred = z - z.mean(0)
        return (centred[:, 0, :, None] * centred[:, 1, None, :]).sum(0).flatten() / 499

    found = batch_means(draw)
    assert_close(found, torch.zeros_like(found[0]), "covariance of two examples")


def test_a_bounded_basis_is_the_hyperbolic_tangent_of_the_other() -> None:
    torch.manual_seed(4)
    expected = torch.tanh(basis()(50))
    torch.manual_seed(4)
    torch.testing.assert_close(basis(bounded=True)(50), expected)


@pytest.mark.parametrize("normal", [0.0, 0.7])
def test_normal_noise_comes_with_a_bound(normal: float) -> None:
    head = HEADS.build(
        {"name": "noise-basis", "functions": 3, "noise": 2, "normal": normal}, event_shape=(2,)
    )
    q = head(lambda inputs: torch.zeros(1, 4, 2), torch.zeros(1, 1))
    assert head.basis.bounded == (normal > 0) and q.normal == normal


def test_normal_noise_alone_is_the_normal_that_it_says() -> None:
    """Basis vectors of zero leave Σ_i a_i s ξ_i: moments without an error, normal draws, and their gradient."""
    s, zero = 0.7, lambda n: torch.zeros(n, M, D)
    q = combination(2, zero, s)
    mean, variance = q.moments()
    _, cov = q.moments(full=True)
    expected = s**2 * q.coefficients.square().sum(1)
    torch.testing.assert_close(mean, q.offset)
    torch.testing.assert_close(variance, expected)
    torch.testing.assert_close(cov, torch.diag_embed(expected))

    def draw() -> Tensor:
        u = (q.rsample((500,)) - q.offset) / expected.sqrt()
        return torch.stack([u.mean(0), u.square().mean(0) - 1, u.pow(4).mean(0) - 3])

    found = batch_means(draw)
    assert_close(found, torch.zeros_like(found[0]), "moment of the normal noise")
    q.coefficients.requires_grad_()
    torch.manual_seed(0)
    z = q.rsample()
    slope = torch.autograd.grad(z.sum(), q.coefficients)[
        0
    ]  # z − z⁰ = s |a| ξ, so its slope is (z − z⁰) a / |a|²
    by_hand = (z - q.offset).unsqueeze(1) * q.coefficients / q.coefficients.square().sum(1, keepdim=True)
    torch.testing.assert_close(slope, by_hand)


def test_one_batched_computation_is_a_loop_over_functions() -> None:
    net = basis()
    torch.manual_seed(7)
    together = net(5)
    torch.manual_seed(7)
    noise = torch.randn(M, 5, 2)
    for i in range(M):
        h = noise[i]
        for layer in range(3):
            h = (torch.nn.functional.elu(h) if layer else h) @ net.weights[layer][i] + net.biases[layer][i]
        torch.testing.assert_close(together[:, i], h, atol=1e-5, rtol=1e-5)


def test_the_covariance_of_two_images_is_near_that_of_many_draws() -> None:
    """As 16 dimensions of 8 functions: of two draws each it would have a rank of 8, and no density near z."""
    torch.manual_seed(2)
    net, d = NoiseBasis(8, 4, (8,), 16).requires_grad_(False), 16
    offset, a = torch.zeros(2, d), torch.ones(2, 8, d)
    few = LinearCombination(offset, a, net, 0).moments(full=True)[1]
    many = LinearCombination(offset, a, net, 20_000).moments(full=True)[1]
    # Of n = 8 d draws each: eigenvalues relative to the truth within about (1 ± sqrt(d / 8 n))², as 8 functions add up.
    spread = torch.linalg.eigvalsh(torch.linalg.solve(many, few).mT @ torch.linalg.solve(many, few)).sqrt()
    assert float(spread.min()) > 0.5 and float(spread.max()) < 2


@pytest.mark.parametrize("batch", [1, 2])
def test_moments_of_a_noise_basis_do_not_need_a_large_batch(batch: int) -> None:
    """A user encodes one image: mean and variance must be finite, before a draw and after one."""
    head = HEADS.build({"name": "noise-basis", "functions": 3, "noise": 2, "hidden": [4]}, event_shape=(2,))
    raw = torch.randn(batch, 4, 2)
    for drawn in (False, True):
        q = head(lambda inputs: raw, torch.zeros(batch, 1))
        if drawn:
            q.rsample()
        for full in (False, True):
            mean, spread = q.moments(full)
            assert bool(torch.isfinite(mean).all()) and bool(torch.isfinite(spread).all())


def test_moments_of_an_implicit_distribution() -> None:
    """Unbiased, diagonal and full, against those of the sampler ``μ + L ε``; by few draws, where a bias is large."""
    mu, L = torch.randn(D), torch.randn(D, D)
    many = 400

    def sampler(n: int) -> Tensor:
        return mu + torch.randn(n, many, D) @ L.T

    def draw() -> Tensor:
        q = Implicit(sampler, many, (D,), 4)
        mean, variance = q.moments()
        full = q.moments(full=True)[1]
        return torch.cat([mean.mean(0), variance.mean(0), upper(full.mean(0)[None]), q.mean.mean(0)])

    cov = L @ L.T
    found = batch_means(draw)
    assert_close(found, torch.cat([mu, cov.diagonal(), upper(cov[None]), mu]), "moment")
    assert_sharp((cov, found[1]), cov, "moment")
