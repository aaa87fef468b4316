"""Generator and critic of DCGAN (Radford, Metz and Chintala 2015).

    generator   latent → smallest map → doubled by each convolution → image         batch norm, ReLU
    critic      image → halved by each convolution → flattened → one number         leaky ReLU 0.2

The convolutions have 4×4 kernels and stride 2, transposed in the generator, where each has half the channels of the
one before, down to ``base_channels``. Images are 4 to 7 pixels, doubled several times: the smallest maps are 7×7 for
images of 28×28, and 4×4 for 32×32 and 64×64. All weights start as N(0, 0.02²). There is no pooling, and there are fully
connected layers at the ends only. There is no encoder: the critic sees images alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from advae.errors import ConfigError
from advae.networks.base import CRITICS, NETWORKS, apply_spectral_norm, concat_noise
from advae.networks.blocks import CriticNorm, Norm, image_shape, norm_act

KERNEL_SIZE, STRIDE, PADDING = 4, 2, 1  # doubles or halves a map exactly
MIN_SIZE = 4  # the paper's smallest map
INIT_STD = 0.02  # the paper's


@NETWORKS.register("dcgan-generator")
class DCGANGenerator(nn.Module):
    """Vectors to images: projected to the smallest map, then doubled by transposed convolutions.

    Args:
        base_channels: channels of the last map before the image; every map before it has twice as many. The paper's
            generator for 64×64 has 128.
        min_size: minimum side of the smallest map, which is less than twice as large.
        norm: normalization after each layer but the last.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        noise_dim: int = 0,
        base_channels: int = 64,
        min_size: int = MIN_SIZE,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        c, h, w = image_shape(out_shape, "decoder")
        self.out_shape = tuple(out_shape)
        sizes = doubled_sizes(h, w, min_size)
        channels = [base_channels * 2**i for i in reversed(range(len(sizes) - 1))]
        post, bias = norm_act("relu", norm), norm != "batch"
        in_features = math.prod(in_shape) + noise_dim
        modules: list[nn.Module] = [nn.ConvTranspose2d(in_features, channels[0], sizes[0], bias=bias)]
        modules += post(channels[0])
        for a, b in pairwise(channels):
            modules += [nn.ConvTranspose2d(a, b, KERNEL_SIZE, STRIDE, PADDING, bias=bias), *post(b)]
        modules.append(nn.ConvTranspose2d(channels[-1], c, KERNEL_SIZE, STRIDE, PADDING))
        self.body = nn.Sequential(*modules)
        init_normal(self)

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.body(concat_noise(inputs, noise)[..., None, None]).reshape(-1, *self.out_shape)


@CRITICS.register("dcgan")
class DCGANCritic(nn.Module):
    """``T(x)``: convolutions of stride 2, then one linear layer of the last map, without a bias.

    The paper has batch normalization after each convolution but the first. With it the output for one image depends on
    the others in its batch (trap 9), so it is off by default.

    Args:
        base_channels: channels of the first map; every map after it has twice as many.
        min_size: minimum side of the last map, which is less than twice as large.
        norm: "batch" and "layer" follow each convolution but the first; "spectral" puts every layer under
            spectral normalization.
        gain: factor of the output; under spectral normalization, the Lipschitz constant of ``T``.
        num_bridges: 1, or the number of bridges of a telescoped critic (:mod:`advae.density_ratio`).
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        z_shape: Sequence[int],
        *,
        base_channels: int = 64,
        min_size: int = MIN_SIZE,
        norm: CriticNorm = "none",
        gain: float = 1.0,
        num_bridges: int = 1,
    ) -> None:
        super().__init__()
        if math.prod(z_shape):
            raise ConfigError(
                "The critic 'dcgan' sees images alone, not latents.",
                given=f"pairs with latents of shape {tuple(z_shape)}",
                expected="a model without an encoder",
                fix="set model.encoder to none with the method gan or wgan-gp, or use the critic 'conv'",
            )
        self.gain = gain
        c, h, w = image_shape(x_shape, "critic")
        sizes = doubled_sizes(h, w, min_size)
        channels = [c, *(base_channels * 2**i for i in range(len(sizes) - 1))]
        modules: list[nn.Module] = []
        for a, b in pairwise(channels):
            layer_norm = norm if modules else "none"
            modules += [
                nn.Conv2d(a, b, KERNEL_SIZE, STRIDE, PADDING, bias=layer_norm != "batch"),
                *norm_act("leaky-relu", layer_norm)(b),
            ]
        self.features = nn.Sequential(*modules)
        self.last = nn.Linear(channels[-1] * math.prod(sizes[0]), num_bridges, bias=False)
        init_normal(self)
        if norm == "spectral":
            apply_spectral_norm(self)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return self.gain * self.last(self.features(x).flatten(1)).squeeze(-1)


def doubled_sizes(height: int, width: int, min_size: int = MIN_SIZE) -> list[tuple[int, int]]:
    """Return sizes of maps from the smallest to the image, each twice the one before.

    >>> doubled_sizes(28, 28)
    [(7, 7), (14, 14), (28, 28)]

    Raises:
        ConfigError: the image is not a map with a side from ``min_size`` to ``2 min_size − 1``, doubled.
    """
    sizes = [(height, width)]
    while min(sizes[0]) >= 2 * min_size and sizes[0][0] % 2 == sizes[0][1] % 2 == 0:
        sizes.insert(0, (sizes[0][0] // 2, sizes[0][1] // 2))
    if min_size < 1 or len(sizes) == 1 or min(sizes[0]) >= 2 * min_size:
        raise ConfigError(
            "The networks of DCGAN cannot make images of this size by doubling.",
            given=f"{height} × {width} pixels, min_size = {min_size}",
            expected=f"{min_size} to {2 * min_size - 1} pixels, doubled: if 4 to 7, sides of 8, 12, 16, 28, 32, 64 …",
            fix="set data.image_size, or use the network 'deconv' and the critic 'conv', which take any size",
        )
    return sizes


def init_normal(module: nn.Module) -> None:
    """Initialize with normal weights of standard deviation INIT_STD and zero biases, in place."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, std=INIT_STD)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
