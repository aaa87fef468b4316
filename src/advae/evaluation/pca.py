"""Principal components of the training images: what a linear code of a given length can keep.

No linear map to k numbers and back has a smaller squared error on the images it was fitted to (Eckart and Young
1936); so this is the yardstick of a model whose code has k dimensions.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advae.data import Dataset
from advae.evaluation.resumable import ALONE, Work

IMAGES = 20_000  # all 60,000 of MNIST lower the error on other images by 0.05 %; all of CIFAR-10's by 0.14 %
HELD = 2**28  # bytes of stored images that are held at a time
EXACT = 1024  # numbers an image up to which the covariance matrix is held and decomposed
CHUNK = 1024  # images converted to floating point at a time
ROUNDS = 100  # of the iteration, at most
SETTLED = 1e-3  # it ends when a round takes no larger part of the variance left out: 0.05 % of the error


@dataclass(frozen=True)
class Plane:
    """An affine subspace.

    Attributes:
        mean: ``[n]``, float64.
        basis: orthonormal rows ``[k, n]``.
        variances: of the images along them, the largest first, ``[k]``.
        images: how many it was fitted to.
        method: how.
    """

    mean: Tensor
    basis: Tensor
    variances: Tensor
    images: int
    method: str

    def project(self, x: Tensor) -> Tensor:
        """The nearest points of the plane to ``x [B, …]``, in its shape, float64."""
        centred = x.double().flatten(1) - self.mean
        return (self.mean + centred @ self.basis.T @ self.basis).reshape(x.shape)


def principal_plane(data: Dataset, k: int, device: torch.device, work: Work = ALONE) -> Plane:
    """The plane of the first ``k`` principal components of the training images, in grey levels.

    Of at most IMAGES of them, evenly spaced. Exact by the eigenvectors of the covariance matrix for images of up
    to EXACT numbers; for larger ones by subspace iteration, until the variance left out has settled. The last plane
    is kept: with 2048 components of 64 × 64 images it takes minutes, and the rows of a table share it.

    Args:
        data: whose training images, as stored.
        k: how many; fewer where the images have fewer numbers or there are fewer images.
        device: where to work.
        work: how it is carried out.
    """
    asked = (k, str(device))
    if _last and _last[0]() is data and _last[1] == asked:
        return _last[2]
    plane = _fitted(data, k, device, work)
    _last[:] = [weakref.ref(data, lambda _: _last.clear()), asked, plane]
    return plane


_last: list[Any] = []  # the data (weakly), what was asked of them, and the plane


def _fitted(data: Dataset, k: int, device: torch.device, work: Work) -> Plane:
    images = _Images(data, device, work)
    k = min(k, images.size, len(images.raw))
    if images.size <= EXACT:
        variances, basis = _decomposed(images.covariance(), k)
        method = "covariance matrix"
    else:
        variances, basis = _iterated(images, k, work)
        method = "subspace iteration"
    return Plane(images.mean, basis.T.contiguous(), variances, len(images.raw), method)


class _Images:
    """Some training images, held as they are stored; float64 a chunk at a time."""

    def __init__(self, data: Dataset, device: torch.device, work: Work) -> None:
        split, self.device, self.grey = data.train, device, data.protocol.raw_grey
        self.size = torch.Size(split.shape).numel()
        count = min(len(split), IMAGES, max(1, HELD // (self.size * split.dtype.itemsize)))
        places = torch.arange(count) * len(split) // count
        with work.stage("reading training images", count) as tick:
            parts = []
            for some in places.split(CHUNK):
                parts.append(split.raw(some))
                tick(len(some))
        self.raw = torch.cat(parts)
        self.mean = torch.zeros(self.size, dtype=torch.float64, device=device)
        for start in range(0, count, CHUNK):
            self.mean += self._grey(start).sum(0) / count

    def _grey(self, start: int) -> Tensor:
        return self.grey(self.raw[start : start + CHUNK].to(self.device)).double().flatten(1)

    def covariance(self) -> Tensor:
        """The covariance matrix C (of 1/N), ``[n, n]``."""
        return sum_of(centred.T @ centred for centred in self.centred()) / len(self.raw)

    def variance(self) -> float:
        """The trace of C."""
        return sum(float(centred.square().sum()) for centred in self.centred()) / len(self.raw)

    def covariance_times(self, q: Tensor) -> Tensor:
        """``C q`` for ``q [n, m]``, without holding C; products in float32, their sum in float64."""
        q = q.float()
        parts = (centred.float() for centred in self.centred())
        return sum_of((part.T @ (part @ q)).double() for part in parts) / len(self.raw)

    def centred(self) -> Iterator[Tensor]:
        """The images less their mean, ``[CHUNK, n]`` at a time."""
        for start in range(0, len(self.raw), CHUNK):
            yield self._grey(start) - self.mean


def sum_of(terms: Iterable[Tensor]) -> Tensor:
    """The sum of tensors as they come."""
    return functools.reduce(Tensor.add_, terms)


def _decomposed(matrix: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest eigenvalues of a symmetric matrix, the largest first, and their vectors ``[n, k]``."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return values[-k:].flip(0), vectors[:, -k:].flip(1)


def _iterated(images: _Images, k: int, work: Work) -> tuple[Tensor, Tensor]:
    """Subspace iteration from random directions, with half as many again as are wanted for its speed."""
    generator = torch.Generator().manual_seed(0)
    width = min(images.size, k + max(16, k // 2))
    start = torch.randn(images.size, width, generator=generator, dtype=torch.float64)
    q = torch.linalg.qr(start.to(images.device)).Q
    left = total = images.variance()
    with work.stage("principal components", ROUNDS) as tick:
        for _ in range(ROUNDS):
            product = images.covariance_times(q)
            variances, turn = _decomposed(q.T @ product, k)
            before, left = left, total - float(variances.sum())
            if before - left <= SETTLED * before:
                break
            q = torch.linalg.qr(product).Q
            tick(1)
    return variances, q @ turn
