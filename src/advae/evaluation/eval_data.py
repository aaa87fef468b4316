"""Seeded evaluation batches of a split, and the likelihood that scores them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from advae.data import Dataset, Preprocessing, Split
from advae.distributions import Distribution
from advae.distributions.discretized_normal import DiscretizedNormal
from advae.distributions.normal import Normal, NormalHead
from advae.errors import ConfigError, nearest
from advae.evaluation.resumable import LOCAL, NOT_STORED, PartialResult, Runner, Ticks
from advae.model import LatentModel
from advae.random import mix_seeds, seeded

SPLITS = ("train", "validation", "test")
CHUNK_SIZE = 256  # examples preprocessed under one seed; the largest batch


@dataclass(frozen=True)
class Batch:
    """Consecutive examples.

    Attributes:
        x: observations ``[b, *x_shape]``.
        raw: the stored examples ``[b, *x_shape]``.
        start: index of the first one.
        seed: of what an estimator samples for it.
        partial: where an estimator may store its state.
        tick: progress callback.
    """

    x: Tensor
    raw: Tensor
    start: int
    seed: int
    partial: PartialResult = NOT_STORED
    tick: Ticks = field(default=lambda n: None)


class ErrorScale(NamedTuple):
    """The scale of reconstruction errors: their unit, and maps from observations and from stored examples to it."""

    unit: str
    from_x: Callable[[Tensor], Tensor]
    from_raw: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, preprocessing: Preprocessing) -> ErrorScale:
        """Return gray levels for images, and for tables the standard deviations of their columns.

        In the units of its columns, the error of a table would be that of the column with the largest numbers.
        """
        if preprocessing.unit == "gray levels":
            return cls(preprocessing.unit, preprocessing.to_gray, preprocessing.raw_to_gray)
        return cls("standard deviations", lambda x: x, preprocessing.apply)


class OtherExamples(NamedTuple):
    """Examples of other data than those that a model was trained on: their name, checksum and values."""

    name: str
    checksum: str
    split: Split


@dataclass(frozen=True)
class EvalData:
    """Observations of one split; a pure function of the seed.

    Args:
        data: the data set; baselines and sample metrics use its training examples.
        split: "train", "validation" or "test".
        seed: of the preprocessing's noise and of all that estimators sample.
        limit: use the first examples only, at most this many.
        other: other examples, instead of those of ``split``.
    """

    data: Dataset
    split: str = "test"
    seed: int = 0
    limit: int | None = None
    other: OtherExamples | None = None

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ConfigError(f"Unknown split {self.split!r}.", fix=nearest(self.split, SPLITS))
        if self.limit is not None:
            self.check_min_size()

    @property
    def examples(self) -> Split:
        """The stored examples, without the limit."""
        split: Split = getattr(self.data, self.split)
        return self.other.split if self.other else split

    @property
    def count(self) -> int:
        """The number of examples."""
        total = len(self.examples)
        return total if self.limit is None else min(total, self.limit)

    def check_min_size(self) -> None:
        """Raise ConfigError for fewer than two examples: their standard error is undefined."""
        if self.count < 2:
            raise ConfigError("An evaluation needs at least 2 examples.", given=self.count)

    def batch_starts(self, size: int) -> list[int]:
        """Return the first index of each batch of at most ``size`` examples; no batch crosses a chunk's end."""
        chunks = range(0, self.count, CHUNK_SIZE)
        size = min(size, CHUNK_SIZE)
        return [i for c in chunks for i in range(c, min(c + CHUNK_SIZE, self.count), size)]

    def batch_reader(self, device: torch.device, size: int = CHUNK_SIZE) -> Callable[[int], Batch]:
        """Return a function that reads the batch at one of :meth:`batch_starts`.

        Chunks are preprocessed whole, so that all estimators see the same observations. Each batch has its own seed.
        """
        split, size = self.examples, min(size, CHUNK_SIZE)
        chunk, x, raw = -1, torch.empty(0), torch.empty(0)

        def read(start: int) -> Batch:
            nonlocal chunk, x, raw
            if start // CHUNK_SIZE != chunk:
                chunk = start // CHUNK_SIZE
                stop = min((chunk + 1) * CHUNK_SIZE, self.count)
                raw = split.raw(torch.arange(chunk * CHUNK_SIZE, stop)).to(device)
                with seeded(mix_seeds(self.seed, chunk), device):
                    x = self.data.preprocessing.apply(raw)
            rows = slice(start % CHUNK_SIZE, start % CHUNK_SIZE + size)
            return Batch(x[rows], raw[rows], start, mix_seeds(self.seed, start, 1))

        return read

    def batches(self, device: torch.device, size: int = CHUNK_SIZE) -> Iterator[Batch]:
        """Return all batches of at most ``size`` examples."""
        return map(self.batch_reader(device, size), self.batch_starts(size))

    def map(
        self,
        device: torch.device,
        compute: Callable[[Batch], Mapping[str, Tensor]],
        *,
        size: int = CHUNK_SIZE,
        protocol: Mapping[str, Any] | None = None,
        label: str = "evaluating",
        ticks: int = 1,
        runner: Runner = LOCAL,
    ) -> dict[str, Tensor]:
        """Return values for each example by name, ``[N, …]``, on the CPU, by :meth:`Runner.map`.

        The caller's grad and inference modes have no effect.

        Args:
            compute: returns the values of a batch, ``[b, …]`` each; it may store its state in ``batch.partial``.
            size: of a batch, at most CHUNK_SIZE.
            protocol: what the values depend on; partial results are only used under an equal one. None stores none.
            label: for the progress bar.
            ticks: per batch, reported by ``compute`` through ``batch.tick``; 1 is counted by the runner.
        """
        size = min(size, CHUNK_SIZE)
        read = self.batch_reader(device, size)

        def compute_batch(start: int, partial: PartialResult, tick: Ticks) -> Mapping[str, Tensor]:
            with torch.inference_mode(False), torch.enable_grad():
                batch = replace(read(start), partial=partial, tick=tick)
                with seeded(batch.seed, device):
                    return compute(batch)

        key = None if protocol is None else {**protocol, "label": label, "size": size, "n": self.count}
        return runner.map(label, self.batch_starts(size), compute_batch, key, ticks)

    def protocol(self, **more: Any) -> dict[str, Any]:
        """Return the part of an estimate's protocol that describes the observations, with ``more`` after it."""
        preprocessing, origin = self.data.preprocessing.describe(), self.other or self.data
        return {
            "data": origin.name,
            "checksum": origin.checksum,
            "split": self.other.split.name if self.other else self.split,
            "preprocessing": preprocessing["name"],
            **({"binarize_seed": preprocessing["seed"]} if "seed" in preprocessing else {}),
            "seed": self.seed,
            **more,
        }

    def with_neighbor(self, batch: Batch) -> Tensor:
        """Return the batch's observations; a single one is followed by another, as methods pair neighbors."""
        if len(batch.x) > 1:
            return batch.x
        other = self.examples.raw(torch.arange(1)).to(batch.x.device)
        return torch.cat([batch.x, self.data.preprocessing.apply(other)])

    def uses_discretized_likelihood(self, model: LatentModel) -> bool:
        """Return whether 8-bit images are scored by probabilities of their levels, not by densities."""
        return scores_levels(model, self.data.preprocessing)


def scores_levels(model: LatentModel, preprocessing: Preprocessing) -> bool:
    """Return whether the model scores observations by probabilities of 8-bit levels, not by densities."""
    is_normal = isinstance(getattr(model.decoder, "head", None), NormalHead)
    return preprocessing.support == "8-bit" and (is_normal or model.likelihood_support == "8-bit")


def scoring_distribution(p: Distribution, discretize: bool) -> Distribution:
    """Return ``p`` as it scores examples: with ``discretize``, a normal integrated over the bin of each level."""
    if discretize and type(p) is Normal:
        return DiscretizedNormal(p.mean, p.log_scale)
    return p


def likelihood_description(discretize: bool) -> str:
    """Return how a protocol describes :func:`scoring_distribution`."""
    return "bin probabilities" if discretize else "as observed"


def num_dims(model: LatentModel) -> int:
    """Return how many numbers an observation has."""
    return int(torch.Size(model.x_shape).numel())
