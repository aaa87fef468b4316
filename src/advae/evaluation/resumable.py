"""How a long evaluation is carried out: shown while it goes on, shared out over processes, and kept.

What one part of the images gave is written to a file of its own as soon as it is known, under a name that says what
it depends on; an evaluation that was interrupted finds it there and continues. The same files serve several
processes, each with parts of its own.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from advae.io import write_atomically

SECONDS = 5.0  # between two records of a part that is not finished: little work is lost, little time is spent

Ticks = Callable[[int], None]


@contextmanager
def unseen(label: str, total: int) -> Iterator[Ticks]:
    """A stage that nobody watches."""
    yield lambda n: None


class Slot:
    """Where one part is kept.

    Args:
        path: its file, without ending; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path, self._last = path, time.monotonic()

    def finished(self) -> dict[str, Tensor] | None:
        """What the part gave, if it was finished before."""
        return self._read("done")

    def finish(self, found: Mapping[str, Tensor]) -> None:
        """Keep what the part gave."""
        self._write("done", found)
        if self.path is not None:
            self.path.with_suffix(".state").unlink(missing_ok=True)

    def state(self) -> dict[str, Tensor] | None:
        """How far the part had come when it was interrupted, if it was."""
        return self._read("state")

    @property
    def due(self) -> bool:
        """Whether it is time to keep the state again."""
        return self.path is not None and time.monotonic() - self._last > SECONDS

    def keep(self, state: Mapping[str, Tensor]) -> None:
        """Keep how far the part has come."""
        self._write("state", state)
        self._last = time.monotonic()

    def _read(self, ending: str) -> dict[str, Tensor] | None:
        if self.path is None:
            return None
        try:
            return load(self.path.with_suffix(f".{ending}").read_bytes())
        except (FileNotFoundError, SafetensorError):
            return None  # nothing to go on from: the part is computed anew

    def _write(self, ending: str, tensors: Mapping[str, Tensor]) -> None:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            held = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
            write_atomically(self.path.with_suffix(f".{ending}"), save(held))


NOWHERE = Slot(None)


@dataclass(frozen=True)
class Work:
    """How evaluations are carried out.

    Attributes:
        folder: where unfinished work is kept; None keeps none.
        stage: ``with stage(label, total) as tick`` shows progress; ``tick(n)`` says that n of the total were done.
        model: a fingerprint of the model, for the names of what is kept.
    """

    folder: Path | None = None
    stage: Callable[[str, int], AbstractContextManager[Ticks]] = unseen
    model: str = ""

    @property
    def rank(self) -> int:
        """Which process this is."""
        return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0

    @property
    def world(self) -> int:
        """How many processes there are."""
        return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1

    def slot(self, key: Mapping[str, Any] | None, start: int) -> Slot:
        """Where the part that begins at ``start`` is kept under ``key``; without a key, nowhere."""
        if self.folder is None or key is None:
            return NOWHERE
        text = json.dumps({**key, "model": self.model}, sort_keys=True, default=str)
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        return Slot(self.folder / name / f"part-{start:08d}")

    def each(
        self,
        label: str,
        starts: Sequence[int],
        compute: Callable[[int, Slot, Ticks], Mapping[str, Tensor]],
        key: Mapping[str, Any] | None,
        ticks: int = 1,
    ) -> dict[str, Tensor]:
        """What ``compute`` finds for all parts, by name, ``[N, …]`` on the CPU in the order of the parts.

        The one loop over parts: shown while it goes on, shared out over processes, and kept part by part.

        Args:
            label: for the progress bar.
            starts: where the parts begin, in order.
            compute: is given one of them, where it may keep its state, and what to tick.
            key: what the result depends on; unfinished work is only taken up under the same. None keeps none.
            ticks: how often ``compute`` ticks; with 1 it does not, and is counted for it.
        """
        own = starts[self.rank :: self.world]
        found: dict[int, dict[str, Tensor]] = {}
        with self.stage(label, len(own) * ticks) as tick:
            for start in own:
                slot = self.slot(key, start)
                done = slot.finished()
                if done is None:
                    done = {name: tensor.cpu() for name, tensor in compute(start, slot, tick).items()}
                    slot.finish(done)
                    tick(1 if ticks == 1 else 0)
                else:
                    tick(ticks)
                found[start] = done
        found = self.gathered(found)
        return {name: torch.cat([found[start][name] for start in sorted(found)]) for name in found[starts[0]]}

    def gathered(self, found: dict[int, dict[str, Tensor]]) -> dict[int, dict[str, Tensor]]:
        """The parts of all processes."""
        if self.world == 1:
            return found
        everybody: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(everybody, found)
        return {start: done for each in everybody for start, done in each.items()}


ALONE = Work()


def fingerprint(model: nn.Module) -> str:
    """A digest of a model's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
