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


@every_head
def test_gradients_reach_the_parameters_through_a_draw_but_not_through_a_sample(name: str) -> None:
    p, module = made(name, (3,))
    assert not p.sample().requires_grad
    draw = p.rsample()
    assert draw.requires_grad
    grads = torch.autograd.grad(draw.square().sum(), list(module.parameters()), allow_unused=True)
    assert all(g is not None for g in grads)


@every_head
def test_log_prob_broadcasts_over_leading_axes_and_sums_over_the_event(name: str) -> None:
    for event in events(name):
        p, _ = made(name, event)
        x = value(p, (2, 3)) if p.has_log_prob else p.sample((2, 3))
        if not p.has_log_prob:
            with pytest.raises(NoDensityError, match="implicit"):
                p.log_prob(x)
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
    assert StandardNormal(3).log_prob(torch.zeros(2, 3, dtype=torch.bfloat16)).dtype == torch.float32


def test_a_network_of_ones_own_must_return_a_distribution() -> None:
    head = HEADS.build({"name": "own"}, event_shape=(3,))
    with pytest.raises(ConfigError, match="own"):
        head(lambda inputs: inputs, torch.zeros(2, 3))
    assert head(lambda inputs: StandardNormal(3), torch.zeros(2, 3)).event_shape == (3,)
