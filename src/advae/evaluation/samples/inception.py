"""The Inception network of the published Fréchet distances: `inception-2015-12-05`, as TensorFlow 1 ran it.

It differs from the Inception v3 of image libraries: 1,008 outputs; averages that leave the padding out; a maximum where
the last block should have an average; an epsilon of 0.001 in batch normalisation; and a resize to 299 × 299 that takes
the output pixel i from the input at ``i · in / out``, without the half-pixel shift, and without smoothing
(Heusel et al. 2017 and their released graph; the names of the weights are those of its usual conversion to PyTorch).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from advae.errors import CheckpointError
from advae.model import refuse_pickles

SIDE, FEATURES, CLASSES = 299, 2048, 1008
AT_ONCE = 32  # images: 1 GB of maps

Size = int | tuple[int, int]
Path_ = tuple[str | tuple[str, ...], ...]  # convolutions after each other; in brackets, beside each other
Pool = Literal["mean", "max", "shrink"]


class Convolution(nn.Module):
    """Convolution, batch normalisation, ReLU; padded to keep the size unless told otherwise."""

    def __init__(self, inputs: int, outputs: int, size: Size = 1, stride: int = 1, pad: bool = True) -> None:
        super().__init__()
        height, width = (size, size) if isinstance(size, int) else size
        padding = (height // 2, width // 2) if pad else 0
        self.conv = nn.Conv2d(inputs, outputs, (height, width), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu_()


class Mixed(nn.Module):
    """Paths of convolutions beside each other, and one that pools.

    Args:
        convolutions: by the names that their weights have.
        paths: which follow which.
        pool: "mean" or "max" of 3 × 3, then the convolution ``branch_pool``; "shrink" is a maximum of stride 2 alone.
    """

    def __init__(self, convolutions: dict[str, Convolution], paths: tuple[Path_, ...], pool: Pool) -> None:
        super().__init__()
        for name, convolution in convolutions.items():
            self.add_module(name, convolution)
        self.paths, self.pool = paths, pool

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([*(self._along(path, x) for path in self.paths), self._pooled(x)], 1)

    def _along(self, path: Path_, x: Tensor) -> Tensor:
        for step in path:
            beside = (step,) if isinstance(step, str) else step
            x = torch.cat([self.get_submodule(name)(x) for name in beside], 1)
        return x

    def _pooled(self, x: Tensor) -> Tensor:
        if self.pool == "shrink":
            return nn.functional.max_pool2d(x, 3, 2)
        if self.pool == "max":
            return self.get_submodule("branch_pool")(nn.functional.max_pool2d(x, 3, 1, 1))
        mean = nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return self.get_submodule("branch_pool")(mean)


def block_35(inputs: int, pooled: int) -> Mixed:
    """On maps of 35 × 35: 1 × 1, 5 × 5, twice 3 × 3."""
    parts = {
        "branch1x1": Convolution(inputs, 64),
        "branch5x5_1": Convolution(inputs, 48),
        "branch5x5_2": Convolution(48, 64, 5),
        "branch3x3dbl_1": Convolution(inputs, 64),
        "branch3x3dbl_2": Convolution(64, 96, 3),
        "branch3x3dbl_3": Convolution(96, 96, 3),
        "branch_pool": Convolution(inputs, pooled),
    }
    paths = (
        ("branch1x1",),
        ("branch5x5_1", "branch5x5_2"),
        ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
    )
    return Mixed(parts, paths, "mean")


def shrink_35(inputs: int) -> Mixed:
    """From 35 × 35 to 17 × 17."""
    parts = {
        "branch3x3": Convolution(inputs, 384, 3, 2, pad=False),
        "branch3x3dbl_1": Convolution(inputs, 64),
        "branch3x3dbl_2": Convolution(64, 96, 3),
        "branch3x3dbl_3": Convolution(96, 96, 3, 2, pad=False),
    }
    paths = (("branch3x3",), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"))
    return Mixed(parts, paths, "shrink")


def block_17(inputs: int, c: int) -> Mixed:
    """On maps of 17 × 17: 1 × 1, and 7 × 7 as 1 × 7 and 7 × 1, once and twice."""
    wide, tall = (1, 7), (7, 1)
    parts = {
        "branch1x1": Convolution(inputs, 192),
        "branch7x7_1": Convolution(inputs, c),
        "branch7x7_2": Convolution(c, c, wide),
        "branch7x7_3": Convolution(c, 192, tall),
        "branch7x7dbl_1": Convolution(inputs, c),
        "branch7x7dbl_2": Convolution(c, c, tall),
        "branch7x7dbl_3": Convolution(c, c, wide),
        "branch7x7dbl_4": Convolution(c, c, tall),
        "branch7x7dbl_5": Convolution(c, 192, wide),
        "branch_pool": Convolution(inputs, 192),
    }
    once = tuple(f"branch7x7_{i}" for i in (1, 2, 3))
    twice = tuple(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5))
    return Mixed(parts, (("branch1x1",), once, twice), "mean")


def shrink_17(inputs: int) -> Mixed:
    """From 17 × 17 to 8 × 8."""
    parts = {
        "branch3x3_1": Convolution(inputs, 192),
        "branch3x3_2": Convolution(192, 320, 3, 2, pad=False),
        "branch7x7x3_1": Convolution(inputs, 192),
        "branch7x7x3_2": Convolution(192, 192, (1, 7)),
        "branch7x7x3_3": Convolution(192, 192, (7, 1)),
        "branch7x7x3_4": Convolution(192, 192, 3, 2, pad=False),
    }
    paths = (("branch3x3_1", "branch3x3_2"), tuple(f"branch7x7x3_{i}" for i in (1, 2, 3, 4)))
    return Mixed(parts, paths, "shrink")


def block_8(inputs: int, pool: Pool) -> Mixed:
    """On maps of 8 × 8: the last convolutions stand beside each other."""
    parts = {
        "branch1x1": Convolution(inputs, 320),
        "branch3x3_1": Convolution(inputs, 384),
        "branch3x3_2a": Convolution(384, 384, (1, 3)),
        "branch3x3_2b": Convolution(384, 384, (3, 1)),
        "branch3x3dbl_1": Convolution(inputs, 448),
        "branch3x3dbl_2": Convolution(448, 384, 3),
        "branch3x3dbl_3a": Convolution(384, 384, (1, 3)),
        "branch3x3dbl_3b": Convolution(384, 384, (3, 1)),
        "branch_pool": Convolution(inputs, 192),
    }
    paths: tuple[Path_, ...] = (
        ("branch1x1",),
        ("branch3x3_1", ("branch3x3_2a", "branch3x3_2b")),
        ("branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")),
    )
    return Mixed(parts, paths, pool)


class Inception(nn.Module):
    """RGB images on 0 … 255 to features ``[B, 2048]`` and logits ``[B, 1008]``."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, 2, pad=False)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3, pad=False)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3)
        self.Conv2d_3b_1x1 = Convolution(64, 80)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3, pad=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = block_35(192, 32), block_35(256, 64), block_35(288, 64)
        self.Mixed_6a = shrink_35(288)
        self.Mixed_6b, self.Mixed_6c = block_17(768, 128), block_17(768, 160)
        self.Mixed_6d, self.Mixed_6e = block_17(768, 160), block_17(768, 192)
        self.Mixed_7a = shrink_17(768)
        self.Mixed_7b, self.Mixed_7c = (
            block_8(1280, "mean"),
            block_8(2048, "max"),
        )  # sic: the graph has a maximum
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """``images [B, 3, H, W]`` of any size; the logits leave the bias out, as published scores do."""
        x = (resized(images, SIDE) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(nn.functional.max_pool2d(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(nn.functional.max_pool2d(x, 3, 2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        features = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean((2, 3))
        return features, features @ self.fc.weight.T


def resized(images: Tensor, side: int) -> Tensor:
    """``[B, C, H, W]`` to ``[B, C, side, side]``, bilinear as TensorFlow 1 did it: rows of pixels first."""
    return _stretched(_stretched(images, 3, side), 2, side)


def _stretched(x: Tensor, axis: int, side: int) -> Tensor:
    size = x.shape[axis]
    place = torch.arange(side, device=x.device, dtype=torch.float32) * (size / side)
    low = place.long()
    high = (low + 1).clamp_max(size - 1)
    share = (place - low).to(x.dtype).reshape([-1 if i == axis else 1 for i in range(4)])
    return torch.lerp(x.index_select(axis, low), x.index_select(axis, high), share)


def read_inception(path: Path) -> Inception:
    """The network with the weights of a safetensors file, in evaluation mode.

    Raises:
        CheckpointError: the file is missing, pickled, damaged, or holds another network's weights.
    """
    refuse_pickles(path)
    try:
        network = Inception()
        network.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise CheckpointError("there is no such file of weights", given=path) from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError("the Inception weights cannot be read", given=f"{path}: {error}") from None
    except RuntimeError as error:
        raise CheckpointError(
            "these are not the weights of the Inception network of published Fréchet distances",
            given=f"{path}: {str(error)[:300]}",
            expected=f"a state dict of pt_inception-2015-12-05, with {CLASSES} outputs",
            remedy="an Inception v3 trained by somebody else gives other figures; see docs/metrics.md",
        ) from None
    return network.eval().requires_grad_(False)
