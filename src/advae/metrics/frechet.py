"""Fréchet distance, kernel distance and inception score.

    x       features of reference images                   [n, D]
    y       features of generated images                   [m, D]
    w       1 where a generated image counts, else 0       [R, m]

    FID     ‖μ_x − μ_y‖² + tr(Σ_x + Σ_y − 2 (Σ_x Σ_y)^½)                       (Heusel et al. 2017)
    KID     E k(x, x') + E k(y, y') − 2 E k(x, y),  k(a, b) = (aᵀb / D + 1)³   (Bińkowski et al. 2018)
    IS      exp E_y KL(p(c|y) ‖ p(c)),  p(c) = E_y p(c|y)                      (Salimans et al. 2016)

All in float64. The bootstrap resamples generated images; the reference is fixed, as it is for all models that are
compared.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from advae.metrics.bootstrap import BootstrapEstimate, with_full_sample

KERNEL_CHUNK_SIZE = 512  # rows of a kernel matrix at a time: 40 MB with 10,000 columns
NUM_SCORE_PARTS = 10  # the published inception score is a mean over 10 parts of 5,000 images
MIN_IMAGES_FOR_PARTS = 5000


class Moments(NamedTuple):
    """Mean ``[D]`` and covariance ``[D, D]``."""

    mean: Tensor
    cov: Tensor


def moments(features: Tensor, weights: Tensor | None = None) -> Moments:
    """Return mean and covariance (divided by n − 1) of ``features [n, D]`` with ``weights [n]``."""
    x = features.double()
    w = torch.ones(len(x), dtype=torch.float64) if weights is None else weights.double()
    mean = w @ x / w.sum()
    centered = x - mean
    return Moments(mean, centered.T @ (w.unsqueeze(1) * centered) / (w.sum() - 1))


def matrix_sqrt(cov: Tensor) -> Tensor:
    """Return the symmetric root of a positive semidefinite matrix; eigenvalues below 0 are rounding errors."""
    values, vectors = torch.linalg.eigh(cov)
    return vectors * values.clamp_min(0).sqrt() @ vectors.T


def normal_frechet_distance(a: Moments, b: Moments, sqrt_cov_a: Tensor | None = None) -> float:
    """Return the squared Wasserstein-2 distance of two normals (Dowson and Landau 1982).

    ``Σ_a Σ_b`` has the eigenvalues of the symmetric ``Σ_a^½ Σ_b Σ_a^½``, so that no root of an asymmetric matrix is
    needed, and covariances may be singular.

    Args:
        a, b: moments of the normals.
        sqrt_cov_a: ``Σ_a^½``, if known.
    """
    sqrt_cov = matrix_sqrt(a.cov) if sqrt_cov_a is None else sqrt_cov_a
    inner = sqrt_cov @ b.cov @ sqrt_cov
    trace_of_sqrt = torch.linalg.eigvalsh((inner + inner.T) / 2).clamp_min(0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace() - 2 * trace_of_sqrt
    return max(0.0, float(distance))


def frechet_distance(x: Tensor, y: Tensor, halves: Tensor) -> BootstrapEstimate:
    """Return the FID of ``y [m, D]`` against ``x [n, D]``, with halves ``[R, m]`` of y for the bootstrap."""
    reference = moments(x)
    sqrt_cov = matrix_sqrt(reference.cov)
    values = [normal_frechet_distance(reference, moments(y, w), sqrt_cov) for w in with_full_sample(halves)]
    return BootstrapEstimate.from_values(torch.tensor(values, dtype=torch.float64), low=0.0)


def cubic_kernel(a: Tensor, b: Tensor) -> Tensor:
    """Return ``(aᵀb / D + 1)³`` for all pairs of ``a [n, D]`` and ``b [m, D]``: ``[n, m]``."""
    return (a @ b.T / a.shape[1] + 1).pow(3)


def kernel_distance(x: Tensor, y: Tensor, halves: Tensor) -> BootstrapEstimate:
    """Return the KID of ``y [m, D]`` against ``x [n, D]``: the unbiased estimate over all pairs.

    The published code averages it over 100 random subsets of 1,000 images. The expectation is the same; all pairs
    have less noise.
    """
    x, y, w = x.double(), y.double(), with_full_sample(halves)
    within_y = torch.zeros(len(w), dtype=torch.float64)
    between = torch.zeros(len(y), dtype=torch.float64)
    for start in range(0, len(y), KERNEL_CHUNK_SIZE):
        chunk = slice(start, start + KERNEL_CHUNK_SIZE)
        k = cubic_kernel(y[chunk], y)
        k.diagonal(start).zero_()
        within_y += (w[:, chunk].T * (k @ w.T)).sum(0)
        between[chunk] = cubic_kernel(y[chunk], x).mean(1)
    size = w.sum(1)
    values = _mean_kernel_of_pairs(x) + within_y / (size * (size - 1)) - 2 * (w @ between) / size
    return BootstrapEstimate.from_values(values)


def _mean_kernel_of_pairs(x: Tensor) -> float:
    """Return ``E k(x, x')`` over pairs of different images."""
    starts = range(0, len(x), KERNEL_CHUNK_SIZE)
    total = sum(float(cubic_kernel(x[start : start + KERNEL_CHUNK_SIZE], x).sum()) for start in starts)
    diagonal = float((x.square().sum(1) / x.shape[1] + 1).pow(3).sum())
    return (total - diagonal) / (len(x) * (len(x) - 1))


def inception_score(logits: Tensor, halves: Tensor) -> BootstrapEstimate:
    """Return the IS from ``logits [m, K]``: from 5,000 images on the mean over 10 parts, as published.

    The images must be in random order: a part of one class would have a score of 1. The marginal p(c) of a part
    overfits its own images, the more the smaller the part. Replicates are not divided into parts.
    """
    log_p = logits.double().log_softmax(1)
    p = log_p.exp()
    negative_entropy = (p * log_p).sum(1)  # Σ_c p(c|y) log p(c|y)
    parts = NUM_SCORE_PARTS if len(p) >= MIN_IMAGES_FOR_PARTS else 1
    part_of_image = torch.arange(len(p)) * parts // len(p)
    weights = (part_of_image == torch.arange(parts).unsqueeze(1)).double()
    value = float(_exp_mutual_information(weights, p, negative_entropy).mean())
    replicates = _exp_mutual_information(halves, p, negative_entropy)
    return BootstrapEstimate(value, replicates, (1.0, float(p.shape[1])))


def _exp_mutual_information(w: Tensor, p: Tensor, negative_entropy: Tensor) -> Tensor:
    """Return ``exp E KL(p(c|y) ‖ p(c))`` over the images of each row of ``w [R, m]``, ``[R]``."""
    size = w.sum(1)
    marginal = w @ p / size.unsqueeze(1)
    return (w @ negative_entropy / size - torch.special.xlogy(marginal, marginal).sum(1)).exp()
