"""What holds for every head and the distribution it makes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from advae.distributions import HEADS, Distribution, StandardNormal
from advae.errors import ConfigError, NoDensityError
from advae.methods.base import log_density
from contract import parts

B = 4
SAMPLE_SHAPES: list[tuple[int, ...]] = [(), (3,), (2, 3)]

every_head = pytest.mark.parametrize("name", parts.heads())
every_pixel_head = pytest.mark.parametrize("name", parts.pixel_heads())


def events(name: str) -> list[tuple[int, ...]]:
    """Codes for all; images for those that serve as likelihoods."""
    return [(3,)] if name == "noise-basis" else [(3,), (2, 3, 5)]


def made(name: str, event: tuple[int, ...]) -> tuple[Distribution, nn.Module]:
    """A distribution over this event made by a head from a small network, and the module of both."""
    head = HEADS.build(parts.spec(HEADS, name), event_shape=event)
    net = parts.network("mlp", (6,), (head.values, *event), noise=head.noise)
    module = nn.ModuleDict({"net": net, "head": head})
    return head(net, torch.randn(B, 6)), module


def value(p: Distribution, shape: tuple[int, ...] = ()) -> Tensor:
    return p.sample(shape)


@every_head
@pytest.mark.parametrize("shape", SAMPLE_SHAPES, ids=str)
def test_shapes(name: str, shape: tuple[int, ...]) -> None:
    for event in events(name):
        p, _ = made(name, event)
        assert p.batch_shape == (B,) and p.event_shape == event
        for draw in (p.rsample(shape), p.sample(shape)):
            assert draw.shape == (*shape, B, *event)
            assert bool(torch.isfinite(draw).all()) and draw.dtype == torch.float32
        assert p.mean.shape == (B, *event)
        assert f"batch=({B},)" in repr(p) and type(p).__name__ in repr(p)
        if p.has_log_prob:
            assert p.log_prob(value(p, shape)).shape == (*shape, B)
        if p.scores_draws:
            draw, score = p.rsample_and_log_prob(shape)
            assert draw.shape == (*shape, B, *event) and score.shape == (*shape, B)


@every_head
def test_gradients_reach_the_parameters_through_a_draw_but_not_through_a_sample(name: str) -> None:
    p, module = made(name, (3,))
    assert not p.sample().requires_grad
    draw, score = p.rsample(), torch.zeros(())
    assert draw.requires_grad
    if p.scores_draws and not p.has_log_prob:  # what scores and does not draw: a reverse model
        draw, score = p.rsample_and_log_prob()
    loss = draw.square().sum() + score.sum()
    grads = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)
    assert all(g is not None for g in grads)


@every_head
def test_log_prob_broadcasts_over_leading_axes_and_sums_over_the_event(name: str) -> None:
    for event in events(name):
        p, _ = made(name, event)
        x = value(p, (2, 3)) if p.has_log_prob else p.sample((2, 3))
        if not p.has_log_prob:
            with pytest.raises(NoDensityError, match="implicit"):
                p.log_prob(x)
            if not p.scores_draws:
                with pytest.raises(NoDensityError):
                    p.rsample_and_log_prob()
            continue
        whole = p.log_prob(x)
        torch.testing.assert_close(whole[1, 2], p.log_prob(x[1, 2]))
        torch.testing.assert_close(p.log_prob(x[:1, :1])[0, 0], p.log_prob(x[0, 0]))
        assert not torch.allclose(whole[..., 0], whole[..., 1]), (
            "every element of the batch has its own density"
        )


@every_head
def test_fixed_lets_gradients_reach_values_only(name: str) -> None:
    p, module = made(name, (3,))
    if not p.has_log_prob:
        return
    x = (value(p) * 0.9 + 0.03).requires_grad_()
    fixed = p.fixed()
    assert type(fixed) is type(p)
    torch.testing.assert_close(fixed.log_prob(x), p.log_prob(x))
    log_p = fixed.log_prob(x).sum()
    grads = torch.autograd.grad(log_p, [x, *module.parameters()], allow_unused=True)
    assert all(g is None for g in grads[1:])
    assert grads[0] is not None


@every_head
def test_a_known_term_has_a_slope_in_its_value(name: str) -> None:
    """A known term of a critic is a *density* of what ``rsample`` draws, and is differentiated in the value.

    A probability of 8-bit levels, a staircase, would leave the model without that part of its gradient, and the critic
    with log 256 nats a number to make up. Checked by the increments of the term over steps wider than a level:
    the integral of its slope must be the difference at the ends (trapezium rule; smooth functions, 1e-3).
    """
    p, _ = made(name, (1,))
    if not p.has_log_prob:
        return
    a, b = 0.2, 0.8
    ends = [log_density(p, torch.full((B, 1), end)) for end in (a, b)]
    grid = torch.linspace(a, b, 2001)[:, None, None].expand(2001, B, 1).clone().requires_grad_()
    (slope,) = torch.autograd.grad(log_density(p, grid).sum(), grid)
    integral = torch.trapezoid(slope[..., 0], dx=(b - a) / 2000, dim=0)
    torch.testing.assert_close(integral, (ends[1] - ends[0]).detach(), atol=1e-3, rtol=1e-3)


@every_head
def test_moments(name: str) -> None:
    p, _ = made(name, (3,))
    mean, variance = p.moments()
    full_mean, cov = p.moments(full=True)
    assert mean.shape == variance.shape == full_mean.shape == (B, 3)
    assert cov.shape == (B, 3, 3)
    assert bool((variance > 0).all())
    assert bool((torch.linalg.eigvalsh(cov) > -1e-6).all())
    torch.testing.assert_close(cov, cov.transpose(1, 2))


@every_head
def test_a_head_saves_and_counts_its_own_parameters(name: str) -> None:
    head = HEADS.build(parts.spec(HEADS, name), event_shape=(3,))
    again = HEADS.build(parts.spec(HEADS, name), event_shape=(3,))
    again.load_state_dict(head.state_dict())
    assert head.support in {"binary", "unit", "8-bit", "real"}
    assert repr(head)


def made_of_pixels(name: str, event: tuple[int, ...]) -> tuple[Distribution, nn.Module]:
    """As :func:`made`, of a head and network of pixels that depend on each other."""
    head = HEADS.build(parts.spec(HEADS, name), event_shape=event)
    net = parts.network("pixelcnn", (0,), (head.values, *event))
    return head(net, torch.zeros(B, 0)), nn.ModuleDict({"net": net, "head": head})


@every_pixel_head
@pytest.mark.parametrize("event", [(1, 4, 5), (3, 5, 4)], ids=str)
def test_pixels(name: str, event: tuple[int, ...]) -> None:
    """Shapes, gradients and precision of a likelihood that is scored in one pass and drawn pixel by pixel."""
    p, module = made_of_pixels(name, event)
    assert p.batch_shape == (B,) and p.event_shape == event and p.has_log_prob and not p.scores_draws
    for shape in SAMPLE_SHAPES:
        draw = p.sample(shape)
        assert draw.shape == (*shape, B, *event) and draw.dtype == torch.float32
        assert not draw.requires_grad and bool((draw >= 0).all() and (draw <= 1).all())
        log_p = p.log_prob(draw)
        assert log_p.shape == (*shape, B) and log_p.dtype == torch.float32
    torch.testing.assert_close(log_p[1, 2], p.log_prob(draw[1, 2]))
    torch.testing.assert_close(p.log_prob(draw[:1, :1])[0, 0], p.log_prob(draw[0, 0]))
    grads = torch.autograd.grad(log_p.sum(), list(module.parameters()))
    assert all(bool(g.abs().sum() > 0) for g in grads)
    with torch.autocast("cpu", torch.bfloat16):
        low = p.log_prob(draw)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, log_p, rtol=0.1, atol=0)  # 3 digits a layer
    assert p.representative().shape == (B, *event)


@every_pixel_head
def test_fixed_pixels_let_gradients_reach_values_only(name: str) -> None:
    p, module = made_of_pixels(name, (1, 3, 4))
    x = p.sample().requires_grad_()
    fixed = p.fixed()
    assert type(fixed) is type(p)
    torch.testing.assert_close(fixed.log_prob(x), p.log_prob(x))
    grads = torch.autograd.grad(fixed.log_prob(x).sum(), [x, *module.parameters()], allow_unused=True)
    assert grads[0] is not None and all(g is None for g in grads[1:])


@every_pixel_head
def test_a_head_of_pixels_refuses_vectors_and_other_networks(name: str) -> None:
    head = HEADS.build(parts.spec(HEADS, name), event_shape=(1, 3, 4))
    assert head.support in {"binary", "8-bit"} and repr(head) and not list(head.parameters())
    with pytest.raises(ConfigError, match="no pixel sees itself"):
        head(parts.network("mlp", (2,), (head.values, 1, 3, 4)), torch.zeros(B, 2))
    with pytest.raises(ConfigError, match="images"):
        HEADS.build(parts.spec(HEADS, name), event_shape=(3,))


@pytest.mark.parametrize("shape", SAMPLE_SHAPES, ids=str)
def test_the_prior(shape: tuple[int, ...]) -> None:
    p = StandardNormal(3)
    draw = p.rsample(shape)
    assert draw.shape == (*shape, 3)
    assert p.log_prob(draw).shape == shape
    assert p.moments(full=True)[1].tolist() == torch.eye(3).tolist()
    assert p.fixed() is p and "StandardNormal" in repr(p)


def test_low_precision_is_widened() -> None:
    """Networks may run in bf16; densities are made of float32."""
    for name in parts.heads():
        head = HEADS.build(parts.spec(HEADS, name), event_shape=(3,))
        raw = torch.randn(B, head.values, 3, dtype=torch.bfloat16)
        p = head(lambda inputs, noise=None, raw=raw: raw, torch.zeros(B, 1))
        assert p.rsample().dtype == torch.float32
        if p.has_log_prob:
            assert p.log_prob(p.sample()).dtype == torch.float32
        if p.scores_draws:
            assert p.rsample_and_log_prob()[1].dtype == torch.float32
    assert StandardNormal(3).log_prob(torch.zeros(2, 3, dtype=torch.bfloat16)).dtype == torch.float32


def test_a_network_of_ones_own_must_return_a_distribution() -> None:
    head = HEADS.build({"name": "own"}, event_shape=(3,))
    with pytest.raises(ConfigError, match="own"):
        head(lambda inputs: inputs, torch.zeros(2, 3))
    assert head(lambda inputs: StandardNormal(3), torch.zeros(2, 3)).event_shape == (3,)
