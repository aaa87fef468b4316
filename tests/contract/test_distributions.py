"""Contracts of every head and its distribution."""

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
every_autoregressive_head = pytest.mark.parametrize("name", parts.autoregressive_heads())


def events(name: str) -> list[tuple[int, ...]]:
    """Return shapes of events: latents for all heads, images for likelihoods."""
    return [(3,)] if name == "noise-basis" else [(3,), (2, 3, 5)]


def make(name: str, event: tuple[int, ...]) -> tuple[Distribution, nn.Module]:
    """Return the distribution of a head with a small network, and a module of both."""
    head = HEADS.build(parts.spec(HEADS, name), event_shape=event)
    net = parts.network("mlp", (6,), (head.num_params, *event), noise_dim=head.noise_dim)
    module = nn.ModuleDict({"net": net, "head": head})
    return head(net, torch.randn(B, 6)), module


def value(p: Distribution, shape: tuple[int, ...] = ()) -> Tensor:
    return p.sample(shape)


@every_head
@pytest.mark.parametrize("shape", SAMPLE_SHAPES, ids=str)
def test_shapes(name: str, shape: tuple[int, ...]) -> None:
    for event in events(name):
        p, _ = make(name, event)
        assert p.batch_shape == (B,) and p.event_shape == event
        for samples in (p.rsample(shape), p.sample(shape)):
            assert samples.shape == (*shape, B, *event)
            assert bool(torch.isfinite(samples).all()) and samples.dtype == torch.float32
        assert p.mean.shape == (B, *event)
        assert f"batch=({B},)" in repr(p) and type(p).__name__ in repr(p)
        if p.has_log_prob:
            assert p.log_prob(value(p, shape)).shape == (*shape, B)
        if p.has_sample_log_prob:
            samples, log_p = p.rsample_and_log_prob(shape)
            assert samples.shape == (*shape, B, *event) and log_p.shape == (*shape, B)


@every_head
def test_rsample_has_gradients_in_all_parameters_and_sample_has_none(name: str) -> None:
    p, module = make(name, (3,))
    assert not p.sample().requires_grad
    samples, log_p = p.rsample(), torch.zeros(())
    assert samples.requires_grad
    if p.has_sample_log_prob and not p.has_log_prob:  # a reverse model affects the log density only
        samples, log_p = p.rsample_and_log_prob()
    loss = samples.square().sum() + log_p.sum()
    grads = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)
    assert all(g is not None for g in grads)


@every_head
def test_log_prob_broadcasts_over_leading_axes_and_sums_over_the_event(name: str) -> None:
    for event in events(name):
        p, _ = make(name, event)
        x = value(p, (2, 3)) if p.has_log_prob else p.sample((2, 3))
        if not p.has_log_prob:
            with pytest.raises(NoDensityError):
                p.log_prob(x)
            if not p.has_sample_log_prob:
                with pytest.raises(NoDensityError):
                    p.rsample_and_log_prob()
            continue
        log_p = p.log_prob(x)
        torch.testing.assert_close(log_p[1, 2], p.log_prob(x[1, 2]))
        torch.testing.assert_close(p.log_prob(x[:1, :1])[0, 0], p.log_prob(x[0, 0]))
        assert not torch.allclose(log_p[..., 0], log_p[..., 1]), (
            "elements of the batch must have different densities"
        )


@every_head
def test_detach_lets_gradients_reach_values_only(name: str) -> None:
    p, module = make(name, (3,))
    if not p.has_log_prob:
        return
    x = (value(p) * 0.9 + 0.03).requires_grad_()
    detached = p.detach()
    assert type(detached) is type(p)
    torch.testing.assert_close(detached.log_prob(x), p.log_prob(x))
    log_p = detached.log_prob(x).sum()
    grads = torch.autograd.grad(log_p, [x, *module.parameters()], allow_unused=True)
    assert all(g is None for g in grads[1:])
    assert grads[0] is not None


@every_head
def test_known_terms_have_a_gradient_in_the_value(name: str) -> None:
    """A known term of a critic is the *density* of the samples of ``rsample``, and is differentiated in the value.

    A probability of 8-bit levels is a step function: the model would lack that part of its gradient, and the critic
    would have to learn log 256 nats per element. The integral of the gradient must be the difference at the ends
    (trapezoidal rule; smooth functions, 1e-3).
    """
    p, _ = make(name, (1,))
    if not p.has_log_prob:
        return
    a, b = 0.2, 0.8
    ends = [log_density(p, torch.full((B, 1), end)) for end in (a, b)]
    grid = torch.linspace(a, b, 2001)[:, None, None].expand(2001, B, 1).clone().requires_grad_()
    (grad,) = torch.autograd.grad(log_density(p, grid).sum(), grid)
    integral = torch.trapezoid(grad[..., 0], dx=(b - a) / 2000, dim=0)
    torch.testing.assert_close(integral, (ends[1] - ends[0]).detach(), atol=1e-3, rtol=1e-3)


@every_head
def test_moments(name: str) -> None:
    p, _ = make(name, (3,))
    mean, variance = p.moments()
    full_mean, cov = p.moments(full=True)
    assert mean.shape == variance.shape == full_mean.shape == (B, 3)
    assert cov.shape == (B, 3, 3)
    assert bool((variance > 0).all())
    assert bool((torch.linalg.eigvalsh(cov) > -1e-6).all())
    torch.testing.assert_close(cov, cov.transpose(1, 2))


@every_head
def test_head_saves_its_parameters(name: str) -> None:
    head = HEADS.build(parts.spec(HEADS, name), event_shape=(3,))
    other = HEADS.build(parts.spec(HEADS, name), event_shape=(3,))
    other.load_state_dict(head.state_dict())
    assert head.support in {"binary", "unit", "8-bit", "real"}
    assert repr(head)


def make_autoregressive(name: str, event: tuple[int, ...]) -> tuple[Distribution, nn.Module]:
    """Return the distribution of an autoregressive head with a small network, and a module of both."""
    head = HEADS.build(parts.spec(HEADS, name), event_shape=event)
    net = parts.network("pixelcnn", (0,), (head.num_params, *event))
    return head(net, torch.zeros(B, 0)), nn.ModuleDict({"net": net, "head": head})


@every_autoregressive_head
@pytest.mark.parametrize("event", [(1, 4, 5), (3, 5, 4)], ids=str)
def test_autoregressive_shapes_gradients_and_precision(name: str, event: tuple[int, ...]) -> None:
    """Of a likelihood that is evaluated in one pass and sampled pixel by pixel."""
    p, module = make_autoregressive(name, event)
    assert p.batch_shape == (B,) and p.event_shape == event and p.has_log_prob and not p.has_sample_log_prob
    for shape in SAMPLE_SHAPES:
        x = p.sample(shape)
        assert x.shape == (*shape, B, *event) and x.dtype == torch.float32
        assert not x.requires_grad and bool((x >= 0).all() and (x <= 1).all())
        log_p = p.log_prob(x)
        assert log_p.shape == (*shape, B) and log_p.dtype == torch.float32
    torch.testing.assert_close(log_p[1, 2], p.log_prob(x[1, 2]))
    torch.testing.assert_close(p.log_prob(x[:1, :1])[0, 0], p.log_prob(x[0, 0]))
    grads = torch.autograd.grad(log_p.sum(), list(module.parameters()))
    assert all(bool(g.abs().sum() > 0) for g in grads)
    with torch.autocast("cpu", torch.bfloat16):
        low = p.log_prob(x)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, log_p, rtol=0.1, atol=0)  # three digits per layer
    assert p.point_estimate().shape == (B, *event)


@every_autoregressive_head
def test_autoregressive_detach_lets_gradients_reach_values_only(name: str) -> None:
    p, module = make_autoregressive(name, (1, 3, 4))
    x = p.sample().requires_grad_()
    detached = p.detach()
    assert type(detached) is type(p)
    torch.testing.assert_close(detached.log_prob(x), p.log_prob(x))
    grads = torch.autograd.grad(detached.log_prob(x).sum(), [x, *module.parameters()], allow_unused=True)
    assert grads[0] is not None and all(g is None for g in grads[1:])


@every_autoregressive_head
def test_autoregressive_heads_raise_for_vectors_and_other_networks(name: str) -> None:
    head = HEADS.build(parts.spec(HEADS, name), event_shape=(1, 3, 4))
    assert head.support in {"binary", "8-bit"} and repr(head) and not list(head.parameters())
    with pytest.raises(ConfigError, match="autoregressive network"):
        head(parts.network("mlp", (2,), (head.num_params, 1, 3, 4)), torch.zeros(B, 2))
    with pytest.raises(ConfigError, match="images"):
        HEADS.build(parts.spec(HEADS, name), event_shape=(3,))


@pytest.mark.parametrize("shape", SAMPLE_SHAPES, ids=str)
def test_standard_normal_shapes(shape: tuple[int, ...]) -> None:
    p = StandardNormal(3)
    z = p.rsample(shape)
    assert z.shape == (*shape, 3) and z.dtype == torch.float32
    assert p.log_prob(z).shape == shape
    assert p.moments(full=True)[1].tolist() == torch.eye(3).tolist()
    assert p.detach() is p and "StandardNormal" in repr(p)


def test_densities_of_bfloat16_outputs_are_float32() -> None:
    """Networks may run in low precision."""
    for name in parts.heads():
        head = HEADS.build(parts.spec(HEADS, name), event_shape=(3,))
        raw = torch.randn(B, head.num_params, 3, dtype=torch.bfloat16)
        p = head(lambda inputs, noise=None, raw=raw: raw, torch.zeros(B, 1))
        assert p.rsample().dtype == torch.float32
        if p.has_log_prob:
            assert p.log_prob(p.sample()).dtype == torch.float32
        if p.has_sample_log_prob:
            assert p.rsample_and_log_prob()[1].dtype == torch.float32
    assert StandardNormal(3).log_prob(torch.zeros(2, 3, dtype=torch.bfloat16)).dtype == torch.float32


def test_passthrough_network_must_return_a_distribution() -> None:
    head = HEADS.build({"name": "passthrough"}, event_shape=(3,))
    with pytest.raises(ConfigError, match="passthrough"):
        head(lambda inputs: inputs, torch.zeros(2, 3))
    assert head(lambda inputs: StandardNormal(3), torch.zeros(2, 3)).event_shape == (3,)
