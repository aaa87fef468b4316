"""Observation preprocessings: what a stored example becomes before a model sees it. Each runs where the data are.

v    stored example, 0..255, or real numbers    [B, ...]
x    observation                                [B, ...]

binarize-dynamic    x ~ Bernoulli(v / 255), drawn anew at each call
binarize-static     x ~ Bernoulli(v / 255), drawn once: a function of seed, split and place in the split
gray                x = v / 255, read by a Bernoulli likelihood as the probability of a one
dequantize          x = (v + u) / 256, u ~ Uniform[0, 1)
standardize         x = (v - mean) / std, of the training examples: one pair for images, one a feature
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advae.data.dataset import CHUNK, Indices, Preprocessing, Problems, Rows, Split
from advae.errors import ConfigError, DataError, nearest
from advae.random import SPLITMIX_INCREMENT, SPLITMIX_MULTIPLIERS, mix_seeds

__all__ = ["PREPROCESSINGS", "Preprocessing", "make_preprocessing", "preprocessing_from_dict"]

Moments = float | Sequence[float]  # one for all, or one a feature
LAST_STEP = (
    1 - 2.0**-16
)  # float32 has 2⁻¹⁶ between neighbours below 256: v + u can then never round up to v + 1
SAMPLE = 20_000  # streamed examples that the mean and standard deviation are taken from


class _Of255(Preprocessing):
    """What the three preprocessings for a Bernoulli likelihood share: x counts in units of 255 gray levels."""

    def apply(self, raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return raw.to(torch.float32) / 255

    def to_gray(self, x: Tensor) -> Tensor:
        return 255 * x.to(torch.float32)


class Gray(_Of255):
    """x = v / 255."""

    name, support = "gray", "unit"


class BinarizeDynamic(_Of255):
    """x ~ Bernoulli(v / 255), drawn anew at each call."""

    name, support = "binarize-dynamic", "binary"

    def apply(self, raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
        u = torch.rand(raw.shape, generator=generator, device=raw.device)
        return (255 * u < raw).to(torch.float32)  # 255 u < 255 for every float32 u < 1: white is always on


class BinarizeStatic(_Of255):
    """x ~ Bernoulli(v / 255), drawn once for each example: the splits then hold 0 and 255 only."""

    name, support = "binarize-static", "binary"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fixed(self, split: Split, ordinal: int) -> Split:
        drawn = Binarized(split.source, mix_seeds(self.seed, ordinal))
        if split.values is None:
            return Split(split.name, None, split.labels, drawn)
        values = torch.empty_like(split.values)
        for start in range(0, len(split), CHUNK):
            indices = np.arange(start, min(start + CHUNK, len(split)))
            values[start : start + CHUNK] = torch.from_numpy(drawn.read(indices))
        return Split(split.name, values, split.labels)

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"seed": self.seed}


class Dequantize(Preprocessing):
    """x = (v + u) / 256 with u ~ Uniform[0, 1); ⌊256 x⌋ is always v again."""

    name, support = "dequantize", "8-bit"

    def apply(self, raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
        u = torch.rand(raw.shape, generator=generator, device=raw.device)
        return (raw + u.clamp_(max=LAST_STEP)) / 256

    def to_gray(self, x: Tensor) -> Tensor:
        return 256 * x.to(torch.float32) - 0.5  # the middle of the noise


class Standardize(Preprocessing):
    """x = (v - mean) / std.

    Args:
        mean, std: scalars, or one a feature, in the units of the stored examples.
        gray: (low, high), the stored values that stand for gray levels 0 and 255; None for plain vectors.
    """

    name, support, eight_bit = "standardize", "real", False

    def __init__(self, mean: Moments, std: Moments, gray: tuple[float, float] | None = None) -> None:
        self.mean, self.std = torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)
        self.low, self.step = (gray[0], (gray[1] - gray[0]) / 255) if gray else (0.0, 1.0)
        self.gray, self.unit = gray, "gray levels" if gray else "data units"
        self._placed: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def _moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation on the device of ``like``, copied there once."""
        if like.device not in self._placed:
            self._placed[like.device] = self.mean.to(like.device), self.std.to(like.device)
        return self._placed[like.device]

    def apply(self, raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
        mean, std = self._moments(raw)
        return (raw.to(torch.float32) - mean) / std

    def to_gray(self, x: Tensor) -> Tensor:
        mean, std = self._moments(x)
        return self.raw_to_gray(x.to(torch.float32) * std + mean)

    def raw_to_gray(self, raw: Tensor) -> Tensor:
        return (raw.to(torch.float32) - self.low) / self.step

    def describe(self) -> dict[str, Any]:
        gray = list(self.gray) if self.gray else None
        return super().describe() | {"mean": self.mean.tolist(), "std": self.std.tolist(), "gray": gray}

    @classmethod
    def fitted(cls, train: Split) -> Standardize:
        """Mean, standard deviation and gray scale of the training examples (streamed: of 20,000 of them).

        Raises:
            DataError: a feature is so large that its square overflows.
        """
        mean, variance, low, high = _moments_of(train)
        # A constant feature has no scale: with 1 it becomes 0. Rounding leaves a variance of (10⁻¹⁶ mean)².
        constant = variance <= (1e-7 * np.abs(mean)) ** 2
        std = np.sqrt(np.where(constant, 1.0, variance))
        if not (np.isfinite(mean).all() and np.isfinite(std.astype(np.float32)).all()):
            raise DataError("the training examples are too large to standardize", fix="rescale the data")
        return cls(mean.tolist(), std.tolist(), _gray_range(train, low, high))


class Binarized(Rows):
    """Rows of uint8 values drawn to 0 or 255, each by its place and a key."""

    def __init__(self, source: Tensor | Rows, key: int) -> None:
        self.source, self.key = source, key
        self.dtype = torch.uint8
        self.shape = tuple(source.shape[1:]) if isinstance(source, Tensor) else source.shape

    def __len__(self) -> int:
        return len(self.source)

    def read(self, indices: Indices, problems: Problems | None = None) -> npt.NDArray[np.uint8]:
        if isinstance(self.source, Tensor):
            raw = self.source[torch.from_numpy(indices)].numpy()
        else:
            raw = self.source.read(indices, problems)
        level = raw.reshape(len(raw), -1).astype(np.uint64) << np.uint64(24)
        on = (
            hashed_bits(self.key, indices, level.shape[1]) * np.uint64(255) < level
        )  # u < v / 255, in integers
        return (on * np.uint8(255)).reshape(raw.shape)


def hashed_bits(key: int, indices: Indices, width: int) -> npt.NDArray[np.uint64]:
    """24 random bits for each of ``width`` places of each example, by splitmix64 used as a counter.

    Returns:
        Integers in [0, 2²⁴), shape [B, width]: a function of key, index and place.
    """
    places = np.arange(1, width + 1, dtype=np.uint64) * np.uint64(SPLITMIX_INCREMENT)
    starts = _scrambled(indices.astype(np.uint64) * np.uint64(SPLITMIX_INCREMENT) + np.uint64(key))
    return _scrambled(starts[:, None] + places[None, :]) >> np.uint64(40)


def _scrambled(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The output function of splitmix64, elementwise; array arithmetic wraps at 2⁶⁴."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(SPLITMIX_MULTIPLIERS[0])
    state = (state ^ (state >> np.uint64(27))) * np.uint64(SPLITMIX_MULTIPLIERS[1])
    return state ^ (state >> np.uint64(31))


def _moments_of(train: Split) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float, float]:
    """Mean and variance (a feature, or scalars for images), least and greatest value, in one pass.

    Chunks are merged by the update of Chan, Golub and LeVeque (1979), in float64.
    """
    step = 1 if train.resident else max(1, len(train) // SAMPLE)
    axis = 0 if len(train.shape) == 1 else None
    count, mean, squares, low, high = 0, np.float64(0), np.float64(0), np.inf, -np.inf
    chosen = range(0, len(train), step)
    for start in range(0, len(chosen), CHUNK):
        v = train.raw(chosen[start : start + CHUNK]).cpu().numpy().astype(np.float64)
        n = v.shape[0] if axis == 0 else v.size
        shift = v.mean(axis) - mean
        squares = squares + v.var(axis) * n + shift**2 * count * n / (count + n)
        mean, count = mean + shift * n / (count + n), count + n
        low, high = min(low, v.min()), max(high, v.max())
    return np.asarray(mean), np.asarray(squares / count), float(low), float(high)


def _gray_range(train: Split, low: float, high: float) -> tuple[float, float] | None:
    """The stored values that stand for black and white: 0..255, 0..1, or the range of the training images."""
    if len(train.shape) != 3:
        return None
    if train.dtype == torch.uint8:
        return 0.0, 255.0
    if low >= 0 and high <= 255:
        return 0.0, 1.0 if high <= 1 else 255.0
    return low, high


PREPROCESSINGS: dict[str, type[Preprocessing]] = {
    kind.name: kind for kind in (BinarizeDynamic, BinarizeStatic, Gray, Dequantize, Standardize)
}


def preprocessing_class(name: str) -> type[Preprocessing]:
    """The class of a preprocessing.

    Raises:
        ConfigError: no preprocessing has this name.
    """
    if name not in PREPROCESSINGS:
        raise ConfigError("unknown preprocessing (data.preprocessing)", given=name, fix=nearest(name, PREPROCESSINGS))
    return PREPROCESSINGS[name]


def make_preprocessing(name: str, train: Split, binarize_seed: int = 0) -> Preprocessing:
    """The named preprocessing, fitted to the training examples where it has something to fit."""
    kind = preprocessing_class(name)
    if kind is Standardize:
        return Standardize.fitted(train)
    return BinarizeStatic(binarize_seed) if kind is BinarizeStatic else kind()


def preprocessing_from_dict(description: dict[str, Any]) -> Preprocessing:
    """The preprocessing that gave this :meth:`Preprocessing.describe`, without its data.

    Raises:
        ConfigError: no preprocessing has this name.
    """
    kind = preprocessing_class(description["name"])
    if kind is Standardize:
        gray = description["gray"]
        return Standardize(description["mean"], description["std"], tuple(gray) if gray else None)
    return BinarizeStatic(description["seed"]) if kind is BinarizeStatic else kind()
