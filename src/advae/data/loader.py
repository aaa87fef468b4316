"""Training batches as a pure function of (seed, step, rank), resident or streamed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from advae.data.dataset import Split, check_batch_size
from advae.data.splits import permutation
from advae.errors import DataError
from advae.random import mix_seeds

PREFETCH_FACTOR = 4  # batches that each worker reads ahead


class BatchLoader:
    """Shuffled batches of a split, epoch after epoch, without the incomplete batch at the end of an epoch.

    Args:
        split: the examples; a resident split is moved to the device.
        batch_size: examples per batch on each rank.
        seed: of the shuffles.
        rank, world: this process and the number of processes; together they use ``batch_size * world`` per step.
        device: of the batches.
        workers: processes that read streamed data ahead; 0 reads in this process.

    Raises:
        ConfigError: if the batch size is below 1.
        DataError: if a batch is larger than the split.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        device: str | torch.device = "cpu",
        workers: int = 2,
    ) -> None:
        check_batch_size(split, batch_size, world)
        self.device = torch.device(device)
        self.split = split.to(self.device)
        self.batch_size, self.seed, self.workers = batch_size, seed, workers
        self.rank, self.world = rank, world
        self._cached_epoch, self._cached_order = -1, torch.empty(0, dtype=torch.int64)

    @property
    def steps_per_epoch(self) -> int:
        """Complete batches per epoch."""
        return len(self.split) // (self.batch_size * self.world)

    def indices(self, step: int) -> Tensor:
        """Return the indices of this rank's batch, int64 ``[B]``, on the device if the split is resident."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        start = (step_in_epoch * self.world + self.rank) * self.batch_size
        return self._epoch_order(epoch)[start : start + self.batch_size]

    def _epoch_order(self, epoch: int) -> Tensor:
        """Return the order of an epoch, shuffled on the CPU so that it is the same for every device."""
        if self._cached_epoch != epoch:
            order = permutation(len(self.split), mix_seeds(self.seed, epoch))
            self._cached_order = order.to(self.device) if self.split.resident else order
            self._cached_epoch = epoch
        return self._cached_order

    def __call__(self, step: int) -> Tensor:
        """Return the stored examples of a step, uint8 or float32 ``[B, *shape]`` on the device."""
        return self.split.raw(self.indices(step)).to(self.device)

    def stream(self, start: int = 0) -> Iterator[Tensor]:
        """Yield the batches of steps ``start``, ``start + 1``, … without end."""
        if not self.split.resident:
            yield from self._read_ahead(start)
        step = start
        while True:
            yield self(step)
            step += 1

    def _read_ahead(self, start: int) -> Iterator[Tensor]:
        """Yield batches of a streamed split, read by the workers."""
        loader: DataLoader[Any] = DataLoader(
            _BatchDataset(self.split),
            batch_sampler=_StepSampler(self, start),
            collate_fn=_identity,
            num_workers=self.workers,
            prefetch_factor=PREFETCH_FACTOR if self.workers else None,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # without it, the loader would advance the global generator
        )
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            yield batch.to(self.device, non_blocking=True)


class _StepSampler:
    """Batch sampler with the indices of step after step, without end."""

    def __init__(self, batches: BatchLoader, start: int) -> None:
        self.batches, self.start = batches, start

    def __iter__(self) -> Iterator[list[int]]:
        step = self.start
        while True:
            yield self.batches.indices(step).tolist()
            step += 1


class _BatchDataset(Dataset[Tensor]):
    """A split that workers read one batch at a time."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __getitem__(self, index: int) -> Tensor:
        return self.split.raw([index])[0]

    def __getitems__(self, indices: list[int]) -> Tensor | DataError:
        """Return the batch, or a DataError: raised in a worker, it would be wrapped in a traceback."""
        try:
            return self.split.raw(indices)
        except DataError as error:
            return error


def _identity(batch: Any) -> Any:
    """Return the batch, which is complete without collation."""
    return batch
