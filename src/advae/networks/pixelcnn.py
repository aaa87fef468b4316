"""PixelCNN++ (Salimans, Karpathy, Chen and Kingma 2017): each pixel's distribution, given those before it.

    x    image, as it is shown to the network         [B, C, H, W]
    y    k numbers for each pixel and channel         [B, k, C, H, W]; those at (r, c) depend on pixels before (r, c)

Two streams of gated residual blocks (shifted.py), on maps of the image's size, of half and of a quarter of it. The way
down has n blocks a scale; the way up has one more but at the bottom, so that each takes one map from the way down:

    scale    way down       way up
    1        start, n       n + 1, out
    1/2      step, n        n + 1, step
    1/4      step, n        n, step
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import elu, pad

from advae.errors import ConfigError
from advae.networks.base import NETWORKS, xavier
from advae.networks.blocks import halvings
from advae.networks.causal_conv import RESIDUAL_START, Gated, Grown, Run, Shifted, framed, pair
from advae.networks.incremental_sampling import Generation


@NETWORKS.register("pixelcnn")
class PixelCNN(nn.Module):
    """A network in which no pixel sees itself or a later one; for the autoregressive distributions.

    Args:
        in_shape: ``(0,)``: it takes no code. It is called with images of the shape that it gives numbers for.
        out_shape: ``(k, C, H, W)`` or ``(C, H, W)``; any height and width.
        noise: must be 0.
        filters: channels of every map (the paper: 160).
        blocks: residual blocks a scale, on the way down and in each stream (the paper: 5).
        scales: sizes of maps, each half of the one before (the paper: 3).
        dropout: probability of dropping a unit within a block (the paper: 0.5).

    Raises:
        ConfigError: a code, noise, or data that are not images.
    """

    autoregressive: ClassVar[bool] = True

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        noise: int = 0,
        filters: int = 64,
        blocks: int = 3,
        scales: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check(in_shape, out_shape, noise)
        if min(filters, blocks, scales) < 1:
            given = f"filters {filters}, blocks {blocks}, scales {scales}"
            raise ConfigError("a pixelcnn needs at least one filter, block and scale", given=given)
        self.out_shape, self.image_shape = tuple(out_shape), tuple(out_shape[-3:])
        c, h, w = self.image_shape
        sizes = halvings(h, w, scales - 1)
        self.start = nn.ModuleDict(
            {
                "above": Shifted(c + 1, filters, (2, 3)),
                "row": Shifted(c + 1, filters, (1, 3)),
                "left": Shifted(c + 1, filters, (2, 1), left=True),
            }
        )
        self.down = nn.ModuleList(
            nn.ModuleList(pair(filters, skip=False, dropout=dropout) for _ in range(blocks)) for _ in sizes
        )
        self.shrink = nn.ModuleList(
            nn.ModuleDict(
                {
                    "above": Shifted(filters, filters, (2, 3), stride=2),
                    "left": Shifted(filters, filters, (2, 2), stride=2, left=True),
                }
            )
            for _ in sizes[1:]
        )
        self.grow = nn.ModuleList(
            nn.ModuleDict({name: Grown(filters, size, left=name == "left") for name in ("above", "left")})
            for size in sizes[:-1]
        )
        counts = [blocks + 1] * (scales - 1) + [blocks]
        self.up = nn.ModuleList(
            nn.ModuleList(pair(filters, skip=True, dropout=dropout) for _ in range(count)) for count in counts
        )
        self.out = Shifted(filters, math.prod(out_shape[:-2]))
        xavier(self)
        start_small(self)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """``[B, C, H, W]`` to ``[B, *out_shape]``.

        Raises:
            ConfigError: it was called with something other than such images: its likelihood is for other networks.
        """
        if tuple(x.shape[1:]) != self.image_shape:
            raise ConfigError(
                "a pixelcnn reads the image that it is the distribution of",
                given=list(x.shape),
                expected=["B", *self.image_shape],
                remedy="set model.likelihood to an autoregressive one",
            )
        sides: dict[nn.Module, Tensor] = {}
        image = framed(x)
        before, beside = pad(image, (0, 0, 1, 0))[:, :, :-1], pad(image, (1, 0))[..., :-1]
        self.walk(Run("above", sides), self.start["above"](before))
        h = self.start["row"](before) + self.start["left"](beside)
        return self.out(elu(self.walk(Run("left", sides), h))).unflatten(1, self.out_shape[:-2])

    def walk(self, run: Run, h: Tensor, scale: int = 0) -> Tensor:
        """Down from this scale and up again, through one stream: ``h [B, F, …]`` to the same shape."""
        skips = [h]
        for blocks in self.down[scale]:  # type: ignore[attr-defined]
            h = run.block(blocks, h, scale)
            skips.append(h)
        if scale < len(self.shrink):
            low = run.shrink(self.shrink[scale][run.stream], h, scale)  # type: ignore[index]
            if low is not None:
                run.keep(scale, self.walk(run, low, scale + 1))
            h = run.grow(self.grow[scale][run.stream], scale)  # type: ignore[index]
        else:
            h = skips.pop()
        for blocks in self.up[scale]:  # type: ignore[attr-defined]
            h = run.block(blocks, h, scale, skips.pop())
        return h

    def generation(self, n: int, like: Tensor) -> Generation:
        """``n`` images to be generated pixel by pixel, each of which computes only what it changes."""
        return Generation(self, n, like)


def start_small(module: nn.Module) -> None:
    """Scale down what residual blocks add, in place."""
    for block in module.modules():
        if isinstance(block, Gated):
            block.second.weight.data.mul_(RESIDUAL_START)


def check(in_shape: Sequence[int], out_shape: Sequence[int], noise: int) -> None:
    """Refuse codes, noise and vectors.

    Raises:
        ConfigError: there are some.
    """
    if math.prod(in_shape) or noise:
        raise ConfigError(
            "a pixelcnn is a model of observations alone: it takes neither code nor noise",
            given=f"input of shape {tuple(in_shape)}, {noise} noise numbers",
            remedy="as a decoder, with model.encoder none: set model.latent to 0, and train it by mle",
        )
    if len(out_shape) < 3:
        raise ConfigError(
            "a pixelcnn is a model of images",
            given=f"data of shape {tuple(out_shape[1:])}",
            expected="[C, H, W]",
            remedy="choose another decoder ('mlp')",
        )
