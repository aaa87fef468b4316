"""Sample metrics of whole distributions of features: Fréchet distance, kernel distance, inception score.

    x       features of reference images                 [n, D]
    y       features of judged images                    [m, D]
    w       1 where a judged image counts                [R, m]

    FID     ‖μ_x − μ_y‖² + tr(Σ_x + Σ_y − 2 (Σ_x Σ_y)^½)                       (Heusel et al. 2017)
    KID     E k(x, x') + E k(y, y') − 2 E k(x, y),  k(a, b) = (aᵀb / D + 1)³   (Bińkowski et al. 2018)
    IS      exp E_y KL(p(c|y) ‖ p(c)),  p(c) = E_y p(c|y)                      (Salimans et al. 2016)

Everything is in float64. The bootstrap draws among judged images; the reference is held fixed, as it is for all models
that one compares.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from advae.metrics.bootstrap import Figure, figure, with_whole

ROWS = 512  # of a kernel matrix at a time: 40 MB against 10,000 columns
SPLITS, SPLIT_FROM = 10, 5000  # the published inception score is a mean over 10 parts, of 5,000 images each


class Moments(NamedTuple):
    """Mean ``[D]`` and covariance ``[D, D]``."""

    mean: Tensor
    cov: Tensor


def moments(features: Tensor, weights: Tensor | None = None) -> Moments:
    """Mean and covariance (over n − 1) of ``features [n, D]``, each counted ``weights [n]`` times."""
    x = features.double()
    w = torch.ones(len(x), dtype=torch.float64) if weights is None else weights.double()
    mean = w @ x / w.sum()
    centred = x - mean
    return Moments(mean, centred.T @ (w.unsqueeze(1) * centred) / (w.sum() - 1))


def root(cov: Tensor) -> Tensor:
    """The symmetric root of a positive semidefinite matrix; eigenvalues that rounding made negative count as 0."""
    values, vectors = torch.linalg.eigh(cov)
    return vectors * values.clamp_min(0).sqrt() @ vectors.T


def frechet(a: Moments, b: Moments, root_a: Tensor | None = None) -> float:
    """The squared Wasserstein-2 distance of two normals (Dowson and Landau 1982).

    ``Σ_a Σ_b`` has the eigenvalues of the symmetric ``Σ_a^½ Σ_b Σ_a^½``, so that no root of a matrix without
    symmetry is needed, and singular covariances do no harm.

    Args:
        a, b: of the two.
        root_a: ``Σ_a^½``, where it is known.
    """
    half = root(a.cov) if root_a is None else root_a
    inner = half @ b.cov @ half
    shared = torch.linalg.eigvalsh((inner + inner.T) / 2).clamp_min(0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace() - 2 * shared
    return max(0.0, float(distance))


def frechet_distance(x: Tensor, y: Tensor, drawn: Tensor) -> Figure:
    """FID of judged features ``y [m, D]`` against ``x [n, D]``; ``drawn [R, m]`` for the bootstrap."""
    reference = moments(x)
    half = root(reference.cov)
    values = [frechet(reference, moments(y, w), half) for w in with_whole(drawn)]
    return figure(torch.tensor(values, dtype=torch.float64), low=0.0)


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """``(aᵀb / D + 1)³`` for all pairs of ``a [n, D]`` and ``b [m, D]``: ``[n, m]``."""
    return (a @ b.T / a.shape[1] + 1).pow(3)


def kernel_distance(x: Tensor, y: Tensor, drawn: Tensor) -> Figure:
    """KID: the unbiased estimate over all pairs of different images, of ``x [n, D]`` and ``y [m, D]``.

    The published code averages it over 100 random subsets of 1,000 images. The expectation is the same; all pairs
    have less noise, and none from the choice of subsets.
    """
    x, y, w = x.double(), y.double(), with_whole(drawn)
    among = torch.zeros(len(w), dtype=torch.float64)
    across = torch.zeros(len(y), dtype=torch.float64)
    for start in range(0, len(y), ROWS):
        part = slice(start, start + ROWS)
        k = kernel(y[part], y)
        k.diagonal(start).zero_()
        among += (w[:, part].T * (k @ w.T)).sum(0)
        across[part] = kernel(y[part], x).mean(1)
    size = w.sum(1)
    return figure(_among(x) + among / (size * (size - 1)) - 2 * (w @ across) / size)


def _among(x: Tensor) -> float:
    """``E k(x, x')`` over pairs of different images."""
    total = sum(float(kernel(x[start : start + ROWS], x).sum()) for start in range(0, len(x), ROWS))
    itself = float((x.square().sum(1) / x.shape[1] + 1).pow(3).sum())
    return (total - itself) / (len(x) * (len(x) - 1))


def inception_score(logits: Tensor, drawn: Tensor) -> Figure:
    """IS from ``logits [m, K]``: from 5,000 images on the mean over 10 parts, as published, else of the whole.

    The marginal p(c) of a part fits its own images a little too well, the more so the smaller it is. The images
    must come in no order: a part of one class would have a score of 1. Replicates are not cut into parts.
    """
    log_p = logits.double().log_softmax(1)
    p = log_p.exp()
    information = (p * log_p).sum(1)  # Σ_c p(c|y) log p(c|y)
    parts = SPLITS if len(p) >= SPLIT_FROM else 1
    member = (torch.arange(len(p)) * parts // len(p) == torch.arange(parts).unsqueeze(1)).double()
    value = float(_score(member, p, information).mean())
    return Figure(value, _score(drawn, p, information), (1.0, float(p.shape[1])))


def _score(w: Tensor, p: Tensor, information: Tensor) -> Tensor:
    """``exp E KL(p(c|y) ‖ p(c))`` over the images of each row of ``w [R, m]``, ``[R]``."""
    size = w.sum(1)
    marginal = w @ p / size.unsqueeze(1)
    return (w @ information / size - torch.special.xlogy(marginal, marginal).sum(1)).exp()
