"""Autoregressive distributions: probabilities of all images, samples, and masses of the logistic's levels."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from advae.distributions import HEADS
from advae.distributions.autoregressive import (
    Autoregressive,
    AutoregressiveBernoulli,
    condition_on_channels,
    num_channel_pairs,
)
from advae.distributions.logistic_mixture import (
    NUM_LEVELS,
    AutoregressiveLogisticMixture,
    MixtureParams,
    log_logistic_mass,
    mixture_log_prob,
    nearest_level,
    params_per_component,
    parse_mixture,
    sample_mixture,
)
from truth.sampling import assert_close, assert_sharp, batch_means
from truth.test_pixelcnn import network

P_VALUE = 1e-5  # probability that a correct implementation fails one of the goodness-of-fit tests
K = 3


def bernoulli(shape: tuple[int, ...]) -> AutoregressiveBernoulli:
    """Return a distribution by a random network."""
    k = HEADS.build({"name": "autoregressive-bernoulli"}, event_shape=shape).num_params
    net = network(shape, k=k, num_blocks=1, num_scales=2)
    return AutoregressiveBernoulli(net, torch.zeros(1, 0), shape)


def logistics(shape: tuple[int, ...], levels: int) -> AutoregressiveLogisticMixture:
    """Return a distribution over a few levels by a random network."""
    k = math.ceil(params_per_component(shape[0]) * K / shape[0])
    net = network(shape, k=k, num_blocks=1, num_scales=2)
    return AutoregressiveLogisticMixture(net, torch.zeros(1, 0), shape, num_components=K, levels=levels)


def every_image(shape: tuple[int, ...], levels: int, binary: bool) -> Tensor:
    """Return all images as observations, ``[levels^(C·H·W), 1, C, H, W]``."""
    values = range(levels) if binary else [(i + 0.5) / levels for i in range(levels)]
    images = list(itertools.product(values, repeat=math.prod(shape)))
    return torch.tensor(images, dtype=torch.float64).reshape(-1, 1, *shape)


CASES: dict[str, tuple[Any, tuple[int, ...], int]] = {
    "binary 2×2": (bernoulli, (1, 2, 2), 2),
    "binary 2×2 of three channels": (bernoulli, (3, 2, 2), 2),
    "binary 3×3": (bernoulli, (1, 3, 3), 2),
    "three levels 2×2": (logistics, (1, 2, 2), 3),
    "four levels, three channels": (logistics, (3, 1, 2), 4),
    "five levels, two channels": (logistics, (2, 1, 2), 5),
}


def case(name: str) -> tuple[Autoregressive, Tensor]:
    make, shape, levels = CASES[name]
    p = make(shape) if make is bernoulli else make(shape, levels)
    return p, every_image(shape, levels, make is bernoulli)


# --- whole images -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", CASES)
def test_probabilities_of_all_images_sum_to_one(name: str) -> None:
    """To the rounding of at most 4,096 logarithms of order ten in double precision."""
    p, images = case(name)
    with torch.no_grad():
        log_p = p.log_prob(images)[:, 0]
    assert abs(float(log_p.exp().sum()) - 1) < 1e-12
    assert float(log_p.exp().max()) < 0.9, "the test needs probability mass on several images"


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", ["binary 2×2", "three levels 2×2", "five levels, two channels"])
@pytest.mark.parametrize("cached", [True, False])
def test_samples_follow_the_probabilities(name: str, cached: bool) -> None:
    """Chi-squared test over the images with an expected count of ten or more; the rest are one cell."""
    p, images = case(name)
    n = 4000
    with torch.no_grad():
        expected = p.log_prob(images)[:, 0].exp() * n
    samples = p.sample((n,), cached=cached).flatten(1)
    index = (samples[:, None] - images[:, 0].flatten(1)).abs().sum(-1).min(1)
    assert float(index.values.max()) < 1e-9, "a sample is not one of the images"
    counts = torch.bincount(index.indices, minlength=len(images)).double()
    many = expected >= 10
    cells = torch.stack([torch.cat([v[many], v[~many].sum()[None]]) for v in (counts, expected)])
    chi2 = float(((cells[0] - cells[1]).square() / cells[1].clamp_min(1)).sum())
    assert int(many.sum()) > 5 and chi2 < stats.chi2.isf(P_VALUE, df=int(many.sum()))


@pytest.mark.usefixtures("double")
def test_mean_log_prob_of_samples_is_minus_the_entropy() -> None:
    p, images = case("binary 2×2")
    with torch.no_grad():
        log_p = p.log_prob(images)[:, 0]
    entropy = -(log_p.exp() * log_p).sum()
    with torch.no_grad():
        estimate = batch_means(lambda: p.log_prob(p.sample((100,))).mean(0))
    assert_close(estimate, -entropy[None], "−entropy")
    assert_sharp(estimate, entropy[None], "−entropy")


@pytest.mark.usefixtures("double")
def test_binary_log_prob_is_the_sum_over_pixels() -> None:
    """By the network's logits at the image."""
    p, images = case("binary 3×3")
    x = images[77, 0]
    with torch.no_grad():
        logits = p.network(2 * x[None] - 1)[0, 0]
        expected = sum(
            math.log(1 / (1 + math.exp(-l))) if v else math.log(1 / (1 + math.exp(l)))
            for v, l in zip(x.flatten().tolist(), logits.flatten().tolist(), strict=True)
        )
        assert float(p.log_prob(x[None])) == pytest.approx(expected, abs=1e-12)


def test_network_input_is_levels_only() -> None:
    """The position of a value within its bin has no effect, in any pixel; the next level has one."""
    p = logistics((1, 3, 3), NUM_LEVELS)
    level = torch.randint(0, 255, (4, 1, 3, 3))
    u = torch.rand(5, 4, 1, 3, 3) * 0.998
    with torch.no_grad():
        log_p = p.log_prob((level + u) / 256)
        torch.testing.assert_close(log_p, log_p[:1].expand(5, 4), atol=0, rtol=1e-5)
        assert bool(((p.log_prob((level + 1 + u) / 256) - log_p).abs() > 1e-3).all())


def test_detach_lets_gradients_reach_values_only() -> None:
    p = bernoulli((1, 2, 2))
    x = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]], requires_grad=True)
    detached = p.detach()
    torch.testing.assert_close(detached.log_prob(x), p.log_prob(x))
    grads = torch.autograd.grad(detached.log_prob(x).sum(), [x, *p.network.parameters()], allow_unused=True)
    assert grads[0] is not None and all(g is None for g in grads[1:])


# --- the logistic's levels ----------------------------------------------------------------------------------

EXTREMES = list(itertools.product([-3.0, -1.0, 0.013, 0.998, 1.0, 2.5], [-7.0, -4.0, -1.0, 1.0, 4.0]))
SCALED_LEVELS = torch.arange(NUM_LEVELS, dtype=torch.float64) * 2 / 255 - 1


def level_masses(mean: float, log_scale: float) -> Tensor:
    """Return ``P(x)`` for all 256 levels by differences of the logistic's distribution function, in double precision.

    Above the mean by its complement, so that the numbers that are subtracted are as small as possible.
    """
    edges = torch.cat(
        [torch.tensor([-torch.inf]), SCALED_LEVELS[:-1] + 1 / 255, torch.tensor([torch.inf])]
    ).double()
    t = (edges - mean) * math.exp(-log_scale)
    below, above = torch.sigmoid(t), torch.sigmoid(-t)
    return torch.where(t[1:] < 0, below[1:] - below[:-1], above[:-1] - above[1:])


@pytest.mark.parametrize(("mean", "log_scale"), EXTREMES)
def test_log_logistic_mass_matches_differences_of_the_cdf(mean: float, log_scale: float) -> None:
    """The relative error of a difference is 2e-16 over its share of its terms, 2/255/4s: 6e-12 at s = e⁴."""
    exact = level_masses(mean, log_scale)
    positive = exact > 1e-290
    log_mass = log_logistic_mass(SCALED_LEVELS, *torch.tensor([mean, log_scale], dtype=torch.float64))
    torch.testing.assert_close(log_mass[positive], exact.log()[positive], atol=1e-11, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("mean", "log_scale"), EXTREMES)
def test_logistic_masses_sum_to_one(mean: float, log_scale: float, dtype: torch.dtype) -> None:
    """The two levels that share a bound compute it separately, so the sum has an error by the rounding of x − μ.

    In single precision that is 1e-7 (of numbers up to 3), divided by s = e⁻⁷ 1e-4, and a quarter of it in probability,
    for each of the few levels with any mass.
    """
    log_p = log_logistic_mass(
        SCALED_LEVELS.to(dtype), torch.tensor(mean, dtype=dtype), torch.tensor(log_scale, dtype=dtype)
    )
    assert abs(float(log_p.double().exp().sum()) - 1) < (2e-4 if dtype == torch.float32 else 1e-12)
    assert bool(torch.isfinite(log_p).all())


@pytest.mark.parametrize(("mean", "log_scale"), [*EXTREMES, (0.0, 90.0), (1e4, -7.0)])
def test_logistic_masses_have_finite_gradients(mean: float, log_scale: float) -> None:
    m = torch.full((NUM_LEVELS,), mean, requires_grad=True)
    s = torch.full((NUM_LEVELS,), log_scale, requires_grad=True)
    log_p = log_logistic_mass(SCALED_LEVELS.float(), m, s)
    grads = torch.autograd.grad(log_p.sum(), [m, s])
    assert bool(torch.isfinite(log_p).all()) and all(bool(torch.isfinite(g).all()) for g in grads)


def random_mixture(channels: int) -> MixtureParams:
    raw = torch.randn(1, math.ceil(params_per_component(channels) * K / channels), channels) - 0.3
    return parse_mixture(raw, K)


def repeat(p: MixtureParams, n: int) -> MixtureParams:
    """Return ``n`` pixels with the same distribution."""
    return MixtureParams(*(t.expand(n, *t.shape[1:]) for t in p))


def log_prob(p: MixtureParams, pixels: Tensor, levels: int = NUM_LEVELS) -> Tensor:
    """Return the log probability of each of ``pixels [n, C]``, ``[n]``."""
    return mixture_log_prob(repeat(p, len(pixels)), pixels, levels)


@pytest.mark.usefixtures("double")
def test_sums_over_later_channels_are_marginals() -> None:
    """Sums over all levels of the last channels are the probabilities of the first channels."""
    p, r, g = random_mixture(3), 100, 180
    red, green = float(SCALED_LEVELS[r]), float(SCALED_LEVELS[g])
    w, a = p.log_weight.exp()[0], p.coefficients[0]
    m, s = p.mean[0], p.log_scale[0]
    P_r = [level_masses(float(m[0, k]), float(s[0, k])) for k in range(K)]
    P_g = [level_masses(float(m[1, k] + a[0, k] * red), float(s[1, k])) for k in range(K)]
    P_b = [level_masses(float(m[2, k] + a[1, k] * red + a[2, k] * green), float(s[2, k])) for k in range(K)]

    levels = torch.stack(torch.meshgrid(SCALED_LEVELS, SCALED_LEVELS, indexing="ij"), -1).reshape(-1, 2)
    blue = torch.stack([SCALED_LEVELS * 0 + red, SCALED_LEVELS * 0 + green, SCALED_LEVELS], 1)
    p_blue = log_prob(p, blue).exp()
    expected = sum(w[k] * P_r[k][r] * P_g[k][g] * P_b[k] for k in range(K))
    torch.testing.assert_close(p_blue, expected, atol=1e-15, rtol=1e-10)
    expected_rg = sum(w[k] * P_r[k][r] * P_g[k][g] for k in range(K))
    assert float(p_blue.sum()) == pytest.approx(float(expected_rg), rel=1e-12)

    green_blue = torch.cat([torch.full((len(levels), 1), red), levels], 1)
    expected_r = sum(w[k] * P_r[k][r] for k in range(K))
    assert float(log_prob(p, green_blue).exp().sum()) == pytest.approx(float(expected_r), rel=1e-12)
    assert float(sum(w[k] * P_r[k].sum() for k in range(K))) == pytest.approx(1, abs=1e-12)


@pytest.mark.usefixtures("double")
def test_channel_depends_on_earlier_channels_only() -> None:
    """By the Jacobian of the conditional means; its order of weights is (1, 0), (2, 0), (2, 1), (3, 0), …"""
    base, weights = torch.randn(1, 4), torch.randn(1, num_channel_pairs(4))
    x = torch.rand(1, 4, requires_grad=True)
    jacobian = torch.autograd.functional.jacobian(lambda x: condition_on_channels(base, weights, x), x)[
        0, :, 0
    ]
    expected = torch.zeros(4, 4)
    expected[*torch.tril_indices(4, 4, -1)] = weights[0]  # row by row
    torch.testing.assert_close(jacobian, expected)
    torch.testing.assert_close(condition_on_channels(base, weights, x), base + x @ expected.T)


def test_last_outputs_for_an_rgb_pixel_are_unused() -> None:
    """Ten components of ten numbers, in 34 for each of three channels: two are unused."""
    head = HEADS.build({"name": "autoregressive-logistic-mixture"}, event_shape=(3, 2, 2))
    assert head.num_params == 34
    raw = torch.randn(2, 34, 3, 2, 2, requires_grad=True)
    x = nearest_level(torch.rand(2, 3, 2, 2) * 2 - 1)
    (grad,) = torch.autograd.grad(mixture_log_prob(parse_mixture(raw, 10), x).sum(), raw)
    used = (grad != 0).flatten(1, 2).flatten(2).any(2)
    assert bool(used[:, :100].all()) and not bool(used[:, 100:].any())
    assert HEADS.build({"name": "autoregressive-logistic-mixture"}, event_shape=(1, 2, 2)).num_params == 30


@pytest.mark.parametrize("channels", [1, 3])
def test_sampled_pixels_follow_the_mixture(channels: int) -> None:
    """Chi-squared test over all pixels of four levels."""
    n, levels = 20_000, 4
    p = random_mixture(channels)
    values = torch.arange(levels) * (2 / (levels - 1)) - 1
    every = torch.tensor(list(itertools.product(values.tolist(), repeat=channels)))
    expected = log_prob(p, every, levels).exp().double() * n
    pixels = sample_mixture(repeat(p, n), torch.rand(n, 1 + channels), levels)
    assert torch.equal(pixels, nearest_level(pixels, levels))
    level = ((pixels + 1) * (levels - 1) / 2).round().long()
    index = (level * levels ** torch.arange(channels - 1, -1, -1)).sum(1)
    counts = torch.bincount(index, minlength=len(every)).double()
    cells = expected >= 10
    both = torch.stack([torch.cat([v[cells], v[~cells].sum()[None]]) for v in (counts, expected)])
    chi2 = float(((both[0] - both[1]).square() / both[1].clamp_min(1)).sum())
    assert chi2 < stats.chi2.isf(P_VALUE, df=int(cells.sum()))


def test_every_uniform_number_affects_the_sample() -> None:
    """A channel's number changes that channel, and later ones only through it; the first changes the component."""
    p = random_mixture(3)
    u = torch.full((1, 4), 0.5)
    base = sample_mixture(p, u)
    for c in range(3):
        moved = u.clone()
        moved[0, 1 + c] = 0.999
        changed = (sample_mixture(p, moved) != base)[0]
        assert bool(changed[c]) and not bool(changed[:c].any())
    ends = [sample_mixture(p, torch.tensor([[e, 0.5, 0.5, 0.5]])) for e in (0.0, 1 - 2**-24)]
    assert not torch.equal(*ends)
    extreme = sample_mixture(p, torch.tensor([[0.5, 0.0, 0.0, 0.0]]))
    assert extreme.tolist() == [[-1.0, -1.0, -1.0]], "the lowest level takes the tail"


def test_next_channel_is_conditioned_on_the_rounded_level() -> None:
    """Levels −1, −⅓, ⅓, 1; coefficient 1: 0.6 is rounded to ⅓, and the next mean is ⅓ + 0.2, not 0.6 + 0.2."""
    one = torch.tensor
    narrow = torch.full((1, 2, 1), -7.0)
    p = MixtureParams(one([[0.0]]), one([[[0.6], [0.2]]]), narrow, one([[[1.0]]]))
    pixel = sample_mixture(p, torch.full((1, 3), 0.5), levels=4)
    torch.testing.assert_close(pixel, torch.full((1, 2), 1 / 3))
    assert float(mixture_log_prob(p, pixel, levels=4)) > -1e-6


def test_levels_map_to_network_inputs_and_back() -> None:
    """Every level is mapped to its scaled value, and back to the center of its bin."""
    p = logistics((1, 16, 16), NUM_LEVELS)
    centers = ((torch.arange(256) + 0.5) / 256).reshape(1, 1, 16, 16)
    inputs = p.to_network(centers)
    torch.testing.assert_close(inputs.flatten(), SCALED_LEVELS.float(), atol=2e-7, rtol=0)
    assert torch.equal(nearest_level(inputs), inputs), "sampled and observed levels are the same numbers"
    torch.testing.assert_close(p.from_network(inputs), centers, atol=0, rtol=0)
    assert p.to_network(torch.tensor([0.0, 1.0])).tolist() == [-1.0, 1.0]
    half = 1 / 255
    for i in (1, 100, 254):
        inside = SCALED_LEVELS[i] + torch.tensor([-0.99, 0.99]).double() * half
        assert nearest_level(inside).tolist() == [float(SCALED_LEVELS[i])] * 2
