"""Resumable, distributed map over batches, with progress.

The result of each batch is written to a file of its own as soon as it is known, in a folder named by a hash of all that
it depends on. An evaluation that was interrupted reads these files and continues. Under several processes each one
takes every n-th batch.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from safetensors.torch import load, save
from torch import Tensor, nn

from advae.errors import WriteError
from advae.io import path_inside, write_atomically
from advae.progress import StageProgress

SECONDS_BETWEEN_SAVES = 5.0  # of the state of an unfinished batch
UNFINISHED = ("eval", "unfinished")  # folder of partial results in a run
PARTIAL_FILE = re.compile(
    r"part-\d{8}\.(done|state)|\.part-\d{8}\."
)  # the latter: of a writer that was killed
DIGEST_BYTES = hashlib.sha256().digest_size

Ticks = Callable[[int], None]
"""Called with the number of units of work that were done since the last call."""


@contextmanager
def no_progress(label: str, total: int) -> Iterator[Ticks]:
    """Show nothing."""
    yield lambda n: None


class PartialResult:
    """The files of one batch: its result once it is finished, until then the state of the computation.

    A file is the SHA-256 of its tensors, then the tensors. A damaged one is not used: the batch is computed again.

    Args:
        root: existing folder that the files are in; None stores nothing.
        parts: of their path below it, without suffix.
    """

    def __init__(self, root: Path | None, *parts: str) -> None:
        self.root, self.parts, self._last_save = root, parts, time.monotonic()

    def load_result(self) -> dict[str, Tensor] | None:
        """Return the stored result, or None."""
        return self._read(".done")

    def save_result(self, result: Mapping[str, Tensor]) -> None:
        """Store the result and delete the state."""
        self._write(".done", result)
        if state := self._path(".state"):
            state.unlink(missing_ok=True)

    def load_state(self) -> dict[str, Tensor] | None:
        """Return the stored state of an interrupted computation, or None."""
        return self._read(".state")

    def save_state(self, state: Mapping[str, Tensor]) -> None:
        """Store the state of the computation."""
        self._write(".state", state)
        self._last_save = time.monotonic()

    @property
    def is_save_due(self) -> bool:
        """Whether the state was last saved long enough ago."""
        return self.root is not None and time.monotonic() - self._last_save > SECONDS_BETWEEN_SAVES

    def _path(self, suffix: str) -> Path | None:
        """Return the path of a file; raise CheckpointError if the root was deleted, or a link leads out of it."""
        return self.root and path_inside(self.root, *self.parts[:-1], self.parts[-1] + suffix)

    def _read(self, suffix: str) -> dict[str, Tensor] | None:
        path = self._path(suffix)
        if path is None or not path.is_file():
            return None
        content = path.read_bytes()
        digest, tensors = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        if hashlib.sha256(tensors).digest() == digest:
            return load(tensors)
        print(f"advae: warning: a partial result is damaged and is computed again: {path}", file=sys.stderr)
        return None

    def _write(self, suffix: str, tensors: Mapping[str, Tensor]) -> None:
        if path := self._path(suffix):
            content = save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
            content = hashlib.sha256(content).digest() + content
            try:
                write_atomically(path, content)
            except WriteError as error:
                # Another evaluation of the run may have ended, and removed the folder meanwhile.
                if not isinstance(error.__cause__, FileNotFoundError) or self._path(suffix) is None:
                    raise
                write_atomically(path, content)


NOT_STORED = PartialResult(None)


@dataclass(frozen=True)
class Runner:
    """How an evaluation is carried out.

    Attributes:
        root: existing folder; partial results are stored in its ``eval/unfinished``. None stores none.
        stage: shows progress.
        fingerprint: of the model; partial results of other models are not used.
    """

    root: Path | None = None
    stage: StageProgress = no_progress
    fingerprint: str = ""

    @property
    def rank(self) -> int:
        """The number of this process."""
        return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0

    @property
    def world_size(self) -> int:
        """The number of processes."""
        return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1

    def partial_result(self, key: Mapping[str, Any] | None, start: int) -> PartialResult:
        """Return the files of the batch that begins at ``start``; without a key nothing is stored."""
        if self.root is None or key is None:
            return NOT_STORED
        text = json.dumps({**key, "model": self.fingerprint}, sort_keys=True, default=str)
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        return PartialResult(self.root, *UNFINISHED, name, f"part-{start:08d}")

    def delete_partial_results(self) -> None:
        """Delete the partial results of all evaluations; other files and links are left alone."""
        if self.root is None or not path_inside(self.root, *UNFINISHED).is_dir():
            return
        for folder in self.root.joinpath(*UNFINISHED).iterdir():
            if folder.is_symlink() or not folder.is_dir():
                continue
            for file in folder.iterdir():
                if PARTIAL_FILE.match(file.name):
                    file.unlink(missing_ok=True)
            _remove_if_empty(folder)
        _remove_if_empty(self.root.joinpath(*UNFINISHED))

    def map(
        self,
        label: str,
        starts: Sequence[int],
        compute: Callable[[int, PartialResult, Ticks], Mapping[str, Tensor]],
        key: Mapping[str, Any] | None,
        ticks: int = 1,
    ) -> dict[str, Tensor]:
        """Return the concatenated results of all batches by name, ``[N, …]``, on the CPU.

        Args:
            label: for the progress bar.
            starts: the index of the first example of each batch, in order.
            compute: gets a start, the batch's files and the progress callback.
            key: what the result depends on: partial results are only used under an equal key. None stores none.
            ticks: per batch. With 1 they are counted here; otherwise ``compute`` reports them.
        """
        own = starts[self.rank :: self.world_size]
        results: dict[int, dict[str, Tensor]] = {}
        with self.stage(label, len(own) * ticks) as tick:
            for start in own:
                partial = self.partial_result(key, start)
                result = partial.load_result()
                if result is None:
                    result = {name: tensor.cpu() for name, tensor in compute(start, partial, tick).items()}
                    partial.save_result(result)
                    tick(1 if ticks == 1 else 0)
                else:
                    tick(ticks)
                results[start] = result
        results = self._gather(results)
        names = results[starts[0]]
        return {name: torch.cat([results[start][name] for start in sorted(results)]) for name in names}

    def _gather(self, results: dict[int, dict[str, Tensor]]) -> dict[int, dict[str, Tensor]]:
        """Return the results of all processes."""
        if self.world_size == 1:
            return results
        gathered: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(gathered, results)
        return {start: result for part in gathered for start, result in part.items()}


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


LOCAL = Runner()


def model_fingerprint(model: nn.Module) -> str:
    """Return a SHA-256 digest of a model's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
