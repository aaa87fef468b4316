"""Precision, recall, density and coverage, from nearest neighbors in feature space.

    x, y     features of reference and of generated images                     [n, D], [m, D]
    B_k(x)   the ball around x that reaches to its k-th nearest neighbor in the same set

    precision   fraction of y inside some B_3(x)         recall     fraction of x inside some B_3(y)
    density     mean number of B_5(x) around a y, / 5    coverage   fraction of x with a y inside B_5(x)

Precision and recall: Kynkäänniemi et al. 2019; density and coverage: Naeem et al. 2020. Distances are computed in
chunks, in float64: nothing of size n × m × D is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from advae.metrics.bootstrap import MIN_REPLICATES, BootstrapEstimate, with_full_sample

DISTANCE_CHUNK_SIZE = 512  # rows of a distance matrix at a time: 40 MB with 10,000 columns
K_PRECISION_RECALL, K_DENSITY_COVERAGE = 3, 5  # as published
# Factor of a squared radius: the neighbor that a ball reaches to is outside, whatever the rounding.
STRICTLY_INSIDE = 1 - 1e-9
NUM_KNOWN_NEIGHBORS = 24  # per image: a half contains fewer than 3 of them once in 50,000 times
MAX_RECALL_COMPARISONS = 2_000_000_000  # some seconds: 20 replicates of recall for 10,000 images per set


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return ``‖a_i − b_j‖²`` of float64 ``a [n, D]`` and ``b [m, D]`` as ``‖a‖² + ‖b‖² − 2 aᵀb``: ``[n, m]``."""
    return (a.square().sum(1, keepdim=True) + b.square().sum(1) - 2 * a @ b.T).clamp_min(0)


def distance_chunks(n: int) -> Iterator[slice]:
    """Yield slices of n rows."""
    starts = range(0, n, DISTANCE_CHUNK_SIZE)
    return (slice(start, min(start + DISTANCE_CHUNK_SIZE, n)) for start in starts)


def center(x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Subtract the mean of the first from all, in float64: distances then lose the fewest digits."""
    mean = x.double().mean(0)
    return tuple(tensor.double() - mean for tensor in (x, *others))


def nearest_neighbors(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return squared distances from ``x [n, D]`` to the k nearest others in order, and indices: ``[n, k]`` each."""
    nearest = []
    for chunk in distance_chunks(len(x)):
        d = squared_distances(x[chunk], x)
        d.diagonal(chunk.start).fill_(torch.inf)
        nearest.append(d.topk(min(k, len(x) - 1), largest=False))
    return torch.cat([n.values for n in nearest]), torch.cat([n.indices for n in nearest])


def radii_in_halves(distances: Tensor, indices: Tensor, halves: Tensor) -> Tensor:
    """Return squared radii of the balls ``B_3`` within each half, -1 for images outside it: ``[R, m]``.

    Args:
        distances, indices: :func:`nearest_neighbors` among all images.
        halves: 1 for images in the half, ``[R, m]``.
    """
    inside = halves.bool()
    is_third_or_later = inside[:, indices].cumsum(2) >= K_PRECISION_RECALL  # [R, m, NUM_KNOWN_NEIGHBORS]
    last = indices.shape[1] - 1
    rank = torch.where(is_third_or_later.any(2), is_third_or_later.int().argmax(2), last)
    radii = distances.gather(1, rank.T).T * STRICTLY_INSIDE
    return torch.where(inside, radii, -1.0)


def prdc(x: Tensor, y: Tensor, halves: Tensor) -> dict[str, BootstrapEstimate]:
    """Return precision, recall, density and coverage of ``y [m, D]`` against ``x [n, D]``, by name.

    Args:
        x: features of reference images; n should be m, as the metrics depend on both.
        y: features of generated images.
        halves: ``[R, m]`` of y, for the bootstrap.
    """
    x, y = center(x, y)
    radii_x = nearest_neighbors(x, K_DENSITY_COVERAGE)[0] * STRICTLY_INSIDE
    distances_y, indices_y = nearest_neighbors(y, NUM_KNOWN_NEIGHBORS)
    w = with_full_sample(halves)
    num_recall = max(MIN_REPLICATES, min(len(halves), MAX_RECALL_COMPARISONS // (len(x) * len(y))))
    radii_of_all = distances_y[:, K_PRECISION_RECALL - 1][None] * STRICTLY_INSIDE
    radii_y = torch.cat([radii_of_all, radii_in_halves(distances_y, indices_y, halves[:num_recall])])
    in_some_ball = torch.empty(len(y), dtype=torch.float64)
    num_balls = torch.empty(len(y), dtype=torch.float64)
    recalled = torch.zeros(len(radii_y), len(x), dtype=torch.bool)
    num_covering = torch.zeros(len(w), len(x), dtype=torch.float32)  # whole numbers below 2²⁴: exact
    for chunk in distance_chunks(len(y)):
        d = squared_distances(y[chunk], x)
        in_large_ball = d < radii_x[:, K_DENSITY_COVERAGE - 1]
        in_some_ball[chunk] = (d < radii_x[:, K_PRECISION_RECALL - 1]).any(1).double()
        num_balls[chunk] = in_large_ball.sum(1).double() / K_DENSITY_COVERAGE
        num_covering += w[:, chunk].float() @ in_large_ball.float()
        for row, radius in zip(recalled, radii_y[:, chunk], strict=True):
            row |= (d < radius.unsqueeze(1)).any(0)
    size = w.sum(1)
    return {
        "precision": BootstrapEstimate.from_values(w @ in_some_ball / size, 0.0, 1.0),
        "recall": BootstrapEstimate.from_values(recalled.double().mean(1), 0.0, 1.0),
        "density": BootstrapEstimate.from_values(w @ num_balls / size, 0.0),
        "coverage": BootstrapEstimate.from_values((num_covering > 0).double().mean(1), 0.0, 1.0),
    }
