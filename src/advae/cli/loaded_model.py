"""What a verb looks at: a model, the run it came from, and observations for it.

Everything heavy is imported where it is used, so that ``--help`` is quick.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advae.errors import CheckpointError, ConfigError, DataError, UnsupportedError, nearest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from advae.data import Dataset, Protocol, Split
    from advae.model import LatentModel
    from advae.run import Run


def allow_packages(packages: Iterable[str]) -> None:
    """Let recipes and models import classes from these packages, which may lie in the current directory."""
    from advae.registry import allow

    packages = [package.partition(".")[0] for package in packages]
    if packages:
        allow(*packages)
        here = os.getcwd()
        if here not in sys.path:
            sys.path.insert(0, here)


def watched(args: argparse.Namespace) -> Callable[[str, int], AbstractContextManager[Callable[[int], None]]]:
    """Progress bars for the stages of an evaluation."""
    from advae.progress import stages

    return stages(args.quiet or args.json)


@dataclass(frozen=True)
class Subject:
    """A model, and where it came from.

    Attributes:
        model: on its device, in evaluation mode.
        run: its run; None for a saved model by itself.
        folder: where what is made of it goes by default.
    """

    model: LatentModel
    run: Run | None
    folder: Path

    @property
    def protocol(self) -> Protocol:
        """How its observations were made."""
        from advae.data import protocol_from

        described = self.model.info.get("data") or {}
        if not described.get("protocol"):
            raise CheckpointError("this model does not say how its observations were made", given=self.folder)
        return protocol_from(described["protocol"])

    @property
    def images(self) -> bool:
        """Whether observations are images."""
        return len(self.model.x_shape) == 3


def open_subject(args: argparse.Namespace) -> Subject:
    """The model of a run, of a folder that ``save_pretrained`` wrote, or of the hub.

    Raises:
        CheckpointError: there is none.
    """
    allow_packages(args.allow)
    from advae.model import LatentModel
    from advae.run import CONFIG, Run
    from advae.training.environment import find_device

    path, device = Path(args.run), str(find_device(args.device))
    if (path / CONFIG).is_file():
        run = Run.open(path)
        return Subject(run.model(device), run, path)
    _only_if_model(path)
    model = LatentModel.from_pretrained(path if path.is_dir() else args.run, device)
    return Subject(model, None, path if path.is_dir() else Path())


def open_encoding(args: argparse.Namespace, verb: str) -> Subject:
    """As :func:`open_subject`, for a verb that needs codes of observations; refused before any data are read.

    Raises:
        UnsupportedError: the model has no encoder.
    """
    subject = open_subject(args)
    if not subject.model.has_encoder:
        method = (subject.model.info.get("method") or {}).get("name")
        raise UnsupportedError(
            f"advae {verb} needs an encoder, and this model has none",
            given=f"{args.run}{f', trained by {method}' if method else ''}",
            remedy="sample from it (advae sample), or train a model with an encoder on the same data",
        )
    return subject


def _only_if_model(path: Path) -> None:
    """A mistyped folder is answered here; it would pass for the id of a model on the hub."""
    from advae.model import CONFIG, is_hub_id, refuse_pickles

    refuse_pickles(path)
    if path.exists() and not (path / CONFIG).is_file():
        raise CheckpointError("this is neither a run directory nor a saved model", given=path)
    parent = path.parent
    if not path.exists() and ((parent != Path() and parent.is_dir()) or not is_hub_id(str(path))):
        beside = sorted(found.name for found in parent.iterdir() if found.is_dir()) if parent.is_dir() else []
        hint = nearest(path.name, beside[:20]) if beside else "a run is made by: advae train RECIPE"
        raise CheckpointError("there is no such run directory", given=path, remedy=hint)


def run_data(run: Run, args: argparse.Namespace) -> Dataset:
    """The data of a run, or those at ``--data.source`` read in the same way; says so if they are others."""
    from advae.config import resolve
    from advae.data import load_data

    data = load_data(resolve(run.config, {"data.source": args.source} if args.source else {}).data)
    before = run.env.get("data", {}).get("checksum")
    if before not in (None, data.checksum):
        print("advae: these are not the data that the run was trained on", file=sys.stderr)
    return data


@dataclass(frozen=True)
class Examples:
    """Stored examples and how a model observes them.

    Attributes:
        split: the examples, in their order.
        protocol: the model's.
        source: their name.
    """

    split: Split
    protocol: Protocol
    source: str

    def observed(self, indices: Iterable[int], seed: int) -> Tensor:
        """Observations ``[B, *x_shape]``, on the CPU; the same for the same seed."""
        import torch

        raw = self.split.raw(list(indices)).cpu()
        return self.protocol.observe(raw, torch.Generator().manual_seed(seed))

    def chosen(self, n: int, seed: int) -> NDArray[np.int64]:
        """``n`` places, or all if there are fewer, drawn without replacement."""
        import numpy as np

        return np.random.default_rng(seed).permutation(len(self.split))[:n]

    def labels(self, indices: NDArray[np.int64] | None = None) -> dict[str, Any]:
        """``{"labels": …}`` of all examples or of some; empty without labels."""
        if self.split.labels is None:
            return {}
        labels = self.split.labels.cpu().numpy()
        return {"labels": labels if indices is None else labels[indices]}

    def chunks(self, seed: int, size: int = 512) -> Iterator[Tensor]:
        """All observations in their order, ``size`` at a time."""
        for start in range(0, len(self.split), size):
            yield self.observed(range(start, min(start + size, len(self.split))), seed + start)


def open_examples(subject: Subject, args: argparse.Namespace) -> Examples:
    """What ``--input``, ``--split`` and ``--data.source`` say.

    Raises:
        ConfigError: a model without a run and without ``--input``.
        DataError: the data cannot be read, or do not have the model's shape.
    """
    if args.input:
        return _input_examples(subject, args.input, args.split)
    if subject.run is None:
        raise ConfigError(
            "this model is no run and has no data of its own", remedy="give data with --input PATH"
        )
    data = run_data(subject.run, args)
    split = getattr(data, args.split or "test")
    _same_shape(split, subject.model, data.source)
    return Examples(split, subject.protocol, data.name)


def _input_examples(subject: Subject, source: str, part: str | None) -> Examples:
    """Every example of a source (of one part, where it has several), in its order and not cut into splits."""
    from advae.data import DataOptions, load_part
    from advae.data.sources import locate

    shape = subject.model.x_shape
    fit: dict[str, int] = {}
    if locate(source).kind not in ("digits", "array") and subject.images:
        fit = {"channels": shape[0]} | ({"image_size": shape[1]} if shape[1] == shape[2] else {})
    name, split = load_part(DataOptions(source=source, **fit), subject.protocol, part)  # type: ignore[arg-type]
    _same_shape(split, subject.model, source)
    return Examples(split, subject.protocol, name)


def _same_shape(split: Split, model: LatentModel, source: str) -> None:
    if split.shape != model.x_shape:
        raise DataError(
            "the examples have another shape than the model's observations",
            given=f"{source}: {' × '.join(map(str, split.shape))}",
            expected=" × ".join(map(str, model.x_shape)),
        )
