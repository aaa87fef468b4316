"""Networks of DCGAN: shapes, parameter counts and initialization; implicit heads without noise."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from advae.distributions import HEADS
from advae.errors import ConfigError
from advae.networks import CRITICS, NETWORKS
from advae.networks.dcgan import INIT_STD, doubled_sizes

SIZES = {
    # image: maps of the generator as channels at base_channels = 64 and side, from the smallest map
    (1, 8, 8): [(128, 2), (64, 4)],
    (1, 28, 28): [(128, 7), (64, 14)],
    (3, 32, 32): [(256, 4), (128, 8), (64, 16)],
    (3, 64, 64): [(512, 4), (256, 8), (128, 16), (64, 32)],
}


@pytest.mark.parametrize(("image", "maps"), SIZES.items(), ids=str)
def test_shapes_and_parameter_counts(image: tuple[int, int, int], maps: list[tuple[int, int]]) -> None:
    """A convolution from a to b channels has 16 a b weights; batch normalization has 2 b and replaces the biases."""
    c, d, min_size = image[0], 100, min(maps[0][1], 4)
    generator = NETWORKS.build(
        {"name": "dcgan-generator", "min_size": min_size}, in_shape=(d,), out_shape=(1, *image)
    )
    critic = CRITICS.build(
        {"name": "dcgan", "min_size": min_size, "norm": "batch"}, x_shape=image, z_shape=(0,)
    )
    channels, side = [m for m, _ in maps], maps[0][1]
    steps = [16 * a * b + 2 * b for a, b in pairwise(channels)]
    up = d * channels[0] * side**2 + 2 * channels[0] + sum(steps) + 16 * channels[-1] * c + c
    down = [16 * a * b + 2 * a for a, b in pairwise(channels)]
    last = channels[0] * side**2
    assert sum(p.numel() for p in generator.parameters()) == up
    assert (
        sum(p.numel() for p in critic.parameters()) == 16 * c * channels[-1] + channels[-1] + sum(down) + last
    )

    sides: list[tuple[int, ...]] = []
    for module in generator.body:
        if isinstance(module, nn.ConvTranspose2d):
            module.register_forward_hook(lambda m, inputs, out: sides.append((out.shape[1], out.shape[2])))
    images = generator(torch.randn(2, d))
    assert images.shape == (2, 1, *image) and sides == [*maps, (c, image[1])]
    assert critic(images[:, 0], torch.zeros(2, 0)).shape == (2,)


def test_initial_weights_have_the_papers_variance() -> None:
    """N(0, 0.02²): the relative standard error of the variance of n of them is √(2/n); 5 standard errors. No biases."""
    for net in (
        NETWORKS.build({"name": "dcgan-generator"}, in_shape=(100,), out_shape=(1, 3, 32, 32)),
        CRITICS.build({"name": "dcgan"}, x_shape=(3, 32, 32), z_shape=(0,)),
    ):
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                n = layer.weight.numel()
                assert abs(float(layer.weight.detach().square().mean()) / INIT_STD**2 - 1) < 5 * math.sqrt(
                    2 / n
                )
                assert layer.bias is None or bool((layer.bias == 0).all())


@pytest.mark.parametrize("size", [(7, 7), (9, 9), (100, 100), (30, 30), (8, 9), (1, 1), (36, 36)])
def test_image_sizes_that_are_not_doubled_raise(size: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="doubling"):
        doubled_sizes(*size)


def test_doubled_sizes() -> None:
    assert (
        doubled_sizes(64, 64)[0] == (4, 4)
        and doubled_sizes(48, 48)[0] == (6, 6)
        and doubled_sizes(40, 40)[0] == (5, 5)
    )
    assert doubled_sizes(32, 64) == [(4, 8), (8, 16), (16, 32), (32, 64)]
    assert doubled_sizes(8, 8, min_size=2) == [(2, 2), (4, 4), (8, 8)] and doubled_sizes(30, 30, 15) == [
        (15, 15),
        (30, 30),
    ]
    for min_size in (0, 8):
        with pytest.raises(ConfigError, match="doubling"):
            doubled_sizes(8, 8, min_size)


def test_critic_raises_for_latents() -> None:
    with pytest.raises(ConfigError, match="latents"):
        CRITICS.build({"name": "dcgan"}, x_shape=(1, 8, 8), z_shape=(3,))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["concat", "conv", "dcgan"])
def test_critic_of_images_alone_has_no_weights_for_latents(name: str) -> None:
    critic = CRITICS.build({"name": name}, x_shape=(1, 8, 8), z_shape=(0,))
    x = torch.rand(3, 1, 8, 8)
    grads = torch.autograd.grad(critic(x, x.new_empty(3, 0)).sum(), list(critic.parameters()))
    assert all(g.numel() > 0 and bool(g.abs().sum() > 0) for g in grads)


@pytest.mark.parametrize("squash", ["none", "sigmoid"])
def test_implicit_head_without_noise_is_deterministic(squash: str) -> None:
    head = HEADS.build({"name": "implicit", "noise_dim": 0, "squash": squash}, event_shape=(2, 3))
    net = NETWORKS.build(
        {"name": "mlp", "hidden": [5]}, in_shape=(4,), out_shape=(1, 2, 3), noise_dim=head.noise_dim
    )
    z = torch.randn(6, 4)
    p = head(net, z)
    raw = net(z)[:, 0]
    exact = torch.sigmoid(raw) if squash == "sigmoid" else raw
    assert torch.equal(p.rsample(), exact) and torch.equal(p.sample((2, 3)), exact.expand(2, 3, 6, 2, 3))
    torch.testing.assert_close(p.mean, exact)
    grads = torch.autograd.grad(p.rsample().sum(), list(net.parameters()))
    assert all(bool(g.abs().sum() > 0) for g in grads)
