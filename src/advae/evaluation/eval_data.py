"""What an evaluation looks at: a split's images, observed once under a seed, and the likelihood that scores them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from advae.data import Dataset, mix
from advae.distributions import Distribution
from advae.distributions.discretized_normal import DiscretisedNormal
from advae.distributions.normal import Normal
from advae.errors import ConfigError, nearest
from advae.evaluation.resumable import ALONE, NOWHERE, Slot, Ticks, Work
from advae.model import LatentModel, seeded

SPLITS = ("train", "validation", "test")
CHUNK = 256


@dataclass(frozen=True)
class Part:
    """Some of the images.

    Attributes:
        x: observations ``[b, *x_shape]``.
        raw: the stored examples ``[b, *x_shape]``.
        start: the place of the first among all.
        seed: of the random numbers it runs under.
        slot: where an estimator may keep what it has so far.
        tick: to be told that so many ticks were done.
    """

    x: Tensor
    raw: Tensor
    start: int
    seed: int
    slot: Slot = NOWHERE
    tick: Ticks = field(default=lambda n: None)


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
        if self.limit is not None:
            self.refuse_too_few()

    @property
    def count(self) -> int:
        """How many images."""
        total = len(getattr(self.data, self.split))
        return total if self.limit is None else min(total, self.limit)

    def refuse_too_few(self) -> None:
        """See that there is something to judge by.

        Raises:
            ConfigError: there are fewer than two images, of which no error is known.
        """
        if self.count < 2:
            raise ConfigError("an evaluation needs at least 2 images", given=self.count)

    def starts(self, size: int) -> list[int]:
        """Where the parts begin, ``size`` images at a time and none across two CHUNKs."""
        chunks = range(0, self.count, CHUNK)
        return [start for c in chunks for start in range(c, min(c + CHUNK, self.count), min(size, CHUNK))]

    def reader(self, device: torch.device, size: int = CHUNK) -> Callable[[int], Part]:
        """Reads the part on a device that begins at one of :meth:`starts`.

        Images are observed CHUNK at a time whatever ``size`` is, so that all estimators see the same ones. Each
        part runs under random numbers of its own, so that what it finds does not depend on what came before.
        """
        split, size = getattr(self.data, self.split), min(size, CHUNK)
        chunk, x, raw = -1, torch.empty(0), torch.empty(0)

        def read(start: int) -> Part:
            nonlocal chunk, x, raw
            if start // CHUNK != chunk:
                chunk = start // CHUNK
                stop = min((chunk + 1) * CHUNK, self.count)
                raw = split.raw(torch.arange(chunk * CHUNK, stop)).to(device)
                with seeded(mix(self.seed, chunk), device):
                    x = self.data.protocol.observe(raw)
            own = slice(start % CHUNK, start % CHUNK + size)
            return Part(x[own], raw[own], start, mix(self.seed, start, 1))

        return read

    def parts(self, device: torch.device, size: int = CHUNK) -> Iterator[Part]:
        """All images, ``size`` at a time, at most CHUNK."""
        return map(self.reader(device, size), self.starts(size))

    def map(
        self,
        device: torch.device,
        compute: Callable[[Part], Mapping[str, Tensor]],
        *,
        size: int = CHUNK,
        protocol: Mapping[str, Any] | None = None,
        label: str = "evaluating",
        ticks: int = 1,
        work: Work = ALONE,
    ) -> dict[str, Tensor]:
        """What ``compute`` finds for each image, by name, ``[N, …]`` on the CPU in the order of the images.

        Every estimator's one loop over images, by :meth:`Work.each`; images of parts that were finished before are
        not read again.

        Args:
            device: where to work.
            compute: what to find, ``[B, …]`` each; it may keep its own state in ``part.slot``, and then ticks.
            size: images at a time, at most CHUNK.
            protocol: what the result depends on; unfinished work is only taken up under the same. None keeps none.
            label: for the progress bar.
            ticks: how often ``compute`` calls ``part.tick``; with 1 it does not, and is counted for it.
            work: how it is carried out.
        """
        size = min(size, CHUNK)
        read = self.reader(device, size)

        def found(start: int, slot: Slot, tick: Ticks) -> Mapping[str, Tensor]:
            part = replace(read(start), slot=slot, tick=tick)
            with seeded(part.seed, device):
                return compute(part)

        key = None if protocol is None else {**protocol, "label": label, "size": size, "n": self.count}
        return work.each(label, self.starts(size), found, key, ticks)

    def protocol(self, **more: Any) -> dict[str, Any]:
        """What a figure made from these observations must say of them."""
        described = self.data.protocol.describe()
        return {
            "data": self.data.name,
            "checksum": self.data.checksum,
            "split": self.split,
            "observation": described["name"],
            **({"binarise_seed": described["seed"]} if "seed" in described else {}),
            "seed": self.seed,
            **more,
        }

    def scores_bins(self, model: LatentModel) -> bool:
        """Whether 8-bit images are scored by the probabilities of their values, never by densities."""
        head = getattr(model.decoder, "head", None)
        scored = (
            issubclass(getattr(head, "distribution", object), Normal)
            or getattr(head, "support", "") == "8-bit"
        )
        return self.data.protocol.support == "8-bit" and scored


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
