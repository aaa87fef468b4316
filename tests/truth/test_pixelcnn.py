"""PixelCNN++: causality, and fast sampling by caching."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from advae.config import resolve
from advae.distributions import HEADS
from advae.distributions.autoregressive import Autoregressive, FullSampler
from advae.errors import ConfigError, UnsupportedError
from advae.methods import METHODS
from advae.model import build_model
from advae.networks import NETWORKS
from advae.networks.causal_conv import GatedBlock
from advae.networks.pixelcnn import PixelCNN

DOCS = Path(__file__).resolve().parents[2] / "docs" / "papers"
SHAPES = {
    (1, 5, 6): {"num_blocks": 2, "num_scales": 1},
    (3, 6, 5): {"num_blocks": 1, "num_scales": 2},
    (1, 9, 7): {"num_blocks": 1, "num_scales": 3},
    (1, 8, 8): {"num_blocks": 2, "num_scales": 4},
}
"""Images of odd and even sides, and options under which every pixel is within reach of all later ones.

A convolution of 2×3 reaches a column to either side and a row up. At the image's scale the down stream has two per
block, and one at the start: with n blocks on the contracting path and n + 1 on the expanding one (n at the only scale)
it reaches 4 n + 3 (4 n + 1) columns, and the down-right stream as many to the left. The smaller maps reach further, but
not into the rows next to a pixel's own.
"""


def network(shape: tuple[int, ...], k: int = 2, **options: Any) -> PixelCNN:
    """Return a network whose weights and biases are all random and of order one."""
    net = PixelCNN((0,), (k, *shape), **{"filters": 3, **options})
    for p in net.parameters():
        p.data = torch.randn_like(p) * (0.5 if p.dim() == 1 else (2 / p[0].numel()) ** 0.5)
    return net


# --- causality ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pixel_depends_on_exactly_the_pixels_before_it(shape: tuple[int, int, int]) -> None:
    """By the full Jacobian: exactly zero at the pixel itself and after it; nonzero for all before it."""
    net, (c, h, w) = network(shape, **SHAPES[shape]), shape
    x = torch.rand(1, *shape) * 2 - 1
    jacobian = torch.autograd.functional.jacobian(net, x)[0, ..., 0, :, :, :]  # [k, C, H, W, C, H, W]
    depends = (
        (jacobian != 0).permute(2, 3, 0, 1, 4, 5, 6).reshape(h * w, -1, c, h * w).any(1)
    )  # [to, C, from]
    before = torch.ones(h * w, h * w).tril(-1).bool()
    for channel in range(c):
        assert torch.equal(depends[:, channel], before)


def test_every_output_of_a_pixel_depends_on_pixels_before() -> None:
    net = network((3, 4, 4), k=5, num_blocks=1, num_scales=2)
    x = torch.zeros(1, 3, 4, 4)
    changed = x.clone()
    changed[..., 0, 0] = 1.0
    with torch.no_grad():
        differs = (net(x) != net(changed))[0].flatten(2)
    assert not bool(differs[..., 0].any()) and bool(differs[..., 1:].all())


@pytest.mark.parametrize(("stream", "inside"), [("down", (1, 1)), ("row", (1, 1)), ("down_right", (0, 1))])
def test_padding_differs_from_a_zero_pixel(stream: str, inside: tuple[int, int]) -> None:
    """The output of a first layer differs between a position that covers pixels and the first, which covers none."""
    net, outputs = network((1, 4, 4), num_blocks=1, num_scales=1), []
    net.start[stream].register_forward_hook(lambda layer, args, out: outputs.append(out))
    with torch.no_grad():
        net(torch.zeros(1, 1, 4, 4))
    assert bool((outputs[0][0, :, 0, 0] != outputs[0][0, :, inside[0], inside[1]]).all())


# --- sampling that computes only what changes -------------------------------------------------------------


def sampler_outputs(sampler: Any, x: Tensor) -> Tensor:
    """Return the network's output at every pixel when ``x [B, C, H, W]`` is sampled, ``[B, k, C, H, W]``."""
    h, w = x.shape[-2:]
    rows = []
    for r in range(h):
        row = []
        for c in range(w):
            row.append(sampler.pixel_params(r, c))
            sampler.set_pixel(r, c, x[:, :, r, c])
        rows.append(torch.stack(row, -1))
    return torch.stack(rows, -2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [*SHAPES, (1, 1, 1), (2, 3, 1), (1, 1, 5)], ids=str)
def test_cached_outputs_match_one_pass(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    """The same sums in a different order: about 50 layers of numbers of order one, with a few roundings each."""
    net = network(shape, **SHAPES.get(shape, {"num_blocks": 1, "num_scales": 2})).to(dtype)
    x = torch.rand(3, *shape, dtype=dtype) * 2 - 1
    rounding = {torch.float32: 1e-4, torch.float64: 1e-12}[dtype]
    with torch.no_grad():
        full = net(x)
        scale = float(full.abs().max())
        for sampler in (net.make_sampler(3, x), FullSampler(net, torch.zeros_like(x))):
            torch.testing.assert_close(sampler_outputs(sampler, x), full, atol=rounding * scale, rtol=0)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", ["autoregressive-bernoulli", "autoregressive-logistic-mixture"])
@pytest.mark.parametrize("shape", [(1, 5, 6), (3, 5, 4)], ids=str)
def test_cached_and_full_sampling_give_the_same_images(
    name: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In double precision they differ only if a number is within 1e-14 of the edge of a level."""
    head = HEADS.build({"name": name}, event_shape=shape)
    net = network(shape, k=head.num_params, num_blocks=1, num_scales=2)
    p = head(net, torch.zeros(4, 0))
    assert isinstance(p, Autoregressive)
    torch.manual_seed(1)
    full = p.sample((2,), cached=False)
    monkeypatch.setattr(net, "forward", None)  # from here on only the cached sampler works
    torch.manual_seed(1)
    cached = p.sample((2,))
    assert torch.equal(cached, full)
    images = full.flatten(0, 1)
    assert all(not torch.equal(images[0], other) for other in images[1:]), "all images are equal"


def test_sampling_an_image_takes_the_flops_of_one_pass() -> None:
    """Each position of each map is computed once."""
    shape = (3, 4, 6)
    net, x = network(shape, num_blocks=1, num_scales=2), torch.zeros(2, *shape)

    def flops(run: Any) -> int:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops()

    one_pass = flops(lambda: net(x))
    assert flops(lambda: sampler_outputs(net.make_sampler(2, x), x)) == pytest.approx(one_pass, rel=0.01)
    assert flops(lambda: sampler_outputs(FullSampler(net, x), x)) == 24 * one_pass


def test_samplers_do_not_share_caches() -> None:
    net, x = network((1, 4, 4), num_blocks=1, num_scales=2), torch.rand(2, 1, 4, 4)
    with torch.no_grad():
        first, second = net.make_sampler(2, x), net.make_sampler(2, x)
        outputs = sampler_outputs(first, x)
        torch.testing.assert_close(sampler_outputs(second, x), outputs)
    assert not [name for name, _ in net.named_buffers()]


# --- the paper's size ---------------------------------------------------------------------------------------


def count(c: int, outputs: int, filters: int, num_blocks: int, num_scales: int) -> int:
    """Return the number of parameters: kernels of 2×3 and 2×2, with 2 F input channels after the concatenated ELU."""
    f, f2 = filters, filters**2
    start = (6 + 3 + 2) * (c + 1) * f + 3 * f
    block = (6 + 4) * (2 * f2 + 4 * f2) + 2 * 3 * f  # of both streams: F and then 2 F channels, with biases
    contracting = block + 2 * f2  # with the connection between the streams
    expanding = block + 3 * 2 * f2  # and with a skip connection for each stream
    resampling = 2 * (num_scales - 1) * ((6 + 4) * f2 + 2 * f)
    n = num_blocks * num_scales
    return start + n * contracting + (n + num_scales - 1) * expanding + resampling + (f + 1) * outputs


PAPER = {"filters": 160, "num_blocks": 5, "num_scales": 3}
RECIPES = ("mle-digits-pixelcnn", "mle-mnist-pixelcnn", "mle-cifar10-pixelcnn", "mle-imagenet64-pixelcnn")
IMAGES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32), "imagenet": (3, 64, 64)}


@pytest.mark.parametrize("name", ["paper", *RECIPES])
def test_parameter_count_matches_the_docs(name: str) -> None:
    config = resolve("mle-cifar10-pixelcnn" if name == "paper" else name)
    shape = IMAGES[config.data.source]
    head = HEADS.build(config.model["likelihood"], event_shape=shape)
    decoder = config.model["decoder"] | (PAPER if name == "paper" else {})
    with torch.device("meta"):
        net = NETWORKS.build(decoder, in_shape=(0,), out_shape=(head.num_params, *shape))
    size = {key: decoder[key] for key in PAPER}
    num_parameters = sum(p.numel() for p in net.parameters())
    assert num_parameters == count(shape[0], head.num_params * shape[0], **size)
    assert f"{num_parameters:,}" in (DOCS / "pixelcnn.md").read_text()


def test_initial_weights() -> None:
    """Xavier-uniform, with the variance known to 5% by so many numbers; a tenth of it in the last layers of blocks."""
    net = PixelCNN((0,), (30, 1, 8, 8), filters=32, num_blocks=1, num_scales=2)
    last_layers = {id(m.second) for m in net.modules() if isinstance(m, GatedBlock)}
    num_checked = 0
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            w = module.weight.detach() * (10 if id(module) in last_layers else 1)
            fan_in, fan_out = torch.nn.init._calculate_fan_in_and_fan_out(w)
            bound = (6 / (fan_in + fan_out)) ** 0.5
            assert float(w.abs().max()) <= bound * (1 + 1e-6) and (
                module.bias is None or not bool(module.bias.any())
            )
            if w.numel() > 2000:
                assert float(w.var() / (bound**2 / 3)) == pytest.approx(1, abs=0.1)
                num_checked += 1
    assert num_checked > 20


# --- unsupported uses --------------------------------------------------------------------------------------


def spec(**over: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "latent_dim": 0,
        "encoder": {"name": "none"},
        "posterior": {"name": "normal"},
        "decoder": {"name": "pixelcnn", "filters": 3, "num_blocks": 1, "num_scales": 2},
        "likelihood": {"name": "autoregressive-bernoulli"},
        "critic": {"name": "concat"},
    }
    return base | over


@pytest.mark.parametrize(
    ("over", "shape", "message"),
    [
        ({"latent_dim": 2}, (1, 4, 4), "neither latents nor noise"),
        ({"latent_dim": 2, "decoder": {"name": "mlp"}}, (1, 4, 4), "autoregressive network"),
        ({"latent_dim": 2, "decoder": {"name": "mlp"}}, (4,), "needs images"),
        ({"likelihood": {"name": "bernoulli"}}, (1, 4, 4), "input of a pixelcnn"),
        ({"likelihood": {"name": "bernoulli"}}, (4,), "needs images"),
        ({"likelihood": {"name": "implicit", "noise_dim": 3}}, (1, 4, 4), "neither latents nor noise"),
        ({"decoder": {"name": "pixelcnn", "filters": 0}}, (1, 4, 4), "at least one"),
        (
            {"likelihood": {"name": "autoregressive-logistic-mixture", "num_components": 0}},
            (1, 4, 4),
            "at least one",
        ),
    ],
)
def test_incompatible_components_raise(over: dict[str, Any], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(spec(**over), shape).decode(torch.zeros(2, over.get("latent_dim", 0)))


def test_maximum_likelihood_loss_is_minus_log_prob() -> None:
    """And the method needs a model of p(x)."""
    method, model = METHODS.build({"name": "mle"}), build_model(spec(), (1, 4, 4))
    method.check(model)
    x = torch.randint(0, 2, (5, 1, 4, 4)).float()
    losses = method.losses(model, x)
    expected = -model.decode(torch.zeros(5, 0)).log_prob(x)
    assert torch.equal(losses["model"], expected)
    assert torch.equal(losses.diagnostics["reconstruction"], expected) and list(losses.diagnostics) == [
        "reconstruction"
    ]
    assert float(losses["model"].detach().mean()) > 0
    coded = {"decoder": {"name": "mlp"}, "likelihood": {"name": "bernoulli"}}
    with pytest.raises(ConfigError, match="latent_dim"):
        method.check(build_model(spec(latent_dim=2, **coded), (1, 4, 4)))
    with pytest.raises(ConfigError, match="encoder"):
        method.check(build_model(spec(latent_dim=2, encoder={"name": "mlp"}, **coded), (1, 4, 4)))


@pytest.mark.parametrize("name", ["autoregressive-bernoulli", "autoregressive-logistic-mixture"])
def test_unsupported_operations_raise(name: str) -> None:
    model = build_model(spec(likelihood={"name": name}), (1, 4, 4))
    p = model.decode(torch.zeros(3, 0))
    for operation in (p.rsample, lambda: p.mean, p.moments, p.as_density, p.rsample_and_log_prob):
        with pytest.raises(UnsupportedError):
            operation()
    levels = 2 if name.endswith("bernoulli") else 256
    for mean in (True, False):
        samples = model.sample(3, seed=0, mean=mean)
        grid = samples if levels == 2 else samples * 256 - 0.5
        assert torch.equal(grid, grid.round()) and samples.shape == (3, 1, 4, 4)
        assert bool(torch.isfinite(p.log_prob(samples)).all())
