"""Test for memorization, from distances of samples to training and to held-out images.

    d(y)     distance of a sample to the nearest of n training images, in feature space     [m]
    d(x')    the same of a held-out image                                                   [h]

    z        Mann–Whitney test of d(y) against d(x')                  (Meehan, Chaudhuri and Dasgupta 2020)
    copies   1 − (n + h)/h · fraction of samples whose nearest real image is a held-out one

``z`` is standard normal if samples have the distribution of the data, and far below 0 if they are close to training
images. But so are samples of a model that generates only typical images and has memorized nothing. Only copies prefer
a training image to a held-out one: if the two kinds of real images are exchangeable, a fraction h/(n + h) of
independent samples is nearest to a held-out image, and no copy is, so that the expectation of ``copies`` is the
fraction of copies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from advae.metrics.prdc import center, distance_chunks, squared_distances

SIGNIFICANT_STDERRS = 3.0  # without memorization, 0.3 % of models exceed it in either direction
MIN_COPIES_FOR_WARNING = (
    0.1  # training and held-out images are never fully exchangeable (docs/reference/metrics.md)
)


@dataclass(frozen=True)
class MemorizationTest:
    """Distances of samples to training images, compared with those of held-out images.

    Attributes:
        z: below 0, samples are closer to training images than held-out images are.
        ratio: median distance of samples divided by that of held-out images; NaN if the latter is 0.
        copies: estimated fraction of samples that are copies; below 0, samples prefer held-out images.
        copies_stderr: its standard error without copies.
        distance, nearest: from each sample to the nearest training image, and the index of that image, ``[m]``.
        held_out_distance: from each held-out image to the nearest training image, ``[h]``.
    """

    z: float
    ratio: float
    copies: float
    copies_stderr: float
    distance: Tensor
    nearest: Tensor
    held_out_distance: Tensor

    @property
    def is_too_close(self) -> bool:
        """Whether samples are significantly closer to training images than held-out images are."""
        return self.z < -SIGNIFICANT_STDERRS

    @property
    def copies_threshold(self) -> float:
        """The fraction of copies from which on it is significant and large."""
        return max(MIN_COPIES_FOR_WARNING, SIGNIFICANT_STDERRS * self.copies_stderr)

    @property
    def is_inconclusive(self) -> bool:
        """Whether samples are too close to training images, and too few images tell whether they are copies."""
        lower = self.copies - self.copies_stderr
        unclear = lower > MIN_COPIES_FOR_WARNING or SIGNIFICANT_STDERRS * self.copies_stderr > 1
        return self.is_too_close and not self.has_copies and unclear

    @property
    def has_copies(self) -> bool:
        """Whether the fraction of copies is significant and large."""
        return self.copies > self.copies_threshold


def memorization_test(train: Tensor, held_out: Tensor, samples: Tensor) -> MemorizationTest:
    """Compare features of training images ``[n, D]``, held-out images ``[h, D]`` and samples ``[m, D]``."""
    train, held_out, samples = center(train, held_out, samples)
    distance, nearest = nearest_distance(samples, train)
    held_out_distance, _ = nearest_distance(held_out, train)
    to_held_out = nearest_distance(samples, held_out)
    copies, stderr = fraction_of_copies((distance, nearest), to_held_out, len(train), len(held_out))
    median = float(held_out_distance.median())
    ratio = float(distance.median()) / median if median else math.nan
    z = mann_whitney(distance, held_out_distance)
    return MemorizationTest(z, ratio, copies, stderr, distance, nearest, held_out_distance)


def nearest_distance(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distance from each of ``a [n, D]`` to the nearest of ``b [m, D]``, and its index: ``[n]`` each."""
    nearest = [squared_distances(a[chunk], b).min(1) for chunk in distance_chunks(len(a))]
    return torch.cat([n.values for n in nearest]).sqrt(), torch.cat([n.indices for n in nearest])


def mann_whitney(a: Tensor, b: Tensor) -> float:
    """Return ``(U − E U) / sd U`` where U counts the pairs in which ``a [n]`` exceeds ``b [m]``, ties as ½.

    ``E U = nm/2``, ``Var U = nm/12 (N + 1 − Σ (t³ − t) / (N (N − 1)))`` with t the sizes of ties, N = n + m
    (Mann and Whitney 1947; Hemelrijk 1952 for ties).
    """
    n, m = len(a), len(b)
    _, value_index, ties = torch.unique(torch.cat([a, b]), return_inverse=True, return_counts=True)
    ties = ties.double()
    ranks = ties.cumsum(0) - (ties - 1) / 2
    u = float(ranks[value_index[:n]].sum()) - n * (n + 1) / 2
    total = n + m
    tie_correction = float((ties.pow(3) - ties).sum()) / (total * (total - 1))
    variance = n * m / 12 * (total + 1 - tie_correction)
    return (u - n * m / 2) / math.sqrt(variance) if variance > 0 else 0.0


def fraction_of_copies(
    to_train: tuple[Tensor, Tensor], to_held_out: tuple[Tensor, Tensor], n: int, h: int
) -> tuple[float, float]:
    """Return ``copies`` and its standard error without copies.

    Without copies, the h held-out images are a random sample without replacement of all N = n + h real images. With
    ``a_i`` the fraction of samples whose nearest real image is i, the sum of a_i over that sample has mean h/N and
    variance ``h n / (N² (N − 1)) (N Σ a_i² − 1)``: real images that are nearest to many samples increase it.

    Args:
        to_train, to_held_out: distances and indices of :func:`nearest_distance`, ``[m]``; a tie counts half to both.
        n, h: numbers of images.
    """
    (d_train, i_train), (d_held_out, i_held_out) = to_train, to_held_out
    total = n + h
    prefers_held_out = torch.where(d_train == d_held_out, 0.5, (d_held_out < d_train).double())
    fractions = torch.zeros(total, dtype=torch.float64)
    fractions.index_add_(0, i_train, 1 - prefers_held_out)
    fractions.index_add_(0, i_held_out + n, prefers_held_out)
    fractions /= len(d_train)
    variance = h * n / (total**2 * (total - 1)) * (total * float(fractions.square().sum()) - 1)
    scale = total / h
    return 1 - scale * float(fractions[n:].sum()), scale * math.sqrt(max(0.0, variance))
