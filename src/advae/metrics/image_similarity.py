"""How alike two images are: mean squared error, peak signal-to-noise ratio, structural similarity.

    MSE     mean over pixels of (a − b)²
    PSNR    20 log10 255 − 10 log10 MSE                                                              in dB
    SSIM    mean over windows of (2 μ_a μ_b + C₁)(2 σ_ab + C₂) / ((μ_a² + μ_b² + C₁)(σ_a² + σ_b² + C₂))

with C₁ = (K₁ 255)², C₂ = (K₂ 255)² and Gaussian windows that lie wholly within the image (Wang, Bovik, Sheikh and
Simoncelli 2004). All in gray levels and in float64: a variance as a difference of squares loses digits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d

PEAK = 255.0  # gray levels
BEST = (
    100.0  # dB: an error of 0.0026 gray levels. An exact copy counts as this, for a mean that stays finite.
)
WIDTH, SIGMA = 11, 1.5  # of the window; Wang et al., section III.C
K1, K2 = 0.01, 0.03  # ibid., section III.B


def squared_error(a: Tensor, b: Tensor) -> Tensor:
    """Mean over the numbers of each example, ``a, b [B, …]``: ``[B]``."""
    return (a.double() - b.double()).square().flatten(1).mean(1)


def psnr(mse: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of images with this mean squared error ``[B]``; ``BEST`` at most.

    >>> psnr(torch.tensor([255.0**2, 650.25, 0.0])).tolist()
    [0.0, 20.0, 100.0]
    """
    return (20 * math.log10(PEAK) - 10 * torch.log10(mse)).clamp_max(BEST)


def window_width(shape: Sequence[int]) -> int:
    """The width of the window for images ``[C, H, W]``: 11, or the largest odd one that fits.

    >>> window_width((3, 32, 32)), window_width((1, 8, 8))
    (11, 7)
    """
    shortest = min(shape[-2:])
    return min(WIDTH, shortest - 1 + shortest % 2)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of images ``a, b [B, C, H, W]``, of each channel and then averaged: ``[B]``."""
    a, b = a.double(), b.double()
    maps = torch.stack([a, b, a * a, b * b, a * b])
    mean_a, mean_b, aa, bb, ab = _blurred(maps.flatten(0, 2)).unflatten(0, maps.shape[:3])
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    brightness = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    cross, variances = ab - mean_a * mean_b, aa - mean_a**2 + bb - mean_b**2
    return (brightness * (2 * cross + c2) / (variances + c2)).flatten(1).mean(1)


def _blurred(images: Tensor) -> Tensor:
    """Weighted means ``[B, H − w + 1, W − w + 1]`` over the Gaussian windows of ``[B, H, W]``."""
    width = window_width(images.shape)
    place = torch.arange(width, dtype=images.dtype, device=images.device) - width // 2
    weights = torch.softmax(-0.5 * (place / SIGMA) ** 2, 0)
    rows = conv2d(images[:, None], weights.view(1, 1, -1, 1))
    return conv2d(rows, weights.view(1, 1, 1, -1))[:, 0]
