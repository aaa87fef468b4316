"""Is the model memorising? Distances from samples to training images, beside those from images it never saw.

    d(y)     distance of a sample to the nearest of n training images, in feature space     [m]
    d(x')    the same of a held-out image                                                   [h]

    z        Mann–Whitney: do samples lie nearer than held-out images do?   (Meehan, Chaudhuri and Dasgupta 2020)
    copies   1 − (n + h)/h · share of samples whose nearest real image is a held-out one

``z`` is standard normal if samples are distributed as the data, and far below 0 if they crowd about training images.
But so do samples of a model that keeps to what is typical and has memorised nothing. Only a copy prefers the training
image to a held-out one: if the two kinds of real image are interchangeable, a share h/(n + h) of honest samples is
nearest to a held-out one and no copy is, so that ``copies`` is on average the share of copies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from advae.metrics.prdc import centred, rows, squared_distances

CLEAR = 3.0  # standard errors from which on a difference is no chance: 0.3 % of honest models go beyond, either way
MATERIAL = 0.1  # copies worth a warning: training and held-out images are never quite interchangeable (docs/metrics.md)


@dataclass(frozen=True)
class Copying:
    """How near samples come to training images.

    Attributes:
        z: below 0, samples lie nearer to training images than held-out images do.
        ratio: median distance of samples over median distance of held-out images.
        copies: estimated share of samples that are copies; below 0, samples prefer held-out images.
        copies_error: its standard error if nothing was copied.
        distance, nearest: of each sample to the nearest training image, and which that is, ``[m]``.
        held_distance: of each held-out image to the nearest training image, ``[h]``.
    """

    z: float
    ratio: float
    copies: float
    copies_error: float
    distance: Tensor
    nearest: Tensor
    held_distance: Tensor


def copying(train: Tensor, held: Tensor, made: Tensor) -> Copying:
    """From features of training images ``[n, D]``, of held-out images ``[h, D]`` and of samples ``[m, D]``."""
    train, held, made = centred(train, held, made)
    distance, nearest = nearest_of(made, train)
    held_distance, _ = nearest_of(held, train)
    copies, error = share_of_copies((distance, nearest), nearest_of(made, held), len(train), len(held))
    middle = float(held_distance.median())
    ratio = float(distance.median()) / middle if middle else math.nan
    z = mann_whitney(distance, held_distance)
    return Copying(z, ratio, copies, error, distance, nearest, held_distance)


def nearest_of(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Distance from each of ``a [n, D]`` to the nearest of ``b [m, D]``, and which that is: ``[n]`` each."""
    found = [squared_distances(a[part], b).min(1) for part in rows(len(a))]
    return torch.cat([f.values for f in found]).sqrt(), torch.cat([f.indices for f in found])


def mann_whitney(a: Tensor, b: Tensor) -> float:
    """``(U − E U) / sd U`` where U counts the pairs in which ``a [n]`` exceeds ``b [m]``, a tie as half a pair.

    ``E U = nm/2``, ``Var U = nm/12 (N + 1 − Σ (t³ − t) / (N (N − 1)))`` with t the sizes of ties, N = n + m
    (Mann and Whitney 1947; Hemelrijk 1952 for ties).
    """
    n, m = len(a), len(b)
    _, place, ties = torch.unique(torch.cat([a, b]), return_inverse=True, return_counts=True)
    ties = ties.double()
    ranks = ties.cumsum(0) - (ties - 1) / 2
    u = float(ranks[place[:n]].sum()) - n * (n + 1) / 2
    total = n + m
    tied = float((ties.pow(3) - ties).sum()) / (total * (total - 1))
    variance = n * m / 12 * (total + 1 - tied)
    return (u - n * m / 2) / math.sqrt(variance) if variance > 0 else 0.0


def share_of_copies(
    train: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor], n: int, h: int
) -> tuple[float, float]:
    """``copies`` and its standard error if nothing was copied.

    Then which h of all N = n + h real images are the held-out ones is a draw without replacement. With ``a_i`` the
    share of samples whose nearest real image is i, the sum of a_i over that draw has the mean h/N and the variance
    ``h n / (N² (N − 1)) (N Σ a_i² − 1)``: images about which many samples gather make the answer less sure.

    Args:
        train, held: :func:`nearest_of` each: distances and places, ``[m]``; a tie counts half to either.
        n, h: numbers of images.
    """
    (d_train, i_train), (d_held, i_held) = train, held
    total = n + h
    to_held = torch.where(d_train == d_held, 0.5, (d_held < d_train).double())
    hits = torch.zeros(total, dtype=torch.float64)
    hits.index_add_(0, i_train, 1 - to_held)
    hits.index_add_(0, i_held + n, to_held)
    hits /= len(d_train)
    variance = h * n / (total**2 * (total - 1)) * (total * float(hits.square().sum()) - 1)
    scale = total / h
    return 1 - scale * float(hits[n:].sum()), scale * math.sqrt(max(0.0, variance))


def verdict(found: Copying, held: str) -> tuple[str, bool]:
    """What that means, and whether it is a warning.

    Args:
        found: the distances.
        held: what the held-out images are called: "test images".
    """
    scale = f"median distance {found.ratio:.2f} times that of {held}, z = {found.z:.1f}"
    share, error = found.copies, found.copies_error
    copies = f"an estimated {min(share, 1):.0%} ± {error:.0%} of samples are copies"
    copied = share > max(MATERIAL, CLEAR * error)
    if found.z < -CLEAR:
        where = f"samples lie nearer to training images than {held} do ({scale})"
        if copied:
            return f"{where}, and {copies}: memorising; look at the pairs", True
        if share - error > MATERIAL or CLEAR * error > 1:
            return f"{where}, and {copies}, too few images to be sure: look at the pairs", True
        return (
            f"{where}, but no less near to {held}: they keep to what is typical; no sign of memorising",
            False,
        )
    if copied:
        return f"{copies}: they prefer training images to {held} that are as near; look at the pairs", True
    far = "farther from training images than" if found.z > CLEAR else "as far from training images as"
    return f"samples lie {far} {held} do ({scale}): no sign of memorising", False
