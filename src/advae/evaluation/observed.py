"""What an evaluation looks at: a split's images, observed once under a seed, and the likelihood that scores them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advae.data import Dataset
from advae.distributions import Distribution
from advae.distributions.discretised import DiscretisedNormal
from advae.distributions.normal import Normal
from advae.errors import ConfigError, nearest
from advae.model import LatentModel, seeded

SPLITS = ("train", "validation", "test")
CHUNK = 256


@dataclass(frozen=True)
class Observed:
    """Observations of one split, the same for the same seed.

    Args:
        data: the data set.
        split: "train", "validation" or "test".
        seed: of the observation protocol's noise and of every draw an estimator makes.
        limit: the first so many images only.
    """

    data: Dataset
    split: str = "test"
    seed: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ConfigError(f"there is no split {self.split!r}", remedy=nearest(self.split, SPLITS))
        if self.limit is not None and self.limit < 2:
            raise ConfigError("an evaluation needs at least 2 images", given=self.limit)

    @property
    def count(self) -> int:
        """How many images."""
        total = len(getattr(self.data, self.split))
        return min(total, self.limit) if self.limit else total

    def chunks(self, device: torch.device, size: int = CHUNK) -> Iterator[tuple[Tensor, Tensor]]:
        """Observations ``x [b, *x_shape]`` and stored examples on a device, ``size`` at a time, at most CHUNK.

        They are drawn CHUNK at a time whatever ``size`` is, so that all estimators see the same ones, and each
        CHUNK runs under random numbers of its own, so that a figure does not depend on what came before.
        """
        split = getattr(self.data, self.split)
        for start in range(0, self.count, CHUNK):
            raw = split.raw(torch.arange(start, min(start + CHUNK, self.count))).to(device)
            with seeded(self.seed * 1_000_003 + start, device):
                yield from zip(self.data.protocol.observe(raw).split(size), raw.split(size), strict=True)

    def parts(self, size: int) -> int:
        """How many chunks :meth:`chunks` gives."""
        whole, rest = divmod(self.count, CHUNK)
        return whole * math.ceil(CHUNK / size) + math.ceil(rest / size)

    def protocol(self, **more: Any) -> dict[str, Any]:
        """What a figure made from these observations must say of them."""
        described = self.data.protocol.describe()
        return {
            "data": self.data.name,
            "checksum": self.data.checksum,
            "split": self.split,
            "observation": described["name"],
            "seed": self.seed,
            **more,
        }

    def scores_bins(self, model: LatentModel) -> bool:
        """Whether 8-bit images are scored by the probabilities of their values, never by densities."""
        head = getattr(model.decoder, "head", None)
        return self.data.protocol.support == "8-bit" and issubclass(
            getattr(head, "distribution", object), Normal
        )


def likelihood(p: Distribution, bins: bool) -> Distribution:
    """``p`` as it scores images: with ``bins`` a normal is integrated over each 8-bit value's bin."""
    if bins and type(p) is Normal:
        return DiscretisedNormal(p.mean, p.log_scale)
    return p


def scored_as(bins: bool) -> str:
    """How a protocol says what :func:`likelihood` did."""
    return "bin probabilities" if bins else "as observed"


def unit_dims(model: LatentModel) -> int:
    """How many numbers an observation has."""
    return int(torch.Size(model.x_shape).numel())
