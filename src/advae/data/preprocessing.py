"""Observation protocols: what a stored example becomes before a model sees it. Each runs where the data are.

v    stored example, 0..255, or real numbers    [B, ...]
x    observation                                [B, ...]

binarise-dynamic    x ~ Bernoulli(v / 255), drawn anew at each call
binarise-static     x ~ Bernoulli(v / 255), drawn once: a function of seed, split and place in the split
grey                x = v / 255, read by a Bernoulli likelihood as the probability of a one
dequantise          x = (v + u) / 256, u ~ Uniform[0, 1)
standardise         x = (v - mean) / std, of the training examples: one pair for images, one a feature
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advae.data import GOLDEN, MULTIPLIERS, mix
from advae.data.dataset import CHUNK, Indices, Problems, Protocol, Rows, Split
from advae.errors import ConfigError, DataError, nearest

__all__ = ["PROTOCOLS", "Protocol", "make_protocol", "protocol_from"]

Moments = float | Sequence[float]  # one for all, or one a feature
LAST_STEP = (
    1 - 2.0**-16
)  # float32 has 2⁻¹⁶ between neighbours below 256: v + u can then never round up to v + 1
SAMPLE = 20_000  # streamed examples that the mean and standard deviation are taken from


class _Of255(Protocol):
    """What the three protocols for a Bernoulli likelihood share: x counts in units of 255 grey levels."""

    def observe(self, raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return raw.to(torch.float32) / 255

    def to_grey(self, x: Tensor) -> Tensor:
        return 255 * x.to(torch.float32)


class Grey(_Of255):
    """x = v / 255."""

    name, support = "grey", "unit"


class BinariseDynamic(_Of255):
    """x ~ Bernoulli(v / 255), drawn anew at each call."""

    name, support = "binarise-dynamic", "binary"

    def observe(self, raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
        u = torch.rand(raw.shape, generator=generator, device=raw.device)
        return (255 * u < raw).to(torch.float32)  # 255 u < 255 for every float32 u < 1: white is always on


class BinariseStatic(_Of255):
    """x ~ Bernoulli(v / 255), drawn once for each example: the splits then hold 0 and 255 only."""

    name, support = "binarise-static", "binary"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fixed(self, split: Split, ordinal: int) -> Split:
        drawn = Binarised(split.source, mix(self.seed, ordinal))
        if split.values is None:
            return Split(split.name, None, split.labels, drawn)
        values = torch.empty_like(split.values)
        for start in range(0, len(split), CHUNK):
            indices = np.arange(start, min(start + CHUNK, len(split)))
            values[start : start + CHUNK] = torch.from_numpy(drawn.read(indices))
        return Split(split.name, values, split.labels)

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"seed": self.seed}


class Dequantise(Protocol):
    """x = (v + u) / 256 with u ~ Uniform[0, 1); ⌊256 x⌋ is always v again."""

    name, support = "dequantise", "8-bit"

    def observe(self, raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
        u = torch.rand(raw.shape, generator=generator, device=raw.device)
        return (raw + u.clamp_(max=LAST_STEP)) / 256

    def to_grey(self, x: Tensor) -> Tensor:
        return 256 * x.to(torch.float32) - 0.5  # the middle of the noise


class Standardise(Protocol):
    """x = (v - mean) / std.

    Args:
        mean, std: scalars, or one a feature, in the units of the stored examples.
        grey: (low, high), the stored values that stand for grey levels 0 and 255; None for plain vectors.
    """

    name, support, eight_bit = "standardise", "real", False

    def __init__(self, mean: Moments, std: Moments, grey: tuple[float, float] | None = None) -> None:
        self.mean, self.std = torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)
        self.low, self.step = (grey[0], (grey[1] - grey[0]) / 255) if grey else (0.0, 1.0)
        self.grey, self.unit = grey, "grey levels" if grey else "data units"
        self._placed: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def _moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation on the device of ``like``, copied there once."""
        if like.device not in self._placed:
            self._placed[like.device] = self.mean.to(like.device), self.std.to(like.device)
        return self._placed[like.device]

    def observe(self, raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
        mean, std = self._moments(raw)
        return (raw.to(torch.float32) - mean) / std

    def to_grey(self, x: Tensor) -> Tensor:
        mean, std = self._moments(x)
        return self.raw_grey(x.to(torch.float32) * std + mean)

    def raw_grey(self, raw: Tensor) -> Tensor:
        return (raw.to(torch.float32) - self.low) / self.step

    def describe(self) -> dict[str, Any]:
        grey = list(self.grey) if self.grey else None
        return super().describe() | {"mean": self.mean.tolist(), "std": self.std.tolist(), "grey": grey}

    @classmethod
    def fitted(cls, train: Split) -> Standardise:
        """Mean, standard deviation and grey scale of the training examples (streamed: of 20,000 of them).

        Raises:
            DataError: a feature is so large that its square overflows.
        """
        mean, variance, low, high = _moments_of(train)
        # A constant feature has no scale: with 1 it becomes 0. Rounding leaves a variance of (10⁻¹⁶ mean)².
        constant = variance <= (1e-7 * np.abs(mean)) ** 2
        std = np.sqrt(np.where(constant, 1.0, variance))
        if not (np.isfinite(mean).all() and np.isfinite(std.astype(np.float32)).all()):
            raise DataError("the training examples are too large to standardise", remedy="rescale the data")
        return cls(mean.tolist(), std.tolist(), _grey_range(train, low, high))


class Binarised(Rows):
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
    places = np.arange(1, width + 1, dtype=np.uint64) * np.uint64(GOLDEN)
    starts = _scrambled(indices.astype(np.uint64) * np.uint64(GOLDEN) + np.uint64(key))
    return _scrambled(starts[:, None] + places[None, :]) >> np.uint64(40)


def _scrambled(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The output function of splitmix64, elementwise; array arithmetic wraps at 2⁶⁴."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(MULTIPLIERS[0])
    state = (state ^ (state >> np.uint64(27))) * np.uint64(MULTIPLIERS[1])
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


def _grey_range(train: Split, low: float, high: float) -> tuple[float, float] | None:
    """The stored values that stand for black and white: 0..255, 0..1, or the range of the training images."""
    if len(train.shape) != 3:
        return None
    if train.dtype == torch.uint8:
        return 0.0, 255.0
    if low >= 0 and high <= 255:
        return 0.0, 1.0 if high <= 1 else 255.0
    return low, high


PROTOCOLS: dict[str, type[Protocol]] = {
    kind.name: kind for kind in (BinariseDynamic, BinariseStatic, Grey, Dequantise, Standardise)
}


def protocol_class(name: str) -> type[Protocol]:
    """The class of a protocol.

    Raises:
        ConfigError: no protocol has this name.
    """
    if name not in PROTOCOLS:
        raise ConfigError("unknown protocol (data.protocol)", given=name, remedy=nearest(name, PROTOCOLS))
    return PROTOCOLS[name]


def make_protocol(name: str, train: Split, binarise_seed: int = 0) -> Protocol:
    """The named protocol, fitted to the training examples where it has something to fit."""
    kind = protocol_class(name)
    if kind is Standardise:
        return Standardise.fitted(train)
    return BinariseStatic(binarise_seed) if kind is BinariseStatic else kind()


def protocol_from(description: dict[str, Any]) -> Protocol:
    """The protocol that gave this :meth:`Protocol.describe`, without its data.

    Raises:
        ConfigError: no protocol has this name.
    """
    kind = protocol_class(description["name"])
    if kind is Standardise:
        grey = description["grey"]
        return Standardise(description["mean"], description["std"], tuple(grey) if grey else None)
    return BinariseStatic(description["seed"]) if kind is BinariseStatic else kind()
