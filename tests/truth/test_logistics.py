"""Autoregressive distributions: all images' probabilities sum to one, draws follow them, and the logistic's levels."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from advae.distributions import HEADS
from advae.distributions.autoregressive import Autoregressive, pairs, with_channels_before
from advae.distributions.autoregressive_bernoulli import AutoregressiveBernoulli
from advae.distributions.logistic_mixture import (
    LEVELS,
    AutoregressiveLogistics,
    Mixture,
    draw_mixture,
    log_logistic_mass,
    log_mixture,
    mixture,
    nearest_level,
    numbers,
)
from truth.sampling import assert_close, assert_sharp, batch_means
from truth.test_pixelcnn import network

RARE = 1e-5  # a right program fails one of the goodness-of-fit tests here with this probability
K = 3


def bernoulli(shape: tuple[int, ...]) -> AutoregressiveBernoulli:
    """With a random network."""
    k = HEADS.build({"name": "autoregressive-bernoulli"}, event_shape=shape).values
    net = network(shape, k=k, blocks=1, scales=2)
    return AutoregressiveBernoulli(net, torch.zeros(1, 0), shape)


def logistics(shape: tuple[int, ...], levels: int) -> AutoregressiveLogistics:
    """With a random network, of a few levels."""
    k = math.ceil(numbers(shape[0]) * K / shape[0])
    net = network(shape, k=k, blocks=1, scales=2)
    return AutoregressiveLogistics(net, torch.zeros(1, 0), shape, components=K, levels=levels)


def every_image(shape: tuple[int, ...], levels: int, binary: bool) -> Tensor:
    """All of them, ``[levels^(C·H·W), 1, C, H, W]``, as observations."""
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
def test_the_probabilities_of_all_images_sum_to_one(name: str) -> None:
    """To the rounding of at most 4,096 logarithms of order ten in double precision."""
    p, images = case(name)
    with torch.no_grad():
        log_p = p.log_prob(images)[:, 0]
    assert abs(float(log_p.exp().sum()) - 1) < 1e-12
    assert float(log_p.exp().max()) < 0.9, "one image has nearly all: the sum says little"


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", ["binary 2×2", "three levels 2×2", "five levels, two channels"])
@pytest.mark.parametrize("cached", [True, False])
def test_draws_follow_the_probabilities(name: str, cached: bool) -> None:
    """Chi-square over the images with an expected count of ten or more, the rest being one cell."""
    p, images = case(name)
    n = 4000
    with torch.no_grad():
        expected = p.log_prob(images)[:, 0].exp() * n
    drawn = p.sample((n,), cached=cached).flatten(1)
    index = (drawn[:, None] - images[:, 0].flatten(1)).abs().sum(-1).min(1)
    assert float(index.values.max()) < 1e-9, "a draw is no image"
    counts = torch.bincount(index.indices, minlength=len(images)).double()
    many = expected >= 10
    cells = torch.stack([torch.cat([v[many], v[~many].sum()[None]]) for v in (counts, expected)])
    chi2 = float(((cells[0] - cells[1]).square() / cells[1].clamp_min(1)).sum())
    assert int(many.sum()) > 5 and chi2 < stats.chi2.isf(RARE, df=int(many.sum()))


@pytest.mark.usefixtures("double")
def test_log_probabilities_of_draws_have_minus_the_entropy_as_their_mean() -> None:
    p, images = case("binary 2×2")
    with torch.no_grad():
        log_p = p.log_prob(images)[:, 0]
    entropy = -(log_p.exp() * log_p).sum()
    with torch.no_grad():
        found = batch_means(lambda: p.log_prob(p.sample((100,))).mean(0))
    assert_close(found, -entropy[None], "−entropy")
    assert_sharp(found, entropy[None], "−entropy")


@pytest.mark.usefixtures("double")
def test_a_likelihood_of_binary_images_by_hand() -> None:
    """Pixel by pixel, by the network's logits at the image."""
    p, images = case("binary 3×3")
    x = images[77, 0]
    with torch.no_grad():
        logits = p.network(2 * x[None] - 1)[0, 0]
        by_hand = sum(
            math.log(1 / (1 + math.exp(-l))) if v else math.log(1 / (1 + math.exp(l)))
            for v, l in zip(x.flatten().tolist(), logits.flatten().tolist(), strict=True)
        )
        assert float(p.log_prob(x[None])) == pytest.approx(by_hand, abs=1e-12)


def test_the_network_is_shown_levels_alone() -> None:
    """Where within its bin a value lies changes nothing, in any pixel; the next level does."""
    p = logistics((1, 3, 3), LEVELS)
    level = torch.randint(0, 255, (4, 1, 3, 3))
    u = torch.rand(5, 4, 1, 3, 3) * 0.998
    with torch.no_grad():
        log_p = p.log_prob((level + u) / 256)
        torch.testing.assert_close(log_p, log_p[:1].expand(5, 4), atol=0, rtol=1e-5)
        assert bool(((p.log_prob((level + 1 + u) / 256) - log_p).abs() > 1e-3).all())


def test_constant_weights_let_gradients_reach_values_only() -> None:
    p = bernoulli((1, 2, 2))
    x = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]], requires_grad=True)
    fixed = p.fixed()
    torch.testing.assert_close(fixed.log_prob(x), p.log_prob(x))
    grads = torch.autograd.grad(fixed.log_prob(x).sum(), [x, *p.network.parameters()], allow_unused=True)
    assert grads[0] is not None and all(g is None for g in grads[1:])


# --- the logistic's levels ----------------------------------------------------------------------------------

EXTREMES = list(itertools.product([-3.0, -1.0, 0.013, 0.998, 1.0, 2.5], [-7.0, -4.0, -1.0, 1.0, 4.0]))
LINE = torch.arange(LEVELS, dtype=torch.float64) * 2 / 255 - 1


def direct(mean: float, log_scale: float) -> Tensor:
    """``P(x)`` for all 256 levels by differences of the logistic's distribution function, in double precision.

    Above the mean of its complement, so that the numbers that are subtracted are no larger than needed.
    """
    edges = torch.cat([torch.tensor([-torch.inf]), LINE[:-1] + 1 / 255, torch.tensor([torch.inf])]).double()
    t = (edges - mean) * math.exp(-log_scale)
    below, above = torch.sigmoid(t), torch.sigmoid(-t)
    return torch.where(t[1:] < 0, below[1:] - below[:-1], above[:-1] - above[1:])


@pytest.mark.parametrize(("mean", "log_scale"), EXTREMES)
def test_levels_against_differences_of_the_distribution_function(mean: float, log_scale: float) -> None:
    """A difference is right to the rounding 2e-16 of its terms, over its share of them, 2/255/4s: 6e-12 at s = e⁴."""
    exact = direct(mean, log_scale)
    seen = exact > 1e-290
    found = log_logistic_mass(LINE, *torch.tensor([mean, log_scale], dtype=torch.float64))
    torch.testing.assert_close(found[seen], exact.log()[seen], atol=1e-11, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("mean", "log_scale"), EXTREMES)
def test_the_256_probabilities_sum_to_one(mean: float, log_scale: float, dtype: torch.dtype) -> None:
    """A bound is computed apart for the two levels that share it, so that the rounding of x − μ is lost or won.

    In single precision that is 1e-7 (of numbers up to 3), over s = e⁻⁷ 1e-4, and a quarter of it in probability, for
    each of the few levels that have any.
    """
    log_p = log_logistic_mass(
        LINE.to(dtype), torch.tensor(mean, dtype=dtype), torch.tensor(log_scale, dtype=dtype)
    )
    assert abs(float(log_p.double().exp().sum()) - 1) < (2e-4 if dtype == torch.float32 else 1e-12)
    assert bool(torch.isfinite(log_p).all())


@pytest.mark.parametrize(("mean", "log_scale"), [*EXTREMES, (0.0, 90.0), (1e4, -7.0)])
def test_every_level_has_a_finite_gradient(mean: float, log_scale: float) -> None:
    m = torch.full((LEVELS,), mean, requires_grad=True)
    s = torch.full((LEVELS,), log_scale, requires_grad=True)
    log_p = log_logistic_mass(LINE.float(), m, s)
    grads = torch.autograd.grad(log_p.sum(), [m, s])
    assert bool(torch.isfinite(log_p).all()) and all(bool(torch.isfinite(g).all()) for g in grads)


def some_pixel(channels: int) -> Mixture:
    raw = torch.randn(1, math.ceil(numbers(channels) * K / channels), channels) - 0.3
    return mixture(raw, K)


def alike(p: Mixture, n: int) -> Mixture:
    """``n`` pixels of the same distribution."""
    return Mixture(*(t.expand(n, *t.shape[1:]) for t in p))


def log_p_of(p: Mixture, pixels: Tensor, levels: int = LEVELS) -> Tensor:
    """Of each of ``pixels [n, C]``, ``[n]``."""
    return log_mixture(alike(p, len(pixels)), pixels, levels)


@pytest.mark.usefixtures("double")
def test_a_channel_given_those_before_it_sums_to_one() -> None:
    """Sums over all levels of the last channels are the probabilities of the first alone, written out by hand."""
    p, r, g = some_pixel(3), 100, 180
    red, green = float(LINE[r]), float(LINE[g])
    w, a = p.log_weight.exp()[0], p.slope[0]
    m, s = p.mean[0], p.log_scale[0]
    P_r = [direct(float(m[0, k]), float(s[0, k])) for k in range(K)]
    P_g = [direct(float(m[1, k] + a[0, k] * red), float(s[1, k])) for k in range(K)]
    P_b = [direct(float(m[2, k] + a[1, k] * red + a[2, k] * green), float(s[2, k])) for k in range(K)]

    levels = torch.stack(torch.meshgrid(LINE, LINE, indexing="ij"), -1).reshape(-1, 2)
    blue = torch.stack([LINE * 0 + red, LINE * 0 + green, LINE], 1)
    of_blue = log_p_of(p, blue).exp()
    expected = sum(w[k] * P_r[k][r] * P_g[k][g] * P_b[k] for k in range(K))
    torch.testing.assert_close(of_blue, expected, atol=1e-15, rtol=1e-10)
    expected_rg = sum(w[k] * P_r[k][r] * P_g[k][g] for k in range(K))
    assert float(of_blue.sum()) == pytest.approx(float(expected_rg), rel=1e-12)

    rest = torch.cat([torch.full((len(levels), 1), red), levels], 1)
    expected_r = sum(w[k] * P_r[k][r] for k in range(K))
    assert float(log_p_of(p, rest).exp().sum()) == pytest.approx(float(expected_r), rel=1e-12)
    assert float(sum(w[k] * P_r[k].sum() for k in range(K))) == pytest.approx(1, abs=1e-12)


@pytest.mark.usefixtures("double")
def test_a_channel_depends_on_those_before_it_alone() -> None:
    """By the Jacobian of the shifted means; a channel's own weights, in the order (1, 0), (2, 0), (2, 1), (3, 0), …"""
    base, weights = torch.randn(1, 4), torch.randn(1, pairs(4))
    shown = torch.rand(1, 4, requires_grad=True)
    slope = torch.autograd.functional.jacobian(lambda x: with_channels_before(base, weights, x), shown)[
        0, :, 0
    ]
    expected = torch.zeros(4, 4)
    expected[*torch.tril_indices(4, 4, -1)] = weights[0]  # row by row
    torch.testing.assert_close(slope, expected)
    torch.testing.assert_close(with_channels_before(base, weights, shown), base + shown @ expected.T)


def test_the_last_numbers_of_an_rgb_pixel_are_not_used_and_all_others_are() -> None:
    """Ten components of ten numbers, in 34 for each of three channels: two are left over."""
    head = HEADS.build({"name": "autoregressive-logistics"}, event_shape=(3, 2, 2))
    assert head.values == 34
    raw = torch.randn(2, 34, 3, 2, 2, requires_grad=True)
    shown = nearest_level(torch.rand(2, 3, 2, 2) * 2 - 1)
    (grad,) = torch.autograd.grad(log_mixture(mixture(raw, 10), shown).sum(), raw)
    used = (grad != 0).flatten(1, 2).flatten(2).any(2)
    assert bool(used[:, :100].all()) and not bool(used[:, 100:].any())
    assert HEADS.build({"name": "autoregressive-logistics"}, event_shape=(1, 2, 2)).values == 30


@pytest.mark.parametrize("channels", [1, 3])
def test_a_drawn_pixel_follows_the_mixture(channels: int) -> None:
    """Of four levels, by chi-square over all pixels."""
    n, levels = 20_000, 4
    p = some_pixel(channels)
    values = torch.arange(levels) * (2 / (levels - 1)) - 1
    every = torch.tensor(list(itertools.product(values.tolist(), repeat=channels)))
    expected = log_p_of(p, every, levels).exp().double() * n
    drawn = draw_mixture(alike(p, n), torch.rand(n, 1 + channels), levels)
    assert torch.equal(drawn, nearest_level(drawn, levels))
    place = ((drawn + 1) * (levels - 1) / 2).round().long()
    code = (place * levels ** torch.arange(channels - 1, -1, -1)).sum(1)
    counts = torch.bincount(code, minlength=len(every)).double()
    cells = expected >= 10
    both = torch.stack([torch.cat([v[cells], v[~cells].sum()[None]]) for v in (counts, expected)])
    chi2 = float(((both[0] - both[1]).square() / both[1].clamp_min(1)).sum())
    assert chi2 < stats.chi2.isf(RARE, df=int(cells.sum()))


def test_a_draw_uses_every_random_number_once() -> None:
    """A channel's number moves that channel, and later ones only through it; the first moves the component."""
    p = some_pixel(3)
    u = torch.full((1, 4), 0.5)
    base = draw_mixture(p, u)
    for c in range(3):
        moved = u.clone()
        moved[0, 1 + c] = 0.999
        changed = (draw_mixture(p, moved) != base)[0]
        assert bool(changed[c]) and not bool(changed[:c].any())
    ends = [draw_mixture(p, torch.tensor([[e, 0.5, 0.5, 0.5]])) for e in (0.0, 1 - 2**-24)]
    assert not torch.equal(*ends)
    extreme = draw_mixture(p, torch.tensor([[0.5, 0.0, 0.0, 0.0]]))
    assert extreme.tolist() == [[-1.0, -1.0, -1.0]], "the lowest level takes the tail"


def test_the_level_of_a_channel_is_handed_on_and_not_what_was_drawn() -> None:
    """Of levels −1, −⅓, ⅓, 1: 0.6 is drawn, which is ⅓, and the next lies at ⅓ + 0.2, not at 0.6 + 0.2; slope 1."""
    one = torch.tensor
    narrow = torch.full((1, 2, 1), -7.0)
    p = Mixture(one([[0.0]]), one([[[0.6], [0.2]]]), narrow, one([[[1.0]]]))
    drawn = draw_mixture(p, torch.full((1, 3), 0.5), levels=4)
    torch.testing.assert_close(drawn, torch.full((1, 2), 1 / 3))
    assert float(log_mixture(p, drawn, levels=4)) > -1e-6


def test_levels_shown_and_observed() -> None:
    """Every level goes to its place on the line and back to the middle of its bin."""
    p = logistics((1, 16, 16), LEVELS)
    middle = ((torch.arange(256) + 0.5) / 256).reshape(1, 1, 16, 16)
    shown = p.shown(middle)
    torch.testing.assert_close(shown.flatten(), LINE.float(), atol=2e-7, rtol=0)
    assert torch.equal(nearest_level(shown), shown), "drawn and scored levels are the same numbers"
    torch.testing.assert_close(p.observed(shown), middle, atol=0, rtol=0)
    assert p.shown(torch.tensor([0.0, 1.0])).tolist() == [-1.0, 1.0]
    half = 1 / 255
    for i in (1, 100, 254):
        inside = LINE[i] + torch.tensor([-0.99, 0.99]).double() * half
        assert nearest_level(inside).tolist() == [float(LINE[i])] * 2
