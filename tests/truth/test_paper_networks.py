"""The papers' networks at their full sizes: shapes of maps, layers, and number of parameters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advae.config import resolve
from advae.distributions import HEADS
from advae.model import build_model
from advae.networks import CRITICS, NETWORKS
from truth.paper_networks import FACES, MNIST, PAPER_NETWORKS, PaperNetwork, fc

DOCS = Path(__file__).resolve().parents[2] / "docs" / "papers"
B = 2

every_network = pytest.mark.parametrize("name", PAPER_NETWORKS)
CONVOLUTIONS = nn.Conv2d | nn.ConvTranspose2d


def build(figure: PaperNetwork) -> Any:
    spec = {"name": figure.name, **figure.options}
    a, b = figure.shapes
    if figure.kind == "critic":
        return CRITICS.build(spec, x_shape=a, z_shape=b)
    return NETWORKS.build(spec, in_shape=a, out_shape=b, noise_dim=figure.noise_dim)


def call(net: Any, figure: PaperNetwork) -> Tensor:
    a, b = figure.shapes
    if figure.kind == "critic":
        return net(torch.randn(B, *a), torch.randn(B, *b))
    return net(torch.randn(B, *a), torch.randn(B, figure.noise_dim) if figure.noise_dim else None)


@every_network
def test_maps_have_the_papers_channels_and_sizes(name: str) -> None:
    figure = PAPER_NETWORKS[name]
    net, shapes = build(figure), []
    for module in net.modules():
        if isinstance(module, CONVOLUTIONS):
            module.register_forward_hook(lambda m, args, out: shapes.append(tuple(out.shape)))
    with torch.no_grad():
        out = call(net, figure)
    assert shapes == [(B, channels, size, size) for channels, size in figure.maps]
    assert out.shape == ((B,) if figure.kind == "critic" else (B, *figure.shapes[1]))
    assert bool(torch.isfinite(out).all())


@every_network
def test_parameter_count_matches_the_paper_and_the_docs(name: str) -> None:
    figure = PAPER_NETWORKS[name]
    assert sum(p.numel() for p in build(figure).parameters()) == figure.count
    assert f"{figure.count:,}" in (DOCS / figure.page).read_text(), (
        f"{figure.page} should say {figure.count:,}"
    )


def test_parameter_count_of_the_basis_networks_of_figure_8() -> None:
    """m = 32 networks: 64 numbers, three hidden layers of 128, d = 32."""
    head = HEADS.build({"name": "noise-basis"}, event_shape=(32,))
    count = 32 * fc(64, 128, 128, 128, 32)
    assert sum(p.numel() for p in head.parameters()) == count
    assert f"{count:,}" in (DOCS / "avb.md").read_text()


ASVAE = [name for name, figure in PAPER_NETWORKS.items() if figure.name in ("asvae-encoder", "asvae-decoder")]


@pytest.mark.parametrize("name", ASVAE)
def test_batchnorm_and_relu_follow_every_convolution_except_a_decoders_last(name: str) -> None:
    net = build(PAPER_NETWORKS[name])
    rows = [m for m in net.modules() if isinstance(m, nn.Sequential)]
    follow = [
        tuple(type(m) for m in row[i + 1 : i + 3])
        for row in rows
        for i, module in enumerate(row)
        if isinstance(module, CONVOLUTIONS)
    ]
    num_bare = sum(f != (nn.BatchNorm2d, nn.ReLU) for f in follow)
    assert len(follow) == len(PAPER_NETWORKS[name].maps)
    assert num_bare == (0 if "encoder" in name else len(net.heads)) == follow.count(())


KERNELS = {
    "CIFAR-10 encoder (AS-VAE 6)": [(5, 2), (3, 1), (3, 1)] + [(3, 2), (3, 1), (3, 1)] * 2 + [(3, 1)],
    "CIFAR-10 decoder (AS-VAE 6)": [(3, 2), (3, 1), (3, 1)] * 2 + [(3, 2)] + [(3, 1)] * 6,
    "CIFAR-10 critic (AS-VAE 6)": [(5, 2)] * 3,
    "MNIST encoder (AS-VAE 5), for a normal": [(3, 2)] * 2,
    "MNIST decoder (AS-VAE 5), for Bernoulli pixels": [(3, 2)] * 2 + [(3, 1)],
    "MNIST critic (AS-VAE 5)": [(3, 2)] * 2,
    "shallow convolutional decoder (AVB 3c)": [(5, 2)] * 3,
    "image network of AVB figure 8": [(5, 2)] * 3,
    "celebA critic (AVB)": [(5, 2)] * 4,
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_and_strides(name: str) -> None:
    convs = [m for m in build(PAPER_NETWORKS[name]).modules() if isinstance(m, CONVOLUTIONS)]
    assert [(m.kernel_size[0], m.stride[0]) for m in convs] == KERNELS[name]


def test_activations_are_the_papers() -> None:
    expected = {
        "fully connected 300-300 (AVB 3a)": nn.ELU,
        "shallow convolutional decoder (AVB 3c)": nn.Softplus,
        "image network of AVB figure 8": nn.ELU,
        "critic θ·s + T_x + T_z of AVB": nn.LeakyReLU,
        "celebA decoder (AVB)": nn.ELU,
    }
    kinds = nn.ELU | nn.ReLU | nn.LeakyReLU | nn.Softplus | nn.SiLU | nn.Tanh
    for name, kind in expected.items():
        used = {type(m) for m in build(PAPER_NETWORKS[name]).modules() if isinstance(m, kinds)}
        assert used == {kind}, name


def test_offset_of_figure_8_starts_zero_init() -> None:
    out = call(
        build(PAPER_NETWORKS["image network of AVB figure 8"]),
        PAPER_NETWORKS["image network of AVB figure 8"],
    )
    assert (
        out[:, 0].abs().max() < 1e-3
    )  # 800 terms of 1e-5 times units below one: less than 3e-4 each, 3.5 sd
    assert out[:, 1:].std() > 0.05


def test_zero_init_starts_the_encoder_of_figure_6_at_the_prior() -> None:
    """Every element is near N(0, 1) for any image; without it, initial standard deviations are e and more."""
    figure = PAPER_NETWORKS["CIFAR-10 encoder (AS-VAE 6)"]
    with_zero_init, without = (
        call(build(replace(figure, options=figure.options | {"zero_init": zero_init})), figure)
        for zero_init in (True, False)
    )
    assert with_zero_init.abs().max() < 1e-2  # 512 terms of 1e-5 times units of some tens at most
    assert without.abs().max() > 1


def test_product_critic_starts_at_zero_with_elu_on_theta() -> None:
    """The last layers of θ, T_x and T_z start at 1e-5, so T starts near zero; an ELU follows θ, but not s."""
    figure = PAPER_NETWORKS["critic θ·s + T_x + T_z of AVB"]
    net = build(figure)
    with torch.no_grad():
        # θ and s are sums of 1,024 terms, so θ·s is about 1e-5 · √1024 · √8192 ≈ 0.03 times units well below one
        assert call(net, figure).abs().max() < 0.03
        x, z = torch.randn(B, *MNIST), torch.randn(B, 32)
        for network in (net.theta, net.t_x, net.t_z):
            network[-1].weight.zero_()
            network[-1].bias.zero_()
        net.theta[-1].bias.fill_(-1.0)  # elu(−1) = e⁻¹ − 1
        net.t_z[-1].bias.fill_(2.0)
        expected = (torch.tensor(-1.0).exp() - 1) * net.s(z).sum(1) + 2
    torch.testing.assert_close(net(x, z), expected)


def test_pooled_critic_averages_over_positions() -> None:
    figure, outputs = PAPER_NETWORKS["CIFAR-10 critic (AS-VAE 6)"], {}
    net = build(figure)
    net.features.register_forward_hook(lambda m, given, out: outputs.update(features=out))
    net.z_features.register_forward_hook(lambda m, given, out: outputs.update(z=out))
    f = call(net, figure)
    assert outputs["features"].shape == (B, 64, 4, 4)
    joined = torch.cat([outputs["features"].sum((2, 3)) / 16, outputs["z"]], 1)
    torch.testing.assert_close(f, net.joint(joined).squeeze(-1))


def test_only_the_critic_without_pooling_sees_positions() -> None:
    """Two images with the same stroke at different positions.

    The stroke moves by 8 of 28 pixels, twice the stride of both convolutions together, and stays away from the edges:
    the maps are moved by two and otherwise equal, so their means differ by rounding only.
    """
    left, right = torch.zeros(2, 1, *MNIST)
    left[..., 8:12, 6:10] = 1
    right[..., 8:12, 14:18] = 1
    z = torch.zeros(1, 64)
    for name, sees_position in (("MNIST critic (AS-VAE 5)", False), ("MNIST critic, all positions", True)):
        net = build(PAPER_NETWORKS[name]).double()
        difference = (net(left.double(), z.double()) - net(right.double(), z.double())).abs().item()
        assert (difference > 1e-4) == sees_position, (name, difference)  # far above rounding in float64


@pytest.mark.parametrize("project_to", ["map", "channels"])
@pytest.mark.parametrize("scale", range(4))
@pytest.mark.parametrize("name", ["celebA encoder (AVB)", "celebA decoder (AVB)", "celebA critic (AVB)"])
def test_noise_or_latents_enter_at_every_scale(name: str, scale: int, project_to: str) -> None:
    """Noise or latents change the output through each single projection, with the others set to zero."""
    figure = PAPER_NETWORKS[name]
    net = build(replace(figure, options={"channels": [3, 4, 5, 6], "project_to": project_to}))
    projections = [stage.project for stage in net.stages if stage.project is not None]
    if "decoder" in name:
        projections.append(net.body[-1])  # the first map is a projection of the latent already
    x, vectors = torch.randn(B, *FACES), torch.randn(2, B, figure.noise_dim or 64)
    with torch.no_grad():
        for i, projection in enumerate(projections):
            projection.weight.mul_(i == scale)
        a, b = (net(v) if "decoder" in name else net(x, v) for v in vectors)
    assert len(projections) == 4
    assert bool((a != b).reshape(B, -1).any(1).all())


def test_figure_5_with_a_flow_on_both_sides() -> None:
    """The paper's setting: planar flows on the encoder and on the decoder, both with densities of their samples."""
    spec = resolve("asvae-mnist-conv", {"model.likelihood": "planar", "model.likelihood.num_layers": 3}).model
    model = build_model({**spec, "posterior": {"name": "planar", "num_layers": 80}}, MNIST).eval()
    rows = 2 + 80 + 80 + 2  # mean and scale, u, w, and the 80 numbers b, which fill two rows of 64
    assert model.encoder.network.heads[0][-1].out_features == rows * 64
    with torch.no_grad():
        q = model.encode(torch.rand(B, *MNIST))
        z, log_q = q.rsample_and_log_prob()
        x, log_p = model.decode(z).rsample_and_log_prob()
    assert z.shape == (B, 64) and x.shape == (B, *MNIST)
    assert bool(torch.isfinite(log_q).all() and torch.isfinite(log_p).all())


@pytest.mark.parametrize(
    ("recipe", "part", "figure"),
    [
        ("vae-mnist-fc32", "decoder", "fully connected 300-300 (AVB 3a)"),
        ("avb-ac-mnist-conv8", "decoder", "shallow convolutional decoder (AVB 3b)"),
        ("vae-mnist-conv8", "decoder", "shallow convolutional decoder (AVB 3b)"),
        ("avb-ac-mnist-conv32", "decoder", "shallow convolutional decoder (AVB 3c)"),
        ("vae-mnist-conv32", "encoder", "its mirror image, an encoder"),
        ("avb-ac-paper-mnist-conv32", "encoder", "image network of AVB figure 8"),
        ("avb-ac-paper-mnist-conv32", "critic", "critic θ·s + T_x + T_z of AVB"),
        ("avb-celeba-residual", "encoder", "celebA encoder (AVB)"),
        ("avb-celeba-residual", "decoder", "celebA decoder (AVB)"),
        ("avb-celeba-residual", "critic", "celebA critic (AVB)"),
        ("asvae-mnist-conv", "decoder", "MNIST decoder (AS-VAE 5), for Bernoulli pixels"),
        ("asvae-mnist-conv", "critic", "MNIST critic, all positions"),
        ("asvae-cifar10-conv", "encoder", "CIFAR-10 encoder (AS-VAE 6)"),
        ("asvae-cifar10-conv", "decoder", "CIFAR-10 decoder (AS-VAE 6)"),
        ("asvae-cifar10-conv", "critic", "CIFAR-10 critic (AS-VAE 6)"),
        ("asvae-imagenet64-conv", "encoder", "ImageNet encoder (AS-VAE 7)"),
        ("asvae-imagenet64-conv", "decoder", "ImageNet decoder (AS-VAE 7)"),
        ("asvae-imagenet64-conv", "critic", "ImageNet critic (AS-VAE 8)"),
        ("bavae-mnist-conv", "encoder", "BAVAE encoder, MNIST"),
        ("bavae-mnist-conv", "decoder", "BAVAE decoder, MNIST"),
        ("bavae-mnist-conv", "critic", "BAVAE critic, MNIST"),
    ],
)
def test_recipes_build_the_papers_networks(recipe: str, part: str, figure: str) -> None:
    """Network, widths and latent dimension of a recipe are those of the paper."""
    expected, model = PAPER_NETWORKS[figure], resolve(recipe).model
    slots = expected.shapes if expected.kind == "critic" or part == "encoder" else expected.shapes[::-1]
    assert slots[1][-1] == model["latent_dim"]
    with torch.device("meta"):
        spec = dict(model[part])
        network = build(
            PaperNetwork(
                expected.kind, spec.pop("name"), expected.shapes, spec, [], 0, "", expected.noise_dim
            )
        )
    assert model[part]["name"] == expected.name
    assert sum(p.numel() for p in network.parameters()) == expected.count
    head = {"encoder": "posterior", "decoder": "likelihood"}.get(part)
    assert (
        head is None
        or model[head].get("noise_dim", 0) * (model[head]["name"] == "implicit") == expected.noise_dim
    )
