"""Models, runs and observations that a verb works on.

PyTorch is imported in the functions, so that ``--help`` is fast.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advae.cli.console import log, output_path
from advae.cli.parser import ExampleOptions, ModelOptions, OutputOptions
from advae.errors import CheckpointError, ConfigError, DataError, UnsupportedError, nearest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from advae.data import Dataset, Preprocessing, Split
    from advae.model import LatentModel
    from advae.run import Run


def allow_packages(packages: Iterable[str]) -> None:
    """Let recipes and models import classes from these packages, installed or in the current directory."""
    from advae.registry import allow

    names = {package.partition(".")[0] for package in packages}
    if names:
        allow(*names)
        sys.meta_path.append(_PackageFinder(names))


class _PackageFinder(MetaPathFinder):
    """Finds packages in the current directory, where nothing else is found: a numpy.py there is not imported."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [os.getcwd()]) if name in self.names else None


@dataclass(frozen=True)
class LoadedModel:
    """A model and its origin.

    Attributes:
        model: on its device, in evaluation mode.
        run: its run; None for a saved model.
        folder: the default folder of output files.
    """

    model: LatentModel
    run: Run | None
    folder: Path

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of its observations."""
        if self.model.preprocessing is None:
            raise CheckpointError(
                "Model does not record the preprocessing of its data.",
                given=self.folder,
                fix="save it again: model.save_pretrained(folder, data=data), with the data set it was trained on",
            )
        return self.model.preprocessing

    @property
    def has_images(self) -> bool:
        """Whether observations are images."""
        return len(self.model.x_shape) == 3

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Endings of the files that observations can be written to; the first is the default."""
        if self.has_images:
            return ".png", ".npz"
        tables = (".csv", ".npz") if self.model.column_names else (".npz", ".csv")
        return tables if len(self.model.x_shape) == 1 else (".npz",)

    def to_columns(self, x: Tensor) -> dict[str, Tensor]:
        """Return observations of a table ``[N, n]`` in the units of the data, by the names of its columns."""
        values = self.preprocessing.to_gray(x)
        names = self.model.column_names or [f"x{i + 1}" for i in range(values.shape[1])]
        return dict(zip(names, values.T, strict=True))


def load_model(path: str, options: ModelOptions) -> LoadedModel:
    """Load the model of a run, of a folder from ``save_pretrained``, or of a hub id.

    Raises:
        CheckpointError: there is no model.
    """
    allow_packages(options.allow)
    from advae.devices import find_device
    from advae.model import LatentModel
    from advae.run import CONFIG_FILE, Run

    folder, device = Path(path), str(find_device(options.device))
    if (folder / CONFIG_FILE).is_file():
        run = Run.open(folder)
        return LoadedModel(run.model(device), run, folder)
    _check_is_model(folder)
    model = LatentModel.from_pretrained(folder if folder.is_dir() else path, device)
    return LoadedModel(model, None, folder if folder.is_dir() else Path())


def open_examples(
    verb: str, options: ExampleOptions, stem: str, suffixes: tuple[str, ...] = ()
) -> tuple[LoadedModel, Examples, Path]:
    """Load the model and the observations of a verb that encodes them, and return them with its output file.

    Args:
        stem: of the default file.
        suffixes: of the files that it writes; by default those for observations. The default for observations is
            the default here too, if it is among them.

    Raises:
        ConfigError, UnsupportedError: the output file or the model does not suit the verb, before data are read.
    """
    loaded = load_model_with_encoder(verb, options)
    ordered = sorted(suffixes or loaded.suffixes, key=lambda suffix: suffix != loaded.suffixes[0])
    path = output_path(options.out, loaded.folder, stem, ordered)
    return loaded, load_examples(loaded, options), path


def load_model_with_encoder(verb: str, options: ExampleOptions) -> LoadedModel:
    """Load a model for a verb that encodes observations.

    Raises:
        UnsupportedError: the model has no encoder.
    """
    loaded = load_model(options.run, options)
    if not loaded.model.has_encoder:
        method = (loaded.model.info.get("method") or {}).get("name")
        raise UnsupportedError(
            f"advae {verb} needs an encoder, which this model does not have.",
            given=f"{options.run}{f', trained by {method}' if method else ''}",
            fix="sample from it (advae sample), or train a model with an encoder on the same data",
        )
    return loaded


def _check_is_model(path: Path) -> None:
    """Report a mistyped folder, which could be mistaken for a hub id."""
    from advae.model import MODEL_CONFIG_FILE
    from advae.serialization import check_no_pickle, is_hub_id

    check_no_pickle(path)
    if path.exists() and not (path / MODEL_CONFIG_FILE).is_file():
        raise CheckpointError("Folder is neither a run directory nor a saved model.", given=path)
    parent = path.parent
    if not path.exists() and ((parent != Path() and parent.is_dir()) or not is_hub_id(str(path))):
        siblings = sorted(p.name for p in parent.iterdir() if p.is_dir()) if parent.is_dir() else []
        fix = nearest(path.name, siblings[:20]) if siblings else "train a run: advae train RECIPE"
        raise CheckpointError("Run directory does not exist.", given=path, fix=fix)


def load_run_data(run: Run, source: str | None) -> Dataset:
    """Load the data of a run, or other data in the same way; warn if they differ from the training data."""
    from advae.config import resolve
    from advae.data import load_data

    recorded = run.env.get("data", {})
    options = resolve(run.config, {"data.source": source} if source else {}).data
    data = load_data(options, recorded.get("columns") if source else None)
    if recorded.get("checksum") not in (None, data.checksum):
        print("advae: these data differ from those that the run was trained on", file=sys.stderr)
    return data


@dataclass(frozen=True)
class Examples:
    """Stored examples and their preprocessing.

    Attributes:
        split: the examples, in their order.
        preprocessing: the model's.
        source: their name.
        names: of the files of single images, in the order of the split; None for others.
        data: the data set that they are a split of; None for examples of PATH.
    """

    split: Split
    preprocessing: Preprocessing
    source: str
    names: tuple[str, ...] | None = None
    data: Dataset | None = None

    def observations(self, indices: Iterable[int], seed: int) -> Tensor:
        """Return preprocessed observations ``[B, *x_shape]`` on the CPU."""
        import torch

        raw = self.split.raw(list(indices)).cpu()
        return self.preprocessing.apply(raw, torch.Generator().manual_seed(seed))

    def sample_indices(self, n: int, seed: int) -> NDArray[np.int64]:
        """Sample ``n`` indices without replacement; all of them if there are fewer."""
        import numpy as np

        return np.random.default_rng(seed).permutation(len(self.split))[:n]

    def labels(self, indices: NDArray[np.int64] | None = None) -> dict[str, Any]:
        """Return ``{"labels": …}`` of all examples or of some; empty without labels."""
        if self.split.labels is None:
            return {}
        labels = self.split.labels.cpu().numpy()
        return {"labels": labels if indices is None else labels[indices]}

    def label_column(self) -> dict[str, Any]:
        """Return ``{"label": …}`` of all examples for a table; empty without labels."""
        return {} if self.split.labels is None else {"label": self.split.labels.cpu()}

    def batches(self, seed: int, size: int = 512, limit: int | None = None) -> Iterator[Tensor]:
        """Yield the observations in their order (with a limit the first ones), ``size`` at a time."""
        count = len(self.split) if limit is None else min(limit, len(self.split))
        for start in range(0, count, size):
            yield self.observations(range(start, min(start + size, count)), seed + start)


def load_examples(loaded: LoadedModel, options: ExampleOptions) -> Examples:
    """Load the examples that PATH (or ``--input``), ``--split`` and ``--data.source`` select.

    Raises:
        ConfigError: a saved model without PATH, or two paths.
        DataError: the data cannot be read, or do not have the model's shape.
    """
    names, data, source = None, None, options.path or options.input
    if options.path and options.input:
        raise ConfigError("The data are named twice.", given=f"{options.path} and --input {options.input}")
    if source:
        name, split, remarks, names = _load_input(loaded, source, options.split)
        log_data_remarks(options, remarks)
    elif loaded.run is None:
        fix = f"name data: advae VERB {options.run} PATH (or --input PATH)"
        raise ConfigError("A saved model has no data of its own.", fix=fix)
    else:
        data = load_run_data(loaded.run, options.data_source)
        name, split = data.name, getattr(data, options.split or "test")
    if split.shape != loaded.model.x_shape:
        raise DataError(
            "Examples do not have the shape of the model's observations.",
            given=f"{name}: {' × '.join(map(str, split.shape))}",
            expected=" × ".join(map(str, loaded.model.x_shape)),
        )
    return Examples(split, loaded.preprocessing, name, names, data)


def log_data_remarks(options: OutputOptions, remarks: Iterable[str]) -> None:
    """Print what was left out, converted or guessed in reading data, unless quiet."""
    for remark in remarks:
        log(options, f"data: {remark}")


def _load_input(
    loaded: LoadedModel, source: str, part: str | None
) -> tuple[str, Split, tuple[str, ...], tuple[str, ...] | None]:
    """Load all examples of a source (or of one part of it) in their order, with remarks and the names of image files.

    Images fit the model.
    """
    from advae.data import DataOptions, load_part
    from advae.data.readers import find_reader
    from advae.data.sources import printable

    shape = loaded.model.x_shape
    (reader, location), data = find_reader(source), loaded.model.info.get("data") or {}
    reading, is_image_reader = data.get("reading") or {}, "image_size" in reader.options
    fit: dict[str, Any] = {}
    if is_image_reader and loaded.has_images:
        fit = {"channels": shape[0]} | ({"image_size": shape[1]} if shape[1] == shape[2] else {})
    if is_image_reader == ("channels" in reading) and "white_level" in reader.options:
        fit["white_level"] = reading.get("white_level")  # the same gray levels as in training
    for option, default in (("layout", "auto"), ("label", None)):
        if loaded.run is not None and option in reader.options:
            fit[option] = loaded.run.config.get("data", {}).get(option, default)
    name, split, remarks = load_part(
        DataOptions(source=source, **fit), loaded.preprocessing, part, loaded.model.column_names
    )
    files = location.with_suffix(reader.suffixes)
    root = location.path if location.kind == "folder" else location.path.parent
    names = tuple(printable(str(file.relative_to(root))) for file in files)
    return name, split, remarks, names if reader.name == "image-folder" and len(names) == len(split) else None
