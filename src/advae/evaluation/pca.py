"""Principal component analysis of training images, or of the rows of a table.

No linear map to k dimensions and back has a smaller squared error on the images that it was fitted to (Eckart and
Young 1936), so PCA is the baseline for the reconstructions of a model with k latent dimensions.

scikit-learn's randomized SVD needs all images in floating point on the CPU (1 GB for 64 × 64 color images, four times
what is stored here), and its incremental PCA takes an SVD of k + batch rows per batch; both are slower for large k.
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
from advae.evaluation.eval_data import ErrorScale
from advae.evaluation.resumable import LOCAL, Runner

MAX_IMAGES = 20_000  # all 60,000 of MNIST lower the error on others by 0.05 %; all of CIFAR-10's by 0.14 %
MAX_BYTES = 2**28  # of stored images in memory
MAX_COVARIANCE_DIMS = 1024  # up to this size of an image the covariance matrix is decomposed
IMAGES_PER_CHUNK = 1024  # converted to floating point together
MAX_ITERATIONS = 100
RELATIVE_TOL = 1e-3  # change of the residual variance at convergence: 0.05 % of the error


@dataclass(frozen=True)
class PCA:
    """Principal components: mean ``[n]``, orthonormal rows ``[k, n]``, decreasing variances along them ``[k]``.

    ``num_images`` and ``method`` of fitting are for protocols.
    """

    mean: Tensor
    basis: Tensor
    variances: Tensor
    num_images: int
    method: str

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the projections of ``x [B, …]`` in the same shape, float64."""
        centered = x.double().flatten(1) - self.mean
        return (self.mean + centered @ self.basis.T @ self.basis).reshape(x.shape)


def fit_pca(data: Dataset, k: int, device: torch.device, runner: Runner = LOCAL) -> PCA:
    """Return the first ``k`` principal components of the training images, on the scale of errors.

    They are fewer if the images have fewer dimensions or there are fewer images. At most MAX_IMAGES evenly spaced
    images are used. Small images: eigenvectors of the covariance matrix; large ones: subspace iteration until the
    residual variance has converged. The last result is cached: 2048 components of 64 × 64 images take minutes, and
    the rows of a table share them.
    """
    key = (k, str(device))
    if _cache and _cache[0]() is data and _cache[1] == key:
        return _cache[2]
    images = _Images(data, device, runner)
    k = min(k, images.num_dims, len(images.raw))
    if images.num_dims <= MAX_COVARIANCE_DIMS:
        variances, basis = _top_eigenvectors(images.covariance(), k)
        method = "covariance matrix"
    else:
        variances, basis = _subspace_iteration(images, k, runner)
        method = "subspace iteration"
    pca = PCA(images.mean, basis.T.contiguous(), variances, len(images.raw), method)
    _cache[:] = [weakref.ref(data, lambda _: _cache.clear()), key, pca]
    return pca


_cache: list[Any] = []  # data set (weak reference), arguments, result


class _Images:
    """Training images as they are stored, converted to float64 a chunk at a time."""

    def __init__(self, data: Dataset, device: torch.device, runner: Runner) -> None:
        split, self.device, self.from_raw = data.train, device, ErrorScale.of(data.preprocessing).from_raw
        self.num_dims = torch.Size(split.shape).numel()
        count = min(len(split), MAX_IMAGES, max(1, MAX_BYTES // (self.num_dims * split.dtype.itemsize)))
        indices = torch.arange(count) * len(split) // count
        with runner.stage("reading training images", count) as tick:
            chunks = []
            for chunk in indices.split(IMAGES_PER_CHUNK):
                chunks.append(split.raw(chunk))
                tick(len(chunk))
        self.raw = torch.cat(chunks)
        self.mean = torch.zeros(self.num_dims, dtype=torch.float64, device=device)
        for chunk in self._chunks():
            self.mean += chunk.sum(0) / count

    def _chunks(self) -> Iterator[Tensor]:
        for chunk in self.raw.split(IMAGES_PER_CHUNK):
            yield self.from_raw(chunk.to(self.device)).double().flatten(1)

    def centered_chunks(self) -> Iterator[Tensor]:
        """Return the images less their mean, ``[IMAGES_PER_CHUNK, n]`` at a time."""
        return (chunk - self.mean for chunk in self._chunks())

    def covariance(self) -> Tensor:
        """Return the covariance matrix C (with 1/N), ``[n, n]``."""
        return _sum(x.T @ x for x in self.centered_chunks()) / len(self.raw)

    def total_variance(self) -> float:
        """Return the trace of C."""
        return sum(float(x.square().sum()) for x in self.centered_chunks()) / len(self.raw)

    def covariance_times(self, q: Tensor) -> Tensor:
        """Return ``C q`` for ``q [n, m]`` without storing C; products in float32, their sum in float64."""
        q = q.float()
        chunks = (x.float() for x in self.centered_chunks())
        return _sum((x.T @ (x @ q)).double() for x in chunks) / len(self.raw)


def _sum(terms: Iterable[Tensor]) -> Tensor:
    """Return the sum of tensors, of which only one is in memory at a time."""
    return functools.reduce(Tensor.add_, terms)


def _top_eigenvectors(matrix: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the ``k`` largest eigenvalues of a symmetric matrix in decreasing order, and eigenvectors ``[n, k]``."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return values[-k:].flip(0), vectors[:, -k:].flip(1)


def _subspace_iteration(images: _Images, k: int, runner: Runner) -> tuple[Tensor, Tensor]:
    """Return the ``k`` largest variances and directions ``[n, k]``; 1.5 k directions are iterated, for speed."""
    generator = torch.Generator().manual_seed(0)
    width = min(images.num_dims, k + max(16, k // 2))
    initial = torch.randn(images.num_dims, width, generator=generator, dtype=torch.float64)
    q = torch.linalg.qr(initial.to(images.device)).Q
    residual = total = images.total_variance()
    with runner.stage("principal components", MAX_ITERATIONS) as tick:
        for _ in range(MAX_ITERATIONS):
            product = images.covariance_times(q)
            variances, rotation = _top_eigenvectors(q.T @ product, k)
            previous, residual = residual, total - float(variances.sum())
            if previous - residual <= RELATIVE_TOL * previous:
                break
            q = torch.linalg.qr(product).Q
            tick(1)
    return variances, q @ rotation
