"""What holds for every network and critic."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils.flop_counter import FlopCounterMode

from advae.errors import ConfigError
from advae.networks import CRITICS, NETWORKS
from advae.networks.base import Critic, critic_at
from advae.networks.mlp import layers, side_by_side
from contract import parts

SHAPES: list[tuple[int, ...]] = [(1, 7, 9), (3, 8, 8), (5, 5, 4), (1, 1, 1), (6,), (1,), (2, 3)]
B = 3
ENTANGLED = (
    "projection",
    *parts.IMAGES_ALONE,
)  # critics of whose work on x nothing can be kept for another code

every_network = pytest.mark.parametrize("name", parts.networks())
every_critic = pytest.mark.parametrize("name", CRITICS.names())
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


@every_network
@every_shape
@pytest.mark.parametrize("noise", [0, 2])
def test_encoders_and_decoders_of_any_size(name: str, shape: tuple[int, ...], noise: int) -> None:
    """From x to values of z and back, for what the network accepts; images of odd sizes are among it."""
    for in_shape, out_shape in ((shape, (2, 3)), ((3,), (2, *shape))):
        net = parts.network(name, in_shape, out_shape, noise=noise)
        if net is not None:
            out = net(torch.randn(B, *in_shape), *([torch.randn(B, noise)] if noise else []))
            assert out.shape == (B, *out_shape)
            assert bool(torch.isfinite(out).all())
            assert repr(net)


@every_network
def test_every_network_accepts_odd_images_one_way(name: str) -> None:
    """But those that say what sizes they take instead."""
    image = parts.image(name)
    ways = [(image, (2, 3)), ((3,), (2, *image)), ((0,), (2, *image))]
    assert any(parts.network(name, *way) for way in (ways[2:] if name in parts.PIXELS else ways[:2]))


@every_critic
@every_shape
def test_critics_of_any_size(name: str, shape: tuple[int, ...]) -> None:
    critic = parts.critic(name, shape, parts.codes(name))
    if critic is None:
        assert len(shape) < 3 or (name in parts.DOUBLED and shape != (3, 8, 8)), "a critic must take images"
        return
    T = critic(torch.randn(B, *shape), torch.randn(B, *parts.codes(name)))
    assert T.shape == (B,)
    assert bool(torch.isfinite(T).all())
    assert repr(critic)


@every_critic
@pytest.mark.parametrize("training", [True, False])
def test_a_critics_answer_for_a_pair_does_not_depend_on_the_others(name: str, training: bool) -> None:
    """Trap 9: P and Q must not be told apart by the batch they come in."""
    image, codes = parts.image(name), parts.codes(name)
    critic = parts.critic(name, image, codes).train(training)
    x, z = torch.randn(B, *image), torch.randn(B, *codes)
    together = critic(x, z)
    alone = torch.cat([critic(x[i : i + 1], z[i : i + 1]) for i in range(B)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in critic.modules())


@every_critic
def test_a_critic_sees_both_of_its_arguments(name: str) -> None:
    """But one that is made for images alone, which refuses codes."""
    image, codes = parts.image(name), parts.codes(name)
    critic = parts.critic(name, image, codes)
    x, z = torch.randn(B, *image, requires_grad=True), torch.randn(B, *codes, requires_grad=True)
    seen = [x] if name in parts.IMAGES_ALONE else [x, z]
    grads = torch.autograd.grad(critic(x, z).sum(), seen)
    assert all(bool((g.flatten(1).abs().sum(1) > 0).all()) for g in grads)
    assert (parts.critic(name, image, (3,)) is None) == (name in parts.IMAGES_ALONE)


@pytest.mark.parametrize("width", [3, 0], ids=["two inputs", "one, and an empty one"])
def test_layers_of_two_inputs_are_those_of_both_put_side_by_side(width: int) -> None:
    """In value, gradient and the gradient of a gradient (a penalty's)."""
    body = layers([4 + width, 5, 5, 1], "elu").double()
    first, second = (torch.randn(B, n, dtype=torch.float64, requires_grad=True) for n in (4, width))

    def derivatives(value: torch.Tensor) -> list[torch.Tensor]:
        slope = torch.autograd.grad(value.sum(), first, create_graph=True)[0]
        inputs = [first, *([second] if width else []), *body.parameters()]
        penalty = torch.autograd.grad(slope.square().sum(), inputs, retain_graph=True, allow_unused=True)
        grads = [*torch.autograd.grad(value.sum(), inputs), *(g for g in penalty if g is not None)]
        return [value.detach(), *grads]

    apart = derivatives(side_by_side(body, first)(second))
    together = derivatives(body(torch.cat([first, second], 1)))
    torch.testing.assert_close(apart, together)


@every_critic
def test_what_a_critic_does_with_x_it_does_once_for_several_codes(name: str) -> None:
    image, codes = parts.image(name), parts.codes(name)
    critic, x = parts.critic(name, image, codes), torch.randn(B, *image)
    z, other = torch.randn(B, *codes), torch.randn(B, *codes)
    with FlopCounterMode(display=False) as apart:
        answers = [critic(x, z), critic(x, other)]
    with FlopCounterMode(display=False) as of_x:
        T = critic_at(critic, x)
    with FlopCounterMode(display=False) as of_codes:
        found = [T(z), T(other)]
    torch.testing.assert_close(found, answers)
    assert of_codes.get_total_flops() + 2 * of_x.get_total_flops() == apart.get_total_flops()
    assert (of_x.get_total_flops() > 0) == isinstance(critic, Critic) == (name not in ENTANGLED)


def everything() -> list[Any]:
    """Registry, name, how it is made and shapes, for every network each way that it goes, and every critic."""
    down = [(NETWORKS, name, parts.network, (parts.image(name), (2, 3))) for name in parts.networks()]
    up = [(NETWORKS, name, parts.network, ((3,), (2, *parts.image(name)))) for name in parts.networks()]
    critics = [
        (CRITICS, name, parts.critic, (parts.image(name), parts.codes(name))) for name in CRITICS.names()
    ]
    pixels = [(NETWORKS, name, parts.network, ((0,), (2, *parts.image(name)))) for name in parts.PIXELS]
    return [n for n in [*down, *up, *pixels, *critics] if n[2](n[1], *n[3]) is not None]


def both_ways(name: str, **options: Any) -> list[tuple[Any, torch.Tensor]]:
    """The network from images and to images, as far as it is made for that, with an input for each."""
    ways = [(parts.image(name), (2, 3)), ((3,), (2, *parts.image(name)))]
    nets = [(parts.network(name, a, b, **options), torch.randn(B, *a)) for a, b in ways]
    if name in parts.PIXELS:
        image = parts.image(name)
        nets.append((parts.network(name, (0,), (2, *image), **options), torch.randn(B, *image)))
    return [(net, x) for net, x in nets if net is not None]


@every_network
def test_noise_reaches_every_output(name: str) -> None:
    """In evaluation mode, where batch normalisation does not undo what is common to a batch."""
    for net, x in both_ways(name, noise=4):
        net.eval()
        a, b = net(x, torch.randn(B, 4)), net(x, torch.randn(B, 4))
        assert bool((a != b).flatten(1).any(1).all())


@every_network
def test_evaluated_examples_do_not_depend_on_each_other(name: str) -> None:
    """Batch normalisation then uses its running statistics."""
    for net, x in both_ways(name):
        net(2 * x + 1)  # a step of training, for running statistics that are not where they started
        net.eval()
        alone = torch.cat([net(x[i : i + 1]) for i in range(B)])
        torch.testing.assert_close(net(x), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("registry", "name", "make", "shapes"), everything())
def test_dropout_and_norms_are_active_when_asked_for(
    registry: Any, name: str, make: Any, shapes: Any
) -> None:
    known = registry.options(registry.find(name))
    if "dropout" in known:
        for probability in (0.0, 0.4):
            net = make(name, *shapes, dropout=probability)
            found = [m.p for m in net.modules() if isinstance(m, nn.Dropout)]
            assert found == [probability] * len(found) and bool(found) == bool(probability)
    if "spectral_norm" in known:
        for on in (False, True):
            net = make(name, *shapes, spectral_norm=on)
            weighted = [m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
            assert [is_parametrized(m, "weight") for m in weighted] == [on] * len(weighted)
    if "batch_norm" in known:
        net = make(name, *shapes, batch_norm=True)
        assert any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    if "norm" in known:
        check_norms({norm: make(name, *shapes, norm=norm) for norm in norms(registry)})


def norms(registry: Any) -> list[str]:
    return ["none", "batch", "layer", *(["spectral"] if registry is CRITICS else [])]


def check_norms(nets: dict[str, Any]) -> None:
    """Each choice gives its own layers and no other; a bias before batch normalisation would do nothing."""
    kinds = {"batch": nn.BatchNorm2d, "layer": nn.GroupNorm}
    convs = nn.Conv2d | nn.ConvTranspose2d
    for norm, net in nets.items():
        present = {kind for kind, cls in kinds.items() if any(isinstance(m, cls) for m in net.modules())}
        assert present == {norm} & set(kinds)
        weighted = [m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        assert [is_parametrized(m, "weight") for m in weighted] == [norm == "spectral"] * len(weighted)
        bare = [m for m in net.modules() if isinstance(m, convs) and m.bias is None]
        assert len(bare) == sum(isinstance(m, nn.BatchNorm2d) for m in net.modules())


@pytest.mark.parametrize(
    ("registry", "name", "options"),
    [
        (NETWORKS, "conv", {"kernel": 4}),
        (NETWORKS, "deconv", {"channels": []}),
        (NETWORKS, "asvae-encoder", {"groups": [[4], []]}),
        (NETWORKS, "asvae-decoder", {"groups": []}),
        (NETWORKS, "bavae-encoder", {"channels": []}),
        (NETWORKS, "residual-decoder", {"kernel": 2}),
        (CRITICS, "asvae", {"channels": []}),
        (CRITICS, "projection", {"channels": []}),
    ],
)
def test_impossible_layers_are_refused(registry: Any, name: str, options: dict[str, Any]) -> None:
    down, up = {"in_shape": (1, 7, 9), "out_shape": (2, 3)}, {"in_shape": (3,), "out_shape": (2, 1, 7, 9)}
    pairs = {"x_shape": (1, 7, 9), "z_shape": (3,)}
    shapes = pairs if registry is CRITICS else up if name.endswith(("deconv", "decoder")) else down
    registry.build({"name": name}, **shapes)
    with pytest.raises(ConfigError, match=r"convolution|kernel"):
        registry.build({"name": name, **options}, **shapes)


@pytest.mark.parametrize(("registry", "name", "make", "shapes"), everything())
def test_networks_start_by_xavier(registry: Any, name: str, make: Any, shapes: Any) -> None:
    """Uniform within Glorot's bound and with its variance, zero biases; but last layers made to start near zero.

    The networks of DCGAN start by the paper's normal (tests/truth/test_dcgan.py), PixelCNN's residual blocks by a tenth
    of it (tests/truth/test_pixelcnn.py).
    """
    if name in (*parts.DOUBLED, *parts.PIXELS):
        return
    net = make(
        name, *shapes, **({"hidden": [64, 64]} if "hidden" in registry.options(registry.find(name)) else {})
    )
    wide = 0
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
                wide += abs(ratio - 1) < 0.1
    assert wide


@pytest.mark.parametrize(("registry", "name", "make", "shapes"), everything())
def test_same_seed_same_weights(registry: Any, name: str, make: Any, shapes: Any) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.detach().flatten() for p in make(name, *shapes).parameters()])

    assert torch.equal(weights(0), weights(0)) and not torch.equal(weights(0), weights(1))
