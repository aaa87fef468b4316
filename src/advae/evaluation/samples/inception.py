"""Inception network of published Fréchet distances: `inception-2015-12-05` in TensorFlow 1.

It differs from the Inception v3 of image libraries: 1,008 outputs; average pooling that ignores the padding; max
pooling instead of average pooling in the last block; an epsilon of 0.001 in batch normalization; and a resize to
299 × 299 that takes the output pixel i from the input at ``i · in / out``, without the half-pixel shift and without
smoothing (Heusel et al. 2017 and their released graph; the names of the weights are those of its usual conversion to
PyTorch). Blocks are named as in the paper (Szegedy et al. 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
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

Pool = Literal["mean", "max", "reduce"]


class Convolution(nn.Module):
    """Convolution, batch normalization, ReLU; padded to keep the size at stride 1, unless ``pad`` is False."""

    def __init__(
        self, inputs: int, outputs: int, size: tuple[int, int] = (1, 1), stride: int = 1, pad: bool = True
    ) -> None:
        super().__init__()
        padding = (size[0] // 2, size[1] // 2) if pad else 0
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu_()


class Mixed(nn.Module):
    """Branches of convolutions in parallel, and one that pools.

    Args:
        inputs: channels.
        branches: convolutions of each branch, in words: "NAME OUTPUTS", then the size if it is not 1x1, and "/2" for
            stride 2 without padding. Several joined by "|" are applied in parallel.
        pool: "mean" or "max" of 3 × 3, then the convolution ``branch_pool``; "reduce" is a maximum with stride 2 alone.
        pool_outputs: channels of ``branch_pool``.
    """

    def __init__(
        self, inputs: int, branches: Sequence[Sequence[str]], pool: Pool, pool_outputs: int = 192
    ) -> None:
        super().__init__()
        self.pool = pool
        self.branches: list[list[list[str]]] = []  # names of the convolutions, for each stage of each branch
        for branch in branches:
            channels, stages = inputs, []
            for stage in branch:
                specs = [spec.split() for spec in stage.split("|")]
                for name, outputs, *geometry in specs:
                    height, width = map(int, geometry[0].split("x")) if geometry else (1, 1)
                    stride, pad = (2, False) if "/2" in geometry else (1, True)
                    convolution = Convolution(channels, int(outputs), (height, width), stride, pad)
                    self.add_module(f"branch{name}", convolution)
                stages.append([f"branch{name}" for name, *_ in specs])
                channels = sum(int(outputs) for _, outputs, *_ in specs)
            self.branches.append(stages)
        if pool != "reduce":
            self.branch_pool = Convolution(inputs, pool_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(
            [*(self._apply_branch(branch, x) for branch in self.branches), self._apply_pool(x)], 1
        )

    def _apply_branch(self, branch: list[list[str]], x: Tensor) -> Tensor:
        for stage in branch:
            x = torch.cat([self.get_submodule(name)(x) for name in stage], 1)
        return x

    def _apply_pool(self, x: Tensor) -> Tensor:
        if self.pool == "reduce":
            return nn.functional.max_pool2d(x, 3, 2)
        if self.pool == "max":
            return self.branch_pool(nn.functional.max_pool2d(x, 3, 1, 1))
        return self.branch_pool(nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False))


def inception_a(inputs: int, pool_outputs: int) -> Mixed:
    """Return a block for 35 × 35: 1 × 1, 5 × 5, and 3 × 3 twice."""
    double = ("3x3dbl_1 64", "3x3dbl_2 96 3x3", "3x3dbl_3 96 3x3")
    return Mixed(inputs, (("1x1 64",), ("5x5_1 48", "5x5_2 64 5x5"), double), "mean", pool_outputs)


def reduction_a(inputs: int) -> Mixed:
    """Return the reduction from 35 × 35 to 17 × 17."""
    double = ("3x3dbl_1 64", "3x3dbl_2 96 3x3", "3x3dbl_3 96 3x3 /2")
    return Mixed(inputs, (("3x3 384 3x3 /2",), double), "reduce")


def inception_b(inputs: int, c: int) -> Mixed:
    """Return a block for 17 × 17: 1 × 1, and 7 × 7 factored into 1 × 7 and 7 × 1, once and twice."""
    single = (f"7x7_1 {c}", f"7x7_2 {c} 1x7", "7x7_3 192 7x1")
    double = (
        f"7x7dbl_1 {c}",
        *(f"7x7dbl_{i} {c} {size}" for i, size in ((2, "7x1"), (3, "1x7"), (4, "7x1"))),
    )
    return Mixed(inputs, (("1x1 192",), single, (*double, "7x7dbl_5 192 1x7")), "mean")


def reduction_b(inputs: int) -> Mixed:
    """Return the reduction from 17 × 17 to 8 × 8."""
    factored = ("7x7x3_1 192", "7x7x3_2 192 1x7", "7x7x3_3 192 7x1", "7x7x3_4 192 3x3 /2")
    return Mixed(inputs, (("3x3_1 192", "3x3_2 320 3x3 /2"), factored), "reduce")


def inception_c(inputs: int, pool: Pool) -> Mixed:
    """Return a block for 8 × 8, whose branches end in parallel convolutions."""
    single = ("3x3_1 384", "3x3_2a 384 1x3|3x3_2b 384 3x1")
    double = ("3x3dbl_1 448", "3x3dbl_2 384 3x3", "3x3dbl_3a 384 1x3|3x3dbl_3b 384 3x1")
    return Mixed(inputs, (("1x1 320",), single, double), pool)


class Inception(nn.Module):
    """Maps RGB images in gray levels to features ``[B, 2048]`` and logits ``[B, 1008]``."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, (3, 3), 2, pad=False)
        self.Conv2d_2a_3x3 = Convolution(32, 32, (3, 3), pad=False)
        self.Conv2d_2b_3x3 = Convolution(32, 64, (3, 3))
        self.Conv2d_3b_1x1 = Convolution(64, 80)
        self.Conv2d_4a_3x3 = Convolution(80, 192, (3, 3), pad=False)
        self.Mixed_5b, self.Mixed_5c = inception_a(192, 32), inception_a(256, 64)
        self.Mixed_5d = inception_a(288, 64)
        self.Mixed_6a = reduction_a(288)
        self.Mixed_6b, self.Mixed_6c = inception_b(768, 128), inception_b(768, 160)
        self.Mixed_6d, self.Mixed_6e = inception_b(768, 160), inception_b(768, 192)
        self.Mixed_7a = reduction_b(768)
        self.Mixed_7b = inception_c(1280, "mean")
        self.Mixed_7c = inception_c(2048, "max")  # a maximum, as released
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
