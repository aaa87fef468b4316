"""Preprocessing: how a stored example becomes an observation, on the device of the data.

v    stored example: 0..255, or real numbers    [B, ...]
x    observation                                [B, ...]

binarize-dynamic    x ~ Bernoulli(v / 255), sampled in each call
binarize-static     x ~ Bernoulli(v / 255), sampled once: a function of seed, split and index in the split
gray                x = v / 255, which a Bernoulli likelihood reads as the probability of a one
dequantize          x = (v + u) / 256, u ~ Uniform[0, 1)
standardize         x = (v - mean) / std over the training examples: one pair for images, one per feature for vectors
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advae.data.dataset import IndexedExamples, Indices, Preprocessing, ReadErrors, Split, chunk_ranges
from advae.errors import ConfigError, DataError, nearest
from advae.random import SPLITMIX_INCREMENT, SPLITMIX_MULTIPLIERS, mix_seeds

__all__ = ["PREPROCESSINGS", "Preprocessing", "make_preprocessing", "preprocessing_from_dict"]

AUTO = "auto"
Moments = float | Sequence[float]  # one for all values, or one per feature
# Below 256, neighbors in float32 differ by at least 2⁻¹⁶: v + MAX_NOISE cannot round up to v + 1.
MAX_NOISE = 1 - 2.0**-16
NUM_EXAMPLES_FOR_MOMENTS = 20_000  # streamed examples from which mean and standard deviation are computed
# Standard deviations below this part of the mean are rounding: the feature is constant.
MAX_RELATIVE_ROUNDING = {torch.uint8: 1e-7, torch.float32: 1e-7, torch.float64: 1e-14}


class _Divide255(Preprocessing):
    """Base class of preprocessing for a Bernoulli likelihood, with observations in units of 255 gray levels."""

    def apply(self, raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return raw.to(torch.float32) / 255

    def to_gray(self, x: Tensor) -> Tensor:
        return 255 * x.to(torch.float32)


class Gray(_Divide255):
    """x = v / 255."""

    name, support = "gray", "unit"


class BinarizeDynamic(_Divide255):
    """x ~ Bernoulli(v / 255), sampled in each call."""

    name, support = "binarize-dynamic", "binary"

    def apply(self, raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
        u = torch.rand(raw.shape, generator=generator, device=raw.device, dtype=torch.float32)
        return (255 * u < raw).to(torch.float32)  # 255 u < 255 for every float32 u < 1: white is always 1


class BinarizeStatic(_Divide255):
    """x ~ Bernoulli(v / 255), sampled once per example: prepared splits contain 0 and 255 only."""

    name, support = "binarize-static", "binary"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def prepare_split(self, split: Split, ordinal: int) -> Split:
        examples = BinarizedExamples(split.storage, mix_seeds(self.seed, ordinal))
        if split.values is None:
            return Split(split.name, None, split.labels, examples)
        values = torch.empty_like(split.values)
        for chunk in chunk_ranges(len(split)):
            binary = examples.read(np.arange(chunk.start, chunk.stop))
            values[chunk.start : chunk.stop] = torch.from_numpy(binary)
        return Split(split.name, values, split.labels)

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"seed": self.seed}


class Dequantize(Preprocessing):
    """x = (v + u) / 256 with u ~ Uniform[0, 1); ⌊256 x⌋ = v."""

    name, support = "dequantize", "8-bit"

    def apply(self, raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
        u = torch.rand(raw.shape, generator=generator, device=raw.device, dtype=torch.float32)
        return (raw + u.clamp_(max=MAX_NOISE)) / 256

    def to_gray(self, x: Tensor) -> Tensor:
        return 256 * x.to(torch.float32) - 0.5  # the mean of the noise


class Standardize(Preprocessing):
    """x = (v - mean) / std.

    Args:
        mean, std: scalars, or one per feature, in the units of the stored examples.
        gray: (low, high), the stored values of gray levels 0 and 255; None for vectors.
        dtype: float64 for examples stored as float64, which have large offsets: they are centered before they are
            rounded to float32, and :meth:`to_gray` returns float64.
    """

    name, support, eight_bit = "standardize", "real", False

    def __init__(
        self,
        mean: Moments,
        std: Moments,
        gray: tuple[float, float] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.mean, self.std, self.dtype = (
            torch.tensor(mean, dtype=dtype),
            torch.tensor(std, dtype=dtype),
            dtype,
        )
        self.low, self.step = (gray[0], (gray[1] - gray[0]) / 255) if gray else (0.0, 1.0)
        self.gray, self.unit = gray, "gray levels" if gray else "data units"
        self._moments_on: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def _moments(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation on a device, copied there once."""
        if device not in self._moments_on:
            self._moments_on[device] = self.mean.to(device), self.std.to(device)
        return self._moments_on[device]

    def apply(self, raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
        mean, std = self._moments(raw.device)
        return ((raw.to(self.dtype) - mean) / std).to(torch.float32)

    def to_gray(self, x: Tensor) -> Tensor:
        mean, std = self._moments(x.device)
        return self.raw_to_gray(x.to(self.dtype) * std + mean)

    def raw_to_gray(self, raw: Tensor) -> Tensor:
        return (raw.to(self.dtype) - self.low) / self.step

    def describe(self) -> dict[str, Any]:
        gray = list(self.gray) if self.gray else None
        wide = {"dtype": "float64"} if self.dtype == torch.float64 else {}
        return (
            super().describe() | {"mean": self.mean.tolist(), "std": self.std.tolist(), "gray": gray} | wide
        )

    @classmethod
    def fit(cls, train: Split) -> Standardize:
        """Compute mean, standard deviation and gray scale of training examples (streamed: of 20,000 of them).

        Raises:
            DataError: if the square of a feature overflows.
        """
        mean, variance, low, high = _moments(train)
        # A constant feature has no scale and becomes 0. Rounding leaves a variance of about (10⁻¹⁶ mean)².
        is_constant = variance <= (MAX_RELATIVE_ROUNDING[train.dtype] * np.abs(mean)) ** 2
        std = np.sqrt(np.where(is_constant, 1.0, variance))
        if not (np.isfinite(mean).all() and np.isfinite(std.astype(np.float32)).all()):
            raise DataError("The training examples are too large to standardize.", fix="rescale the data")
        dtype = torch.float64 if train.dtype == torch.float64 else torch.float32
        return cls(mean.tolist(), std.tolist(), _gray_range(train, low, high), dtype)


class BinarizedExamples(IndexedExamples):
    """Examples with uint8 values binarized to 0 or 255, each by its index and a key."""

    def __init__(self, source: Tensor | IndexedExamples, key: int) -> None:
        self.source, self.key = source, key
        self.dtype = torch.uint8
        self.shape = tuple(source.shape[1:]) if isinstance(source, Tensor) else source.shape

    def __len__(self) -> int:
        return len(self.source)

    def read(self, indices: Indices, errors: ReadErrors | None = None) -> npt.NDArray[np.uint8]:
        if isinstance(self.source, Tensor):
            raw = self.source[torch.from_numpy(indices)].numpy()
        else:
            raw = self.source.read(indices, errors)
        level = raw.reshape(len(raw), -1).astype(np.uint64) << np.uint64(24)
        bits = hashed_bits(self.key, indices, level.shape[1])
        is_one = bits * np.uint64(255) < level  # u < v / 255, in integers
        return (is_one * np.uint8(255)).reshape(raw.shape)


def hashed_bits(key: int, indices: Indices, width: int) -> npt.NDArray[np.uint64]:
    """Return 24 random bits for each of ``width`` values per example, by splitmix64 used as a counter.

    Returns:
        Integers in [0, 2²⁴), ``[B, width]``: a function of key, index and position.
    """
    increment = np.uint64(SPLITMIX_INCREMENT)
    positions = np.arange(1, width + 1, dtype=np.uint64) * increment
    starts = _splitmix_output(indices.astype(np.uint64) * increment + np.uint64(key))
    return _splitmix_output(starts[:, None] + positions[None, :]) >> np.uint64(40)


def _splitmix_output(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Apply the output function of splitmix64 elementwise, modulo 2⁶⁴."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(SPLITMIX_MULTIPLIERS[0])
    state = (state ^ (state >> np.uint64(27))) * np.uint64(SPLITMIX_MULTIPLIERS[1])
    return state ^ (state >> np.uint64(31))


def _moments(train: Split) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float, float]:
    """Return mean and variance (per feature, or scalars for images), minimum and maximum, in one pass.

    Chunks are merged by the update of Chan, Golub and LeVeque (1979), in float64.
    """
    step = 1 if train.resident else max(1, len(train) // NUM_EXAMPLES_FOR_MOMENTS)
    axis = 0 if len(train.shape) == 1 else None
    count, mean, squares, low, high = 0, np.float64(0), np.float64(0), np.inf, -np.inf
    indices = range(0, len(train), step)
    for chunk in chunk_ranges(len(indices)):
        v = train.raw(indices[chunk.start : chunk.stop]).cpu().numpy().astype(np.float64)
        n = v.shape[0] if axis == 0 else v.size
        shift = v.mean(axis) - mean
        squares = squares + v.var(axis) * n + shift**2 * count * n / (count + n)
        mean, count = mean + shift * n / (count + n), count + n
        low, high = min(low, v.min()), max(high, v.max())
    return np.asarray(mean), np.asarray(squares / count), float(low), float(high)


def _gray_range(train: Split, low: float, high: float) -> tuple[float, float] | None:
    """Return the stored values of black and white: 0..255, 0..1, or the range of the training images."""
    if len(train.shape) != 3:
        return None
    if train.dtype == torch.uint8:
        return 0.0, 255.0
    if low >= 0 and high <= 255:
        return 0.0, 1.0 if high <= 1 else 255.0
    return low, high


PREPROCESSINGS: dict[str, type[Preprocessing]] = {
    cls.name: cls for cls in (BinarizeDynamic, BinarizeStatic, Gray, Dequantize, Standardize)
}


def preprocessing_class(name: str) -> type[Preprocessing]:
    """Return the class of a name; raise ConfigError if there is none."""
    if name not in PREPROCESSINGS:
        fix = nearest(name, [AUTO, *PREPROCESSINGS])
        raise ConfigError("data.preprocessing is unknown.", given=name, fix=fix)
    return PREPROCESSINGS[name]


def make_preprocessing(name: str, train: Split, binarize_seed: int = 0) -> Preprocessing:
    """Return the named preprocessing, fitted to the training examples if it has parameters.

    ``auto`` is dequantize for 8-bit images, else standardize.
    """
    if name == AUTO:
        name = Dequantize.name if len(train.shape) == 3 and train.dtype == torch.uint8 else Standardize.name
    cls = preprocessing_class(name)
    if cls is Standardize:
        return Standardize.fit(train)
    return BinarizeStatic(binarize_seed) if cls is BinarizeStatic else cls()


def preprocessing_from_dict(description: dict[str, Any]) -> Preprocessing:
    """Return the preprocessing that :meth:`Preprocessing.describe` described.

    Raises:
        ConfigError: if the name is unknown.
    """
    cls = preprocessing_class(description["name"])
    if cls is Standardize:
        gray = description["gray"]
        dtype = torch.float64 if description.get("dtype") == "float64" else torch.float32
        return Standardize(description["mean"], description["std"], tuple(gray) if gray else None, dtype)
    return BinarizeStatic(description["seed"]) if cls is BinarizeStatic else cls()
