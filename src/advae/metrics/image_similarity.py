"""Mean squared error, peak signal-to-noise ratio and structural similarity of images.

    MSE     mean over pixels of (a − b)²
    PSNR    20 log10 255 − 10 log10 MSE                                                              in dB
    SSIM    mean over windows of (2 μ_a μ_b + C₁)(2 σ_ab + C₂) / ((μ_a² + μ_b² + C₁)(σ_a² + σ_b² + C₂))

with C₁ = (K₁ 255)², C₂ = (K₂ 255)² and Gaussian windows entirely within the image (Wang, Bovik, Sheikh and Simoncelli
2004). All in gray levels and in float64: a variance as a difference of squares loses digits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d

PEAK = 255.0  # gray levels
MAX_PSNR = (
    100.0  # dB: an error of 0.0026 gray levels. Exact copies have this value, so that means are finite.
)
WINDOW_WIDTH, WINDOW_SIGMA = 11, 1.5  # pixels; Wang et al., section III.C
K1, K2 = 0.01, 0.03  # ibid., section III.B


def mean_squared_error(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean over the values of each example, of ``a, b [B, …]``: ``[B]``."""
    return (a.double() - b.double()).square().flatten(1).mean(1)


def psnr(mse: Tensor) -> Tensor:
    """Return the PSNR in dB of images with mean squared error ``mse [B]``, at most MAX_PSNR.

    >>> psnr(torch.tensor([255.0**2, 650.25, 0.0])).tolist()
    [0.0, 20.0, 100.0]
    """
    return (20 * math.log10(PEAK) - 10 * torch.log10(mse)).clamp_max(MAX_PSNR)


def window_width(shape: Sequence[int]) -> int:
    """Return the window's width for images ``[C, H, W]``: 11, or the largest odd number that fits.

    >>> window_width((3, 32, 32)), window_width((1, 8, 8))
    (11, 7)
    """
    shortest = min(shape[-2:])
    return min(WINDOW_WIDTH, shortest - 1 + shortest % 2)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the structural similarity of images ``a, b [B, C, H, W]``, averaged over channels: ``[B]``."""
    a, b = a.double(), b.double()
    maps = torch.stack([a, b, a * a, b * b, a * b])
    mean_a, mean_b, aa, bb, ab = _gaussian_blur(maps.flatten(0, 2)).unflatten(0, maps.shape[:3])
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    covariance, variances = ab - mean_a * mean_b, aa - mean_a**2 + bb - mean_b**2
    return (luminance * (2 * covariance + c2) / (variances + c2)).flatten(1).mean(1)


def _gaussian_blur(images: Tensor) -> Tensor:
    """Return weighted means ``[B, H − w + 1, W − w + 1]`` over the Gaussian windows of ``[B, H, W]``."""
    width = window_width(images.shape)
    offset = torch.arange(width, dtype=images.dtype, device=images.device) - width // 2
    weights = torch.softmax(-0.5 * (offset / WINDOW_SIGMA) ** 2, 0)
    rows = conv2d(images[:, None], weights.view(1, 1, -1, 1))
    return conv2d(rows, weights.view(1, 1, 1, -1))[:, 0]
