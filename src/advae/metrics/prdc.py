"""Sample metrics of neighbourhoods in feature space: precision, recall, density and coverage.

    x, y     features of reference and of judged images                        [n, D], [m, D]
    B_k(x)   the ball about x that reaches to its k-th nearest other image of the same set

    precision   share of y inside some B_3(x)         recall     share of x inside some B_3(y)
    density     balls B_5(x) about a y, over 5        coverage   share of x with a y in B_5(x)

Precision and recall: Kynkäänniemi et al. 2019; density and coverage: Naeem et al. 2020. Distances are computed some
rows at a time, in float64: nothing of size n × m × D is ever held.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from advae.metrics.bootstrap import FEWEST, Figure, figure, with_whole

ROWS = 512  # of a matrix of distances at a time: 40 MB against 10,000 columns
NEIGHBOUR, WIDER = 3, 5  # k as published: of precision and recall, of density and coverage
INSIDE = (
    1 - 1e-9
)  # of a squared radius: the image that a ball reaches to stays outside, whatever the rounding
KNOWN = 24  # nearest images of each: fewer than 3 of them are in a half once in 50,000 times
COMPARISONS = (
    2_000_000_000  # of recall's replicates, some seconds: of 10,000 images a side there are then only 20
)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """``‖a_i − b_j‖²`` of ``a [n, D]`` and ``b [m, D]`` as ``‖a‖² + ‖b‖² − 2 aᵀb``: ``[n, m]``, for float64."""
    return (a.square().sum(1, keepdim=True) + b.square().sum(1) - 2 * a @ b.T).clamp_min(0)


def rows(n: int) -> Iterator[slice]:
    """``ROWS`` of n at a time."""
    return (slice(start, min(start + ROWS, n)) for start in range(0, n, ROWS))


def centred(x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """All in float64 about the mean of the first, where distances lose the least to rounding."""
    mean = x.double().mean(0)
    return tuple(each.double() - mean for each in (x, *others))


def neighbours(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Squared distances from ``x [n, D]`` to the k nearest other images, in their order, and which: ``[n, k]`` each."""
    found = []
    for part in rows(len(x)):
        d = squared_distances(x[part], x)
        d.diagonal(part.start).fill_(torch.inf)
        found.append(d.topk(min(k, len(x) - 1), largest=False))
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def radii_in_halves(distances: Tensor, places: Tensor, drawn: Tensor) -> Tensor:
    """Squared radii of the balls ``B_3`` within each half, -1 where an image is not in it: ``[R, m]``.

    Args:
        distances, places: :func:`neighbours` of all.
        drawn: 1 where an image is in, ``[R, m]``.
    """
    inside = drawn.bool()
    third = inside[:, places].cumsum(2) >= NEIGHBOUR  # [R, m, KNOWN]
    rank = torch.where(third.any(2), third.int().argmax(2), places.shape[1] - 1)
    radii = distances.gather(1, rank.T).T * INSIDE
    return torch.where(inside, radii, -1.0)


def prdc(x: Tensor, y: Tensor, drawn: Tensor) -> dict[str, Figure]:
    """Precision, recall, density and coverage of ``y [m, D]`` against ``x [n, D]``, by name.

    Args:
        x: of as many reference images as there are judged ones, for the figures depend on both numbers.
        y: of the judged images.
        drawn: ``[R, m]``, for the bootstrap.
    """
    x, y = centred(x, y)
    of_x, (of_y, near_y) = neighbours(x, WIDER)[0] * INSIDE, neighbours(y, KNOWN)
    w, few = with_whole(drawn), max(FEWEST, min(len(drawn), COMPARISONS // (len(x) * len(y))))
    radii = torch.cat([of_y[:, NEIGHBOUR - 1][None] * INSIDE, radii_in_halves(of_y, near_y, drawn[:few])])
    precise, dense = torch.empty(len(y)).double(), torch.empty(len(y)).double()
    recalled, covered = torch.zeros(len(radii), len(x)).bool(), torch.zeros(len(w), len(x))
    for part in rows(len(y)):
        d = squared_distances(y[part], x)
        in_wide = d < of_x[:, WIDER - 1]
        precise[part] = (d < of_x[:, NEIGHBOUR - 1]).any(1).double()
        dense[part] = in_wide.sum(1).double() / WIDER
        covered += w[:, part].float() @ in_wide.float()  # whole numbers below 2²⁴: exact
        for seen, radius in zip(recalled, radii[:, part], strict=True):
            seen |= (d < radius.unsqueeze(1)).any(0)
    return {
        "precision": figure(w @ precise / w.sum(1), 0.0, 1.0),
        "recall": figure(recalled.double().mean(1), 0.0, 1.0),
        "density": figure(w @ dense / w.sum(1), 0.0),
        "coverage": figure((covered > 0).double().mean(1), 0.0, 1.0),
    }
