"""Data: sources, splits, observation preprocessings and batches.

>>> from advae.data import DataOptions, load_data
>>> data = load_data(DataOptions(source="digits"))
>>> data.x_shape, len(data.train), len(data.validation), len(data.test)
((1, 8, 8), 1455, 162, 180)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from advae.errors import ConfigError, DataError

if TYPE_CHECKING:
    from advae.data.compatibility import check
    from advae.data.data_options import DataOptions
    from advae.data.dataset import Dataset, Preprocessing, Source, Split
    from advae.data.loader import BatchLoader
    from advae.data.preprocessing import make_preprocessing, preprocessing_from_dict

__all__ = [
    "BatchLoader",
    "DataOptions",
    "Dataset",
    "Preprocessing",
    "Split",
    "check",
    "load_data",
    "load_part",
    "make_preprocessing",
    "preprocessing_from_dict",
]

LARGEST = 1024  # side that images can be resized to

_HOME = {  # loaded on first use, so that the options alone do not import torch
    "BatchLoader": "loader",
    "DataOptions": "data_options",
    "Dataset": "dataset",
    "Preprocessing": "dataset",
    "Split": "dataset",
    "check": "compatibility",
    "make_preprocessing": "preprocessing",
    "preprocessing_from_dict": "preprocessing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def load_data(options: DataOptions) -> Dataset:
    """Open, cut, read and fix the data that the options describe.

    Raises:
        ConfigError: an option that has no meaning.
        DataError: data that cannot be found, read, or brought to what the preprocessing needs.
    """
    from advae.data import preprocessing as preprocessing
    from advae.data import splits
    from advae.data.dataset import Dataset
    from advae.data.labels import class_ids

    kind = preprocessing.preprocessing_class(options.preprocessing)
    _check_options(options)
    source = _opened(options, kind.eight_bit)
    sizes = {part: len(rows) for part, rows in source.parts.items()}
    labels, class_names = class_ids(source.labels, sizes)
    cut = splits.cut(
        source,
        labels,
        validation=options.validation,
        test=options.test,
        seed=options.split_seed,
        limit=options.limit,
    )
    resident = options.storage == "resident" or (
        options.storage == "auto" and splits.bytes_of(cut) <= splits.RESIDENT_BYTES
    )
    held = splits.loaded(cut) if resident else splits.scanned(cut)
    observed = preprocessing.make_preprocessing(options.preprocessing, held[0], options.binarize_seed)
    train, validation, test = (observed.fixed(split, ordinal) for ordinal, split in enumerate(held))
    return Dataset(
        name=source.name,
        source=options.source,
        x_shape=train.shape,
        train=train,
        validation=validation,
        test=test,
        preprocessing=observed,
        checksum=splits.checksum(held),
        classes=1 + max(int(ids.max()) for ids in labels.values()) if labels else None,
        class_names=class_names or source.class_names,
    )


def load_part(options: DataOptions, preprocessing: Preprocessing, part: str | None = None) -> tuple[str, Split]:
    """Every example of a source in its order, not cut into splits; and the source's name.

    Args:
        options: of which the source and how images are fitted matter.
        preprocessing: that the examples will be observed by.
        part: which part, where the source has several; its test part by default.

    Raises:
        ConfigError, DataError: as :func:`load_data`, and where there is no such part or it is empty.
    """
    import numpy as np

    from advae.data import splits
    from advae.data.dataset import Split, Subset
    from advae.data.labels import class_ids

    source = _opened(options, preprocessing.eight_bit)
    name = part or (next(iter(source.parts)) if len(source.parts) == 1 else "test")
    if name not in source.parts:
        raise DataError(
            f"these data have no {name} split", given=options.source, expected=" or ".join(source.parts)
        )
    rows = source.parts[name]
    if len(rows) == 0:
        raise DataError("the data are empty", given=options.source)
    labels, _ = class_ids(source.labels, {key: len(held) for key, held in source.parts.items()})
    split = Split(name, None, labels.get(name), Subset(rows, np.arange(len(rows))))
    read = splits.loaded if splits.bytes_of([split]) <= splits.RESIDENT_BYTES else splits.scanned
    return source.name, preprocessing.fixed(read([split])[0], 2)


def _opened(options: DataOptions, eight_bit: bool) -> Source:
    """Open the source, with whatever reads its kind."""
    from advae.data.dataset import Source
    from advae.data.sources import locate

    found = locate(options.source)
    if found.kind in ("digits", "array"):
        from advae.data import arrays

        _only_for_images(options)
        if found.kind == "digits":
            return arrays.open_digits()
        return arrays.open_arrays(found.parts["train"][0], found.name, eight_bit)

    from advae.data import images
    from advae.data import parquet as tables

    if found.kind == "hub":
        opened = tables.open_hub(found.name)
    elif found.kind == "folder":
        opened = tables.open_folder(found.parts, found.classes)
    else:
        opened = tables.open_parquet(found.parts)
    rows = images.image_rows(found.name, opened.images, options.image_size, options.channels)
    return Source(found.name, rows, opened.labels, opened.ordered, opened.class_names)


def _check_options(options: DataOptions) -> None:
    if options.channels not in (None, 1, 3):
        raise ConfigError("data.channels must be 1 or 3", given=options.channels)
    if options.image_size is not None and not 1 <= options.image_size <= LARGEST:
        raise ConfigError(f"data.image_size must be 1 to {LARGEST}", given=options.image_size)
    if options.storage not in ("auto", "resident", "stream"):
        raise ConfigError("unknown data.storage", given=options.storage, expected="auto, resident or stream")
    if options.workers < 0:
        raise ConfigError("data.workers must be 0 or more", given=options.workers)


def _only_for_images(options: DataOptions) -> None:
    for name in ("image_size", "channels"):
        if getattr(options, name) is not None:
            raise DataError(
                f"data.{name} applies to encoded images only",
                given=f"data.source {options.source}",
                expected="a folder of images, Parquet, or a hub id",
                fix=f"leave data.{name} out, or convert the array itself",
            )
