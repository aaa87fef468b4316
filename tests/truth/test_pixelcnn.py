"""PixelCNN++'s network: what each pixel depends on, and generation that computes only what changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from advae.config import resolve
from advae.distributions import HEADS
from advae.distributions.autoregressive import Autoregressive, Whole
from advae.errors import ConfigError, UnsupportedError
from advae.methods import METHODS
from advae.model import build_model
from advae.networks import NETWORKS
from advae.networks.causal_conv import Gated
from advae.networks.pixelcnn import PixelCNN

DOCS = Path(__file__).resolve().parents[2] / "docs"
SHAPES = {
    (1, 5, 6): {"blocks": 2, "scales": 1},
    (3, 6, 5): {"blocks": 1, "scales": 2},
    (1, 9, 7): {"blocks": 1, "scales": 3},
    (1, 8, 8): {"blocks": 2, "scales": 4},
}
"""Images of odd and even sides, and options under which every pixel is within reach of all later ones.

A convolution of 2×3 reaches a column to either side and a row up. At the image's own scale the stream above has two a
block, and one at the start: with n blocks down and n + 1 up (n at the only scale) it reaches 4 n + 3 (4 n + 1) columns,
and the left stream as many to the left. The smaller maps reach further, but not into the rows next to a pixel's own.
"""


def network(shape: tuple[int, ...], k: int = 2, **options: Any) -> PixelCNN:
    """A network all of whose weights and biases are random and of order one: no part of it is near zero."""
    net = PixelCNN((0,), (k, *shape), **{"filters": 3, **options})
    for p in net.parameters():
        p.data = torch.randn_like(p) * (0.5 if p.dim() == 1 else (2 / p[0].numel()) ** 0.5)
    return net


# --- causality ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_pixel_depends_on_all_before_it_and_on_no_other(shape: tuple[int, int, int]) -> None:
    """By the whole Jacobian: zero, and exactly so, at the pixel itself and after it; not zero for any before it."""
    net, (c, h, w) = network(shape, **SHAPES[shape]), shape
    x = torch.rand(1, *shape) * 2 - 1
    jacobian = torch.autograd.functional.jacobian(net, x)[0, ..., 0, :, :, :]  # [k, C, H, W, C, H, W]
    touched = (
        (jacobian != 0).permute(2, 3, 0, 1, 4, 5, 6).reshape(h * w, -1, c, h * w).any(1)
    )  # [to, C, from]
    before = torch.ones(h * w, h * w).tril(-1).bool()
    for channel in range(c):
        assert torch.equal(touched[:, channel], before)


def test_every_number_of_a_pixel_depends_on_what_came_before() -> None:
    net = network((3, 4, 4), k=5, blocks=1, scales=2)
    x = torch.zeros(1, 3, 4, 4)
    changed = x.clone()
    changed[..., 0, 0] = 1.0
    with torch.no_grad():
        differs = (net(x) != net(changed))[0].flatten(2)
    assert not bool(differs[..., 0].any()) and bool(differs[..., 1:].all())


@pytest.mark.parametrize(("stream", "inside"), [("above", (1, 1)), ("row", (1, 1)), ("left", (0, 1))])
def test_outside_of_the_image_is_not_a_pixel_of_nought(stream: str, inside: tuple[int, int]) -> None:
    """A first layer tells one from the other, at a place that sees pixels and at the very first, which sees none."""
    net, seen = network((1, 4, 4), blocks=1, scales=1), []
    net.start[stream].register_forward_hook(lambda layer, args, out: seen.append(out))
    with torch.no_grad():
        net(torch.zeros(1, 1, 4, 4))
    assert bool((seen[0][0, :, 0, 0] != seen[0][0, :, inside[0], inside[1]]).all())


# --- generation that computes only what changes -------------------------------------------------------------


def numbers(images: Any, x: Tensor) -> Tensor:
    """What the network gives at every pixel of ``x [B, C, H, W]`` when it is generated so, ``[B, k, C, H, W]``."""
    h, w = x.shape[-2:]
    rows = []
    for r in range(h):
        row = []
        for c in range(w):
            row.append(images.raw(r, c))
            images.put(r, c, x[:, :, r, c])
        rows.append(torch.stack(row, -1))
    return torch.stack(rows, -2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [*SHAPES, (1, 1, 1), (2, 3, 1), (1, 1, 5)], ids=str)
def test_numbers_from_caches_are_those_of_one_pass(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    """The same sums in another order: some 50 layers of numbers of order one, a few roundings each (1e-7 or 1e-16)."""
    net = network(shape, **SHAPES.get(shape, {"blocks": 1, "scales": 2})).to(dtype)
    x = torch.rand(3, *shape, dtype=dtype) * 2 - 1
    rounding = {torch.float32: 1e-4, torch.float64: 1e-12}[dtype]
    with torch.no_grad():
        once = net(x)
        scale = float(once.abs().max())
        for images in (net.generation(3, x), Whole(net, torch.zeros_like(x))):
            torch.testing.assert_close(numbers(images, x), once, atol=rounding * scale, rtol=0)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", ["autoregressive-bernoulli", "autoregressive-logistics"])
@pytest.mark.parametrize("shape", [(1, 5, 6), (3, 5, 4)], ids=str)
def test_the_same_random_numbers_give_the_same_images(
    name: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In double precision a number would have to fall within 1e-14 of the edge of a level to tell them apart."""
    head = HEADS.build({"name": name}, event_shape=shape)
    net = network(shape, k=head.values, blocks=1, scales=2)
    p = head(net, torch.zeros(4, 0))
    assert isinstance(p, Autoregressive)
    torch.manual_seed(1)
    whole = p.sample((2,), cached=False)
    monkeypatch.setattr(net, "forward", None)  # from here on there are caches, or an error
    torch.manual_seed(1)
    cached = p.sample((2,))
    assert torch.equal(cached, whole)
    images = whole.flatten(0, 1)
    assert all(not torch.equal(images[0], other) for other in images[1:]), "all images are one"


def test_an_image_costs_the_arithmetic_of_one_pass() -> None:
    """Products of all layers, counted: the same number, as each place of each map is computed once."""
    shape = (3, 4, 6)
    net, x = network(shape, blocks=1, scales=2), torch.zeros(2, *shape)

    def products(run: Any) -> int:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops()

    once = products(lambda: net(x))
    assert products(lambda: numbers(net.generation(2, x), x)) == pytest.approx(once, rel=0.01)
    assert products(lambda: numbers(Whole(net, x), x)) == 24 * once


def test_generations_do_not_share_their_caches() -> None:
    net, x = network((1, 4, 4), blocks=1, scales=2), torch.rand(2, 1, 4, 4)
    with torch.no_grad():
        first, second = net.generation(2, x), net.generation(2, x)
        a = numbers(first, x)
        torch.testing.assert_close(numbers(second, x), a)
    assert not [name for name, _ in net.named_buffers()]


# --- the paper's size ---------------------------------------------------------------------------------------


def count(c: int, outputs: int, filters: int, blocks: int, scales: int) -> int:
    """Parameters, by kernel: 2×3 above and 2×2 to the left, from 2 F channels after the concatenated ELU."""
    f, f2 = filters, filters**2
    start = (6 + 3 + 2) * (c + 1) * f + 3 * f
    block = (6 + 4) * (2 * f2 + 4 * f2) + 2 * 3 * f  # of both streams: F and then 2 F channels, with biases
    down, up = (
        block + 2 * f2,
        block + 3 * 2 * f2,
    )  # beside what goes from above to the left, a skip for each stream
    steps = 2 * (scales - 1) * ((6 + 4) * f2 + 2 * f)  # down and up
    return start + blocks * scales * down + (blocks * scales + scales - 1) * up + steps + (f + 1) * outputs


PAPER = {"filters": 160, "blocks": 5, "scales": 3}
RECIPES = ("mle-digits-pixelcnn", "mle-mnist-pixelcnn", "mle-cifar10-pixelcnn", "mle-imagenet64-pixelcnn")
IMAGES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32), "imagenet": (3, 64, 64)}


@pytest.mark.parametrize("name", ["paper", *RECIPES])
def test_the_count_of_parameters_is_the_docs(name: str) -> None:
    config = resolve("mle-cifar10-pixelcnn" if name == "paper" else name)
    shape = IMAGES[config.data.source]
    head = HEADS.build(config.model["likelihood"], event_shape=shape)
    decoder = config.model["decoder"] | (PAPER if name == "paper" else {})
    with torch.device("meta"):
        net = NETWORKS.build(decoder, in_shape=(0,), out_shape=(head.values, *shape))
    size = {key: decoder[key] for key in PAPER}
    found = sum(p.numel() for p in net.parameters())
    assert found == count(shape[0], head.values * shape[0], **size)
    assert f"{found:,}" in (DOCS / "pixelcnn.md").read_text()


def test_the_start_of_training() -> None:
    """Uniform within Glorot's bounds, of his variance (to 5% by so many numbers), a tenth of it in blocks' ends."""
    net = PixelCNN((0,), (30, 1, 8, 8), filters=32, blocks=1, scales=2)
    ends = {id(m.second) for m in net.modules() if isinstance(m, Gated)}
    seen = 0
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            w = module.weight.detach() * (10 if id(module) in ends else 1)
            fan_in, fan_out = torch.nn.init._calculate_fan_in_and_fan_out(w)
            bound = (6 / (fan_in + fan_out)) ** 0.5
            assert float(w.abs().max()) <= bound * (1 + 1e-6) and (
                module.bias is None or not bool(module.bias.any())
            )
            if w.numel() > 2000:
                assert float(w.var() / (bound**2 / 3)) == pytest.approx(1, abs=0.1)
                seen += 1
    assert seen > 20


# --- what it cannot do --------------------------------------------------------------------------------------


def spec(**over: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "latent": 0,
        "encoder": {"name": "none"},
        "posterior": {"name": "normal"},
        "decoder": {"name": "pixelcnn", "filters": 3, "blocks": 1, "scales": 2},
        "likelihood": {"name": "autoregressive-bernoulli"},
        "critic": {"name": "concat"},
    }
    return base | over


@pytest.mark.parametrize(
    ("over", "shape", "message"),
    [
        ({"latent": 2}, (1, 4, 4), "neither code nor noise"),
        ({"latent": 2, "decoder": {"name": "mlp"}}, (1, 4, 4), "no pixel sees itself"),
        ({"latent": 2, "decoder": {"name": "mlp"}}, (4,), "one of images"),
        ({"likelihood": {"name": "bernoulli"}}, (1, 4, 4), "reads the image"),
        ({"likelihood": {"name": "bernoulli"}}, (4,), "a model of images"),
        ({"likelihood": {"name": "implicit", "noise": 3}}, (1, 4, 4), "neither code nor noise"),
        ({"decoder": {"name": "pixelcnn", "filters": 0}}, (1, 4, 4), "at least one"),
        ({"likelihood": {"name": "autoregressive-logistics", "mixtures": 0}}, (1, 4, 4), "at least one"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    over: dict[str, Any], shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(spec(**over), shape).decode(torch.zeros(2, over.get("latent", 0)))


def test_maximum_likelihood() -> None:
    """Its loss is −log p(x), and it asks for a model of p(x)."""
    method, model = METHODS.build({"name": "mle"}), build_model(spec(), (1, 4, 4))
    method.check(model)
    x = torch.randint(0, 2, (5, 1, 4, 4)).float()
    losses = method.losses(model, x)
    expected = -model.decode(torch.zeros(5, 0)).log_prob(x)
    assert torch.equal(losses["model"], expected)
    assert torch.equal(losses.report["reconstruction"], expected) and list(losses.report) == [
        "reconstruction"
    ]
    assert float(losses["model"].detach().mean()) > 0
    coded = {"decoder": {"name": "mlp"}, "likelihood": {"name": "bernoulli"}}
    with pytest.raises(ConfigError, match=r"p\(x\|z\) alone"):
        method.check(build_model(spec(latent=2, **coded), (1, 4, 4)))
    with pytest.raises(ConfigError, match="trains no encoder"):
        method.check(build_model(spec(latent=2, encoder={"name": "mlp"}, **coded), (1, 4, 4)))


@pytest.mark.parametrize("name", ["autoregressive-bernoulli", "autoregressive-logistics"])
def test_what_an_autoregressive_model_has_not_is_said(name: str) -> None:
    model = build_model(spec(likelihood={"name": name}), (1, 4, 4))
    p = model.decode(torch.zeros(3, 0))
    for ask in (p.rsample, lambda: p.mean, p.moments, p.density, p.rsample_and_log_prob):
        with pytest.raises(UnsupportedError, match="autoregressive"):
            ask()
    levels = 2 if name.endswith("bernoulli") else 256
    for mean in (True, False):
        drawn = model.sample(3, seed=0, mean=mean)
        grid = drawn if levels == 2 else drawn * 256 - 0.5
        assert torch.equal(grid, grid.round()) and drawn.shape == (3, 1, 4, 4)
        assert bool(torch.isfinite(p.log_prob(drawn)).all())
