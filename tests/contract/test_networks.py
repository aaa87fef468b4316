"""Contracts of every network and critic."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils.flop_counter import FlopCounterMode

from advae.errors import ConfigError
from advae.networks import CRITICS, NETWORKS
from advae.networks.base import Critic, bind_x
from advae.networks.mlp import bind_first_input, linear_layers
from contract import parts

SHAPES: list[tuple[int, ...]] = [(1, 7, 9), (3, 8, 8), (5, 5, 4), (1, 1, 1), (6,), (1,), (2, 3)]
B = 3
NOT_SEPARABLE = ("projection", *parts.IMAGES_ALONE)  # critics without features of x to reuse for another z

every_network = pytest.mark.parametrize("name", parts.networks())
every_critic = pytest.mark.parametrize("name", CRITICS.names())
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


@every_network
@every_shape
@pytest.mark.parametrize("noise_dim", [0, 2])
def test_encoders_and_decoders_of_any_size(name: str, shape: tuple[int, ...], noise_dim: int) -> None:
    """Output shapes from x to z and back, for all shapes that the network accepts."""
    for in_shape, out_shape in ((shape, (2, 3)), ((3,), (2, *shape))):
        net = parts.network(name, in_shape, out_shape, noise_dim=noise_dim)
        if net is not None:
            out = net(torch.randn(B, *in_shape), *([torch.randn(B, noise_dim)] if noise_dim else []))
            assert out.shape == (B, *out_shape)
            assert bool(torch.isfinite(out).all())
            assert repr(net)


@every_network
def test_every_network_accepts_images(name: str) -> None:
    """As input or output; of odd sides, except for networks that need doubled sizes."""
    image = parts.image_shape(name)
    shapes = [(image, (2, 3)), ((3,), (2, *image)), ((0,), (2, *image))]
    assert any(parts.network(name, *s) for s in (shapes[2:] if name in parts.AUTOREGRESSIVE else shapes[:2]))


@every_critic
@every_shape
def test_critics_of_any_size(name: str, shape: tuple[int, ...]) -> None:
    critic = parts.critic(name, shape, parts.latent_shape(name))
    if critic is None:
        assert len(shape) < 3 or (name in parts.DOUBLED and shape != (3, 8, 8)), "a critic must accept images"
        return
    T = critic(torch.randn(B, *shape), torch.randn(B, *parts.latent_shape(name)))
    assert T.shape == (B,)
    assert bool(torch.isfinite(T).all())
    assert repr(critic)


@every_critic
@pytest.mark.parametrize("training", [True, False])
def test_critic_output_does_not_depend_on_the_batch(name: str, training: bool) -> None:
    """Trap 9: a critic must not distinguish P from Q by batch statistics."""
    image, latent = parts.image_shape(name), parts.latent_shape(name)
    critic = parts.critic(name, image, latent).train(training)
    x, z = torch.randn(B, *image), torch.randn(B, *latent)
    batched = critic(x, z)
    single = torch.cat([critic(x[i : i + 1], z[i : i + 1]) for i in range(B)])
    torch.testing.assert_close(batched, single, atol=1e-5, rtol=1e-5)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in critic.modules())


@every_critic
def test_critic_depends_on_both_arguments(name: str) -> None:
    """A critic of images alone raises for latents instead."""
    image, latent = parts.image_shape(name), parts.latent_shape(name)
    critic = parts.critic(name, image, latent)
    x, z = torch.randn(B, *image, requires_grad=True), torch.randn(B, *latent, requires_grad=True)
    inputs = [x] if name in parts.IMAGES_ALONE else [x, z]
    grads = torch.autograd.grad(critic(x, z).sum(), inputs)
    assert all(bool((g.flatten(1).abs().sum(1) > 0).all()) for g in grads)
    assert (parts.critic(name, image, (3,)) is None) == (name in parts.IMAGES_ALONE)


@pytest.mark.parametrize("width", [3, 0], ids=["two inputs", "empty second input"])
def test_bind_first_input_matches_concatenation(width: int) -> None:
    """In value, gradient, and second derivative (of a gradient penalty)."""
    body = linear_layers([4 + width, 5, 5, 1], "elu").double()
    first, second = (torch.randn(B, n, dtype=torch.float64, requires_grad=True) for n in (4, width))

    def derivatives(value: torch.Tensor) -> list[torch.Tensor]:
        grad_first = torch.autograd.grad(value.sum(), first, create_graph=True)[0]
        inputs = [first, *([second] if width else []), *body.parameters()]
        penalty = torch.autograd.grad(grad_first.square().sum(), inputs, retain_graph=True, allow_unused=True)
        grads = [*torch.autograd.grad(value.sum(), inputs), *(g for g in penalty if g is not None)]
        return [value.detach(), *grads]

    bound = derivatives(bind_first_input(body, first)(second))
    concatenated = derivatives(body(torch.cat([first, second], 1)))
    torch.testing.assert_close(bound, concatenated)


@every_critic
def test_bind_x_reuses_the_features_of_x(name: str) -> None:
    image, latent = parts.image_shape(name), parts.latent_shape(name)
    critic, x = parts.critic(name, image, latent), torch.randn(B, *image)
    z, other = torch.randn(B, *latent), torch.randn(B, *latent)
    with FlopCounterMode(display=False) as separate_flops:
        expected = [critic(x, z), critic(x, other)]
    with FlopCounterMode(display=False) as x_flops:
        T = bind_x(critic, x)
    with FlopCounterMode(display=False) as z_flops:
        outputs = [T(z), T(other)]
    torch.testing.assert_close(outputs, expected)
    assert z_flops.get_total_flops() + 2 * x_flops.get_total_flops() == separate_flops.get_total_flops()
    assert (x_flops.get_total_flops() > 0) == isinstance(critic, Critic) == (name not in NOT_SEPARABLE)


def all_components() -> list[Any]:
    """Return registry, name, factory and shapes of every network, to and from images, and of every critic."""
    down = [(NETWORKS, name, parts.network, (parts.image_shape(name), (2, 3))) for name in parts.networks()]
    up = [(NETWORKS, name, parts.network, ((3,), (2, *parts.image_shape(name)))) for name in parts.networks()]
    critics = [
        (CRITICS, name, parts.critic, (parts.image_shape(name), parts.latent_shape(name)))
        for name in CRITICS.names()
    ]
    pixels = [
        (NETWORKS, name, parts.network, ((0,), (2, *parts.image_shape(name))))
        for name in parts.AUTOREGRESSIVE
    ]
    return [n for n in [*down, *up, *pixels, *critics] if n[2](n[1], *n[3]) is not None]


def to_and_from_images(name: str, **options: Any) -> list[tuple[Any, torch.Tensor]]:
    """Return the network from images and to images, if it supports that, with an input for each."""
    shapes = [(parts.image_shape(name), (2, 3)), ((3,), (2, *parts.image_shape(name)))]
    nets = [(parts.network(name, a, b, **options), torch.randn(B, *a)) for a, b in shapes]
    if name in parts.AUTOREGRESSIVE:
        image = parts.image_shape(name)
        nets.append((parts.network(name, (0,), (2, *image), **options), torch.randn(B, *image)))
    return [(net, x) for net, x in nets if net is not None]


@every_network
def test_noise_reaches_every_output(name: str) -> None:
    """In evaluation mode, where batch normalization does not remove the mean of a batch."""
    for net, x in to_and_from_images(name, noise_dim=4):
        net.eval()
        a, b = net(x, torch.randn(B, 4)), net(x, torch.randn(B, 4))
        assert bool((a != b).flatten(1).any(1).all())


@every_network
def test_examples_are_independent_in_evaluation_mode(name: str) -> None:
    """Batch normalization uses its running statistics."""
    for net, x in to_and_from_images(name):
        net(2 * x + 1)  # updates the running statistics
        net.eval()
        single = torch.cat([net(x[i : i + 1]) for i in range(B)])
        torch.testing.assert_close(net(x), single, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("registry", "name", "make", "shapes"), all_components())
def test_dropout_and_norms_follow_the_options(registry: Any, name: str, make: Any, shapes: Any) -> None:
    known = registry.options(registry.find(name))
    if "dropout" in known:
        for probability in (0.0, 0.4):
            net = make(name, *shapes, dropout=probability)
            probabilities = [m.p for m in net.modules() if isinstance(m, nn.Dropout)]
            assert probabilities == [probability] * len(probabilities)
            assert bool(probabilities) == bool(probability)
    if "spectral_norm" in known:
        for on in (False, True):
            net = make(name, *shapes, spectral_norm=on)
            weighted = [m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
            assert [is_parametrized(m, "weight") for m in weighted] == [on] * len(weighted)
    if "norm" in known:
        check_norms({norm: make(name, *shapes, norm=norm) for norm in norms(registry)})


def norms(registry: Any) -> list[str]:
    return ["none", "batch", "layer", *(["spectral"] if registry is CRITICS else [])]


def check_norms(nets: dict[str, Any]) -> None:
    """Check that each norm adds its layers and no others, and that batch normalization replaces biases."""
    kinds = {"batch": nn.BatchNorm2d, "layer": nn.GroupNorm}
    convs = nn.Conv2d | nn.ConvTranspose2d
    for norm, net in nets.items():
        present = {kind for kind, cls in kinds.items() if any(isinstance(m, cls) for m in net.modules())}
        assert present == {norm} & set(kinds)
        weighted = [m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        assert [is_parametrized(m, "weight") for m in weighted] == [norm == "spectral"] * len(weighted)
        without_bias = [m for m in net.modules() if isinstance(m, convs) and m.bias is None]
        assert len(without_bias) == sum(isinstance(m, nn.BatchNorm2d) for m in net.modules())


@pytest.mark.parametrize(
    ("registry", "name", "options"),
    [
        (NETWORKS, "conv", {"kernel_size": 4}),
        (NETWORKS, "deconv", {"channels": []}),
        (NETWORKS, "asvae-encoder", {"stages": [[4], []]}),
        (NETWORKS, "asvae-decoder", {"stages": []}),
        (NETWORKS, "bavae-encoder", {"channels": []}),
        (NETWORKS, "residual-decoder", {"kernel_size": 2}),
        (CRITICS, "conv", {"channels": []}),
        (CRITICS, "projection", {"channels": []}),
    ],
)
def test_invalid_layers_raise(registry: Any, name: str, options: dict[str, Any]) -> None:
    encoder, decoder = (
        {"in_shape": (1, 7, 9), "out_shape": (2, 3)},
        {"in_shape": (3,), "out_shape": (2, 1, 7, 9)},
    )
    pairs = {"x_shape": (1, 7, 9), "z_shape": (3,)}
    shapes = pairs if registry is CRITICS else decoder if name.endswith(("deconv", "decoder")) else encoder
    registry.build({"name": name}, **shapes)
    with pytest.raises(ConfigError, match=r"convolution|kernel"):
        registry.build({"name": name, **options}, **shapes)


@pytest.mark.parametrize(("registry", "name", "make", "shapes"), all_components())
def test_initial_weights_are_xavier_uniform(registry: Any, name: str, make: Any, shapes: Any) -> None:
    """Uniform within Glorot's bound and with its variance, zero biases; except for last layers that start near zero.

    The networks of DCGAN have the paper's normal weights (tests/truth/test_dcgan.py), and last layers of PixelCNN's
    blocks a tenth of Xavier's (tests/truth/test_pixelcnn.py).
    """
    if name in (*parts.DOUBLED, *parts.AUTOREGRESSIVE):
        return
    net = make(
        name, *shapes, **({"hidden": [64, 64]} if "hidden" in registry.options(registry.find(name)) else {})
    )
    num_checked = 0
    for layer in net.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            w = layer.weight.detach()
            assert layer.bias is None or bool((layer.bias == 0).all())
            fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(w)
            bound = (6 / (fan_in + fan_out)) ** 0.5
            assert w.abs().max() <= bound
            if (
                w.numel() > 2000
            ):  # the variance of so many uniform numbers is known to 5% (two standard errors)
                ratio = float(w.var() / (bound**2 / 3))
                assert abs(ratio - 1) < 0.1 or ratio < 1e-6
                num_checked += abs(ratio - 1) < 0.1
    assert num_checked


@pytest.mark.parametrize(("registry", "name", "make", "shapes"), all_components())
def test_seed_determines_the_weights(registry: Any, name: str, make: Any, shapes: Any) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.detach().flatten() for p in make(name, *shapes).parameters()])

    assert torch.equal(weights(0), weights(0)) and not torch.equal(weights(0), weights(1))
