"""Generator and critic of DCGAN (Radford, Metz and Chintala 2015), for images of 4 to 7 pixels doubled a few times.

    generator   code → map of the smallest size → a step up for each doubling → image       BN, ReLU
    critic      image → a step down for each halving → flattened → one number               leaky ReLU 0.2

A step is a convolution of 4×4 with stride 2, transposed on the way up; the channels halve with every step up, down to
``width``. Smallest maps: 7×7 for images of 28×28, 4×4 for 32×32 and 64×64. All weights start as N(0, 0.02²). No
network has pooling, or fully connected layers but at its ends. There is no encoder: the critic sees images alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from advae.errors import ConfigError
from advae.networks.base import CRITICS, NETWORKS, normalise_spectrum, with_noise
from advae.networks.blocks import CriticNorm, Norm, finish, image_shape, image_values

KERNEL, STRIDE, PADDING = 4, 2, 1  # a step doubles or halves a map exactly
SMALLEST = 4  # side of the smallest map, at least; the paper's
SCALE = 0.02  # of all weights at the start; the paper's


@NETWORKS.register("dcgan-generator")
class DCGANGenerator(nn.Module):
    """Vectors to images: projected to the smallest map, then doubled by transposed convolutions.

    Args:
        in_shape: shape of one input.
        out_shape: ``(C, H, W)``, or ``(k, C, H, W)`` for k numbers a pixel.
        noise: noise numbers concatenated to the input.
        width: channels of the last map before the image; every map before it has twice as many. The paper's
            generator for 64×64 has 128.
        smallest: side of the smallest map, at least; below the double of it.
        norm: normalisation after each layer but the last.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        noise: int = 0,
        width: int = 64,
        smallest: int = SMALLEST,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        values, c, h, w = image_values(out_shape)
        self.out_shape = tuple(out_shape)
        sizes = doublings(h, w, smallest)
        channels = [width * 2**i for i in reversed(range(len(sizes) - 1))]
        after, bias = finish("relu", norm), norm != "batch"
        code = math.prod(in_shape) + noise
        modules: list[nn.Module] = [nn.ConvTranspose2d(code, channels[0], sizes[0], bias=bias)]
        modules += after(channels[0])
        for a, b in pairwise(channels):
            modules += [nn.ConvTranspose2d(a, b, KERNEL, STRIDE, PADDING, bias=bias), *after(b)]
        modules.append(nn.ConvTranspose2d(channels[-1], values * c, KERNEL, STRIDE, PADDING))
        self.body = nn.Sequential(*modules)
        start_small(self)

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Tensor:
        """``[B, *in_shape]`` (and noise ``[B, n]``) to ``[B, *out_shape]``."""
        code = with_noise(inputs, noise)[..., None, None]
        return self.body(code).reshape(-1, *self.out_shape)


@CRITICS.register("dcgan")
class DCGANCritic(nn.Module):
    """``T(x)``: convolutions of stride 2, then one linear layer, without a bias, of the last map.

    The paper has batch normalisation after each convolution but the first. With it the answer for one image
    depends on the batch that it comes in (trap 9), so it is off unless asked for.

    Args:
        x_shape: ``(C, H, W)``.
        z_shape: ``(0,)``: it sees no code.
        width: channels of the first map; every map after it has twice as many.
        smallest: side of the last map, at least; below the double of it.
        norm: "batch" and "layer" follow each convolution but the first; "spectral" puts every layer under
            spectral normalisation.
        gain: factor of the output; under spectral normalisation, the largest slope of ``T``.
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        z_shape: Sequence[int],
        *,
        width: int = 64,
        smallest: int = SMALLEST,
        norm: CriticNorm = "none",
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        if math.prod(z_shape):
            raise ConfigError(
                "the critic 'dcgan' sees images alone",
                given=f"pairs with codes of shape {tuple(z_shape)}",
                expected="a model without an encoder",
                remedy="set model.encoder to none with the method gan or wgan-gp, or take the critic 'conv'",
            )
        self.gain = gain
        c, h, w = image_shape(x_shape, "critic")
        sizes = doublings(h, w, smallest)
        channels = [c, *(width * 2**i for i in range(len(sizes) - 1))]
        modules: list[nn.Module] = []
        for a, b in pairwise(channels):
            own = norm if modules else "none"
            modules += [
                nn.Conv2d(a, b, KERNEL, STRIDE, PADDING, bias=own != "batch"),
                *finish("leaky-relu", own)(b),
            ]
        self.features = nn.Sequential(*modules)
        self.last = nn.Linear(channels[-1] * math.prod(sizes[0]), 1, bias=False)
        start_small(self)
        if norm == "spectral":
            normalise_spectrum(self)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Images ``x [B, C, H, W]`` to ``T [B]``; ``z [B, 0]`` is nothing to see."""
        return self.gain * self.last(self.features(x).flatten(1)).squeeze(-1)


def doublings(height: int, width: int, smallest: int = SMALLEST) -> list[tuple[int, int]]:
    """Sizes of maps from the smallest to the image, each twice the one before.

    >>> doublings(28, 28)
    [(7, 7), (14, 14), (28, 28)]

    Raises:
        ConfigError: there are none that begin with a side from ``smallest`` up to its double.
    """
    sizes = [(height, width)]
    while min(sizes[0]) >= 2 * smallest and sizes[0][0] % 2 == sizes[0][1] % 2 == 0:
        sizes.insert(0, (sizes[0][0] // 2, sizes[0][1] // 2))
    if smallest < 1 or len(sizes) == 1 or min(sizes[0]) >= 2 * smallest:
        raise ConfigError(
            "the networks of DCGAN cannot make images of this size by doubling",
            given=f"{height} × {width} pixels, smallest = {smallest}",
            expected=f"{smallest} to {2 * smallest - 1} pixels, doubled: if 4 to 7, sides of 8, 12, 16, 28, 32, 64 …",
            remedy="set data.image_size, or take the network 'deconv' and the critic 'conv', which take any size",
        )
    return sizes


def start_small(module: nn.Module) -> None:
    """Normal weights of standard deviation SCALE and zero biases, in place."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, std=SCALE)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
