"""PixelCNN++ (Salimans, Karpathy, Chen and Kingma 2017).

    x    image, scaled to the range from −1 to 1      [B, C, H, W]
    y    k numbers for each pixel and channel         [B, k, C, H, W]; those at (r, c) depend on pixels before (r, c)

Two streams of gated residual blocks (:mod:`advae.networks.causal_conv`), on maps of the image's size, of half and of a
quarter of it. The contracting path has n blocks per scale. The expanding path has one more, except at the smallest
scale, so that each of its blocks has a skip connection from one map of the contracting path:

    scale    contracting path       expanding path
    1        start, n               n + 1, out
    1/2      downsample, n          n + 1, upsample
    1/4      downsample, n          n, upsample
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, pad

from advae.errors import ConfigError
from advae.networks.base import NETWORKS, init_xavier
from advae.networks.blocks import downsampled_sizes, image_shape
from advae.networks.causal_conv import (
    RESIDUAL_INIT_FACTOR,
    GatedBlock,
    ShiftedConv2d,
    ShiftedConvTranspose2d,
    StreamPass,
    append_ones,
    block_pair,
)
from advae.networks.incremental_sampling import IncrementalSampler


@NETWORKS.register("pixelcnn")
class PixelCNN(nn.Module):
    """An autoregressive network, whose output for a pixel depends on the pixels before it only.

    Args:
        filters: channels of every map (the paper: 160).
        num_blocks: residual blocks per scale, on the contracting path and in each stream (the paper: 5).
        num_scales: number of scales, each half of the one before (the paper: 3).
        dropout: probability of dropping a unit within a block (the paper: 0.5).
    """

    autoregressive: ClassVar[bool] = True

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        noise_dim: int = 0,
        filters: int = 64,
        num_blocks: int = 3,
        num_scales: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if math.prod(in_shape) or noise_dim:
            raise ConfigError(
                "A pixelcnn takes neither latents nor noise.",
                given=f"input of shape {tuple(in_shape)}, noise_dim {noise_dim}",
                fix="as a decoder, with model.encoder none: set model.latent_dim to 0, and train it by mle",
            )
        image_shape(out_shape, "decoder")
        if min(filters, num_blocks, num_scales) < 1:
            given = f"filters {filters}, num_blocks {num_blocks}, num_scales {num_scales}"
            raise ConfigError("A pixelcnn needs at least one filter, block and scale.", given=given)
        self.out_shape, self.image_shape = tuple(out_shape), tuple(out_shape[-3:])
        c, h, w = self.image_shape
        sizes = downsampled_sizes(h, w, num_scales - 1)

        def pairs(count: int, skip: bool) -> nn.ModuleList:
            return nn.ModuleList(block_pair(filters, skip=skip, dropout=dropout) for _ in range(count))

        self.start = nn.ModuleDict(
            {
                "down": ShiftedConv2d(c + 1, filters, (2, 3)),
                "row": ShiftedConv2d(c + 1, filters, (1, 3)),
                "down_right": ShiftedConv2d(c + 1, filters, (2, 1), down_right=True),
            }
        )
        self.contracting = nn.ModuleList(pairs(num_blocks, skip=False) for _ in sizes)
        self.downsample = nn.ModuleList(
            nn.ModuleDict(
                {
                    "down": ShiftedConv2d(filters, filters, (2, 3), stride=2),
                    "down_right": ShiftedConv2d(filters, filters, (2, 2), stride=2, down_right=True),
                }
            )
            for _ in sizes[1:]
        )
        self.upsample = nn.ModuleList(
            nn.ModuleDict(
                {
                    "down": ShiftedConvTranspose2d(filters, size, down_right=False),
                    "down_right": ShiftedConvTranspose2d(filters, size, down_right=True),
                }
            )
            for size in sizes[:-1]
        )
        counts = [num_blocks + 1] * (num_scales - 1) + [num_blocks]
        self.expanding = nn.ModuleList(pairs(count, skip=True) for count in counts)
        self.out = ShiftedConv2d(filters, math.prod(out_shape[:-2]))
        init_xavier(self)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, GatedBlock):
                    module.second.weight.mul_(RESIDUAL_INIT_FACTOR)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Map images ``[B, C, H, W]`` to ``[B, *out_shape]``."""
        if tuple(x.shape[1:]) != self.image_shape:
            raise ConfigError(
                "The input of a pixelcnn must be the image whose distribution it returns.",
                given=list(x.shape),
                expected=["B", *self.image_shape],
                fix="set model.likelihood to an autoregressive one",
            )
        sides: dict[nn.Module, Tensor] = {}
        image = append_ones(x)
        moved_down, moved_right = pad(image, (0, 0, 1, 0))[:, :, :-1], pad(image, (1, 0))[..., :-1]
        self.traverse(StreamPass("down", sides), self.start["down"](moved_down))
        h = self.start["row"](moved_down) + self.start["down_right"](moved_right)
        out = self.out(elu(self.traverse(StreamPass("down_right", sides), h)))
        return out.unflatten(1, self.out_shape[:-2])

    def traverse(self, stream: StreamPass, h: Tensor, scale: int = 0) -> Tensor:
        """Run one stream from this scale to the smallest and back: ``h [B, F, …]`` to the same shape."""
        skips = [h]
        for blocks in self.contracting[scale]:  # type: ignore[attr-defined]
            h = stream.block(blocks, h, scale)
            skips.append(h)
        if scale < len(self.downsample):
            low = stream.downsample(self.downsample[scale][stream.stream], h, scale)  # type: ignore[index]
            if low is not None:
                stream.store(scale, self.traverse(stream, low, scale + 1))
            h = stream.upsample(self.upsample[scale][stream.stream], scale)  # type: ignore[index]
        else:
            h = skips.pop()
        for blocks in self.expanding[scale]:  # type: ignore[attr-defined]
            h = stream.block(blocks, h, scale, skips.pop())
        return h

    def make_sampler(self, n: int, like: Tensor) -> IncrementalSampler:
        """Return a sampler of ``n`` images that computes only what each pixel changes."""
        return IncrementalSampler(self, n, like)
