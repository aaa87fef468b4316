"""Training batches: the batch of a step is a pure function of (seed, step, rank), resident or streamed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from advae.data.dataset import Split, check_batch_size
from advae.errors import DataError
from advae.random import mix_seeds

PREFETCH = 4  # batches that each worker reads ahead


class BatchLoader:
    """Shuffled batches of a split, epoch after epoch; the tail of an epoch that fills no batch is dropped.

    Args:
        split: what to draw from; a resident split is moved to the device.
        batch_size: examples a batch on each rank.
        seed: of the shuffles.
        rank, world: which of how many processes this is; together they use ``batch_size * world`` a step.
        device: where the batches are wanted.
        workers: processes that read streamed data ahead; 0 reads in this one.

    Raises:
        ConfigError: a batch size below 1.
        DataError: a batch larger than the split.
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
        self.batch_size, self.seed, self.rank, self.world, self.workers = (
            batch_size,
            seed,
            rank,
            world,
            workers,
        )
        self._order: tuple[int, Tensor] = (-1, torch.empty(0, dtype=torch.int64))

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return len(self.split) // (self.batch_size * self.world)

    def indices(self, step: int) -> Tensor:
        """The places in the split of this rank's batch, int64 [B]; on the device if the split is resident."""
        epoch, within = divmod(step, self.steps_per_epoch)
        start = (within * self.world + self.rank) * self.batch_size
        return self._permutation(epoch)[start : start + self.batch_size]

    def _permutation(self, epoch: int) -> Tensor:
        """The shuffle of an epoch; drawn on the CPU, so that it is the same on every device, and kept."""
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(mix_seeds(self.seed, epoch))
            order = torch.randperm(len(self.split), generator=generator)
            self._order = epoch, order.to(self.device) if self.split.resident else order
        return self._order[1]

    def __call__(self, step: int) -> Tensor:
        """The stored examples of a step, uint8 or float32 [B, *shape] on the device."""
        return self.split.raw(self.indices(step)).to(self.device)

    def stream(self, start: int = 0) -> Iterator[Tensor]:
        """The batches of steps ``start``, ``start + 1``, and so on without end."""
        if not self.split.resident:
            yield from self._streamed(start)
        step = start
        while True:
            yield self(step)
            step += 1

    def _streamed(self, start: int) -> Iterator[Tensor]:
        loader: DataLoader[Any] = DataLoader(
            _Read(self.split),
            batch_sampler=_Steps(self, start),
            collate_fn=_as_read,
            num_workers=self.workers,
            prefetch_factor=PREFETCH if self.workers else None,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # its own: the loader must not draw from the generator of the run
        )
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            yield batch.to(self.device, non_blocking=True)


class _Steps:
    """The indices of one step after another, without end, as the loader asks for them."""

    def __init__(self, batches: BatchLoader, start: int) -> None:
        self.batches, self.start = batches, start

    def __iter__(self) -> Iterator[list[int]]:
        step = self.start
        while True:
            yield self.batches.indices(step).tolist()
            step += 1


class _Read(Dataset[Tensor]):
    """A split as the loader's workers read it: a whole batch at a time."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __getitem__(self, index: int) -> Tensor:
        return self.split.raw([index])[0]

    def __getitems__(self, indices: list[int]) -> Tensor | DataError:
        """The batch; an error is handed over as it is, for raising it here would bury it in a traceback."""
        try:
            return self.split.raw(indices)
        except DataError as error:
            return error


def _as_read(batch: Any) -> Any:
    """A batch is read whole; nothing is left to collate."""
    return batch
