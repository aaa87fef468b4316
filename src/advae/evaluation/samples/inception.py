"""Inception network of published Fréchet distances: `inception-2015-12-05` in TensorFlow 1.

It differs from the Inception v3 of image libraries: 1,008 outputs; average pooling that ignores the padding; max
pooling instead of average pooling in the last block; an epsilon of 0.001 in batch normalization; and a resize to
299 × 299 that takes the output pixel i from the input at ``i · in / out``, without the half-pixel shift and without
smoothing (Heusel et al. 2017 and their released graph; the names of the weights are those of its usual conversion to
PyTorch). Blocks are named as in the paper (Szegedy et al. 2016).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from advae.errors import CheckpointError
from advae.serialization import check_no_pickle

INPUT_SIZE = 299  # pixels
NUM_FEATURES, NUM_CLASSES = 2048, 1008
BATCH_SIZE = 32  # images: 1 GB of feature maps
MAX_MESSAGE_LENGTH = 300  # characters of PyTorch's list of mismatched weights

Size = int | tuple[int, int]
Branch = tuple[str | tuple[str, ...], ...]  # convolutions in sequence; a nested tuple is applied in parallel
Pool = Literal["mean", "max", "reduce"]


class Convolution(nn.Module):
    """Convolution, batch normalization, ReLU; padded to keep the size unless ``pad`` is False."""

    def __init__(self, inputs: int, outputs: int, size: Size = 1, stride: int = 1, pad: bool = True) -> None:
        super().__init__()
        height, width = (size, size) if isinstance(size, int) else size
        padding = (height // 2, width // 2) if pad else 0
        self.conv = nn.Conv2d(inputs, outputs, (height, width), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu_()


class Mixed(nn.Module):
    """Branches of convolutions in parallel, and one that pools.

    Args:
        convolutions: by the names of their weights.
        branches: names of the convolutions of each branch.
        pool: "mean" or "max" of 3 × 3, then the convolution ``branch_pool``; "reduce" is a maximum with stride 2 alone.
    """

    def __init__(
        self, convolutions: dict[str, Convolution], branches: tuple[Branch, ...], pool: Pool
    ) -> None:
        super().__init__()
        for name, convolution in convolutions.items():
            self.add_module(name, convolution)
        self.branches, self.pool = branches, pool

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(
            [*(self._apply_branch(branch, x) for branch in self.branches), self._apply_pool(x)], 1
        )

    def _apply_branch(self, branch: Branch, x: Tensor) -> Tensor:
        for stage in branch:
            parallel = (stage,) if isinstance(stage, str) else stage
            x = torch.cat([self.get_submodule(name)(x) for name in parallel], 1)
        return x

    def _apply_pool(self, x: Tensor) -> Tensor:
        if self.pool == "reduce":
            return nn.functional.max_pool2d(x, 3, 2)
        if self.pool == "max":
            return self.get_submodule("branch_pool")(nn.functional.max_pool2d(x, 3, 1, 1))
        mean = nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return self.get_submodule("branch_pool")(mean)


def inception_a(inputs: int, pool_outputs: int) -> Mixed:
    """Return a block for 35 × 35: 1 × 1, 5 × 5, and 3 × 3 twice."""
    convolutions = {
        "branch1x1": Convolution(inputs, 64),
        "branch5x5_1": Convolution(inputs, 48),
        "branch5x5_2": Convolution(48, 64, 5),
        "branch3x3dbl_1": Convolution(inputs, 64),
        "branch3x3dbl_2": Convolution(64, 96, 3),
        "branch3x3dbl_3": Convolution(96, 96, 3),
        "branch_pool": Convolution(inputs, pool_outputs),
    }
    branches = (
        ("branch1x1",),
        ("branch5x5_1", "branch5x5_2"),
        ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
    )
    return Mixed(convolutions, branches, "mean")


def reduction_a(inputs: int) -> Mixed:
    """Return the reduction from 35 × 35 to 17 × 17."""
    convolutions = {
        "branch3x3": Convolution(inputs, 384, 3, 2, pad=False),
        "branch3x3dbl_1": Convolution(inputs, 64),
        "branch3x3dbl_2": Convolution(64, 96, 3),
        "branch3x3dbl_3": Convolution(96, 96, 3, 2, pad=False),
    }
    branches = (("branch3x3",), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"))
    return Mixed(convolutions, branches, "reduce")


def inception_b(inputs: int, c: int) -> Mixed:
    """Return a block for 17 × 17: 1 × 1, and 7 × 7 factored into 1 × 7 and 7 × 1, once and twice."""
    row, column = (1, 7), (7, 1)
    convolutions = {
        "branch1x1": Convolution(inputs, 192),
        "branch7x7_1": Convolution(inputs, c),
        "branch7x7_2": Convolution(c, c, row),
        "branch7x7_3": Convolution(c, 192, column),
        "branch7x7dbl_1": Convolution(inputs, c),
        "branch7x7dbl_2": Convolution(c, c, column),
        "branch7x7dbl_3": Convolution(c, c, row),
        "branch7x7dbl_4": Convolution(c, c, column),
        "branch7x7dbl_5": Convolution(c, 192, row),
        "branch_pool": Convolution(inputs, 192),
    }
    single = tuple(f"branch7x7_{i}" for i in (1, 2, 3))
    double = tuple(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5))
    return Mixed(convolutions, (("branch1x1",), single, double), "mean")


def reduction_b(inputs: int) -> Mixed:
    """Return the reduction from 17 × 17 to 8 × 8."""
    convolutions = {
        "branch3x3_1": Convolution(inputs, 192),
        "branch3x3_2": Convolution(192, 320, 3, 2, pad=False),
        "branch7x7x3_1": Convolution(inputs, 192),
        "branch7x7x3_2": Convolution(192, 192, (1, 7)),
        "branch7x7x3_3": Convolution(192, 192, (7, 1)),
        "branch7x7x3_4": Convolution(192, 192, 3, 2, pad=False),
    }
    branches = (("branch3x3_1", "branch3x3_2"), tuple(f"branch7x7x3_{i}" for i in (1, 2, 3, 4)))
    return Mixed(convolutions, branches, "reduce")


def inception_c(inputs: int, pool: Pool) -> Mixed:
    """Return a block for 8 × 8, whose branches end in parallel convolutions."""
    convolutions = {
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
    branches: tuple[Branch, ...] = (
        ("branch1x1",),
        ("branch3x3_1", ("branch3x3_2a", "branch3x3_2b")),
        ("branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")),
    )
    return Mixed(convolutions, branches, pool)


class Inception(nn.Module):
    """Maps RGB images in gray levels to features ``[B, 2048]`` and logits ``[B, 1008]``."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, 2, pad=False)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3, pad=False)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3)
        self.Conv2d_3b_1x1 = Convolution(64, 80)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3, pad=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = (
            inception_a(192, 32),
            inception_a(256, 64),
            inception_a(288, 64),
        )
        self.Mixed_6a = reduction_a(288)
        self.Mixed_6b, self.Mixed_6c = inception_b(768, 128), inception_b(768, 160)
        self.Mixed_6d, self.Mixed_6e = inception_b(768, 160), inception_b(768, 192)
        self.Mixed_7a = reduction_b(768)
        self.Mixed_7b, self.Mixed_7c = (
            inception_c(1280, "mean"),
            inception_c(2048, "max"),
        )  # a maximum, as released
        self.fc = nn.Linear(NUM_FEATURES, NUM_CLASSES)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``images [B, 3, H, W]`` of any size. The logits have no bias, as in published scores."""
        x = (resize(images, INPUT_SIZE) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(nn.functional.max_pool2d(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(nn.functional.max_pool2d(x, 3, 2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        features = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean((2, 3))
        return features, features @ self.fc.weight.T


def resize(images: Tensor, side: int) -> Tensor:
    """Resize ``[B, C, H, W]`` to ``[B, C, side, side]``, bilinear as in TensorFlow 1: width, then height."""
    return _resize_axis(_resize_axis(images, 3, side), 2, side)


def _resize_axis(x: Tensor, axis: int, side: int) -> Tensor:
    size = x.shape[axis]
    position = torch.arange(side, device=x.device, dtype=torch.float32) * (size / side)
    low = position.long()
    high = (low + 1).clamp_max(size - 1)
    weight = (position - low).to(x.dtype).reshape([-1 if i == axis else 1 for i in range(4)])
    return torch.lerp(x.index_select(axis, low), x.index_select(axis, high), weight)


def read_inception(path: Path) -> Inception:
    """Return the network with the weights of a safetensors file, in evaluation mode.

    Raises:
        CheckpointError: the file is missing, pickled, corrupted, or has the weights of another network.
    """
    check_no_pickle(path)
    try:
        network = Inception()
        network.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise CheckpointError("The file of Inception weights does not exist.", given=path) from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError("The Inception weights cannot be read.", given=f"{path}: {error}") from None
    except RuntimeError as error:
        raise CheckpointError(
            "The weights are not those of the Inception network of published Fréchet distances.",
            given=f"{path}: {str(error)[:MAX_MESSAGE_LENGTH]}",
            expected=f"a state dict of pt_inception-2015-12-05, with {NUM_CLASSES} outputs",
            fix="other Inception v3 weights give other values; see docs/reference/metrics.md",
        ) from None
    return network.eval().requires_grad_(False)
