"""Loading of data sets: open a source, split it, store it and preprocess it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import get_args

import numpy as np
import torch

from advae.data.data_options import DataOptions, Layout
from advae.data.dataset import Dataset, Preprocessing, Split, Subset
from advae.data.labels import class_labels
from advae.data.preprocessing import AUTO, Standardize, make_preprocessing, preprocessing_class
from advae.data.readers import DataSource, open_source
from advae.data.splits import checksum, fits_in_memory, make_splits, read_splits, scan_splits
from advae.errors import ConfigError, DataError

MAX_IMAGE_SIZE = 1024  # pixels per side


@torch.inference_mode(False)  # tensors made in the caller's inference mode could not be trained on
def load_data(options: DataOptions, columns: Sequence[str] | None = None) -> Dataset:
    """Load the data set that the options describe.

    Args:
        columns: of a trained model, by which those of a table are matched; the others are left out.

    Raises:
        ConfigError: if an option is invalid.
        DataError: if the data do not exist, cannot be read, or do not suit the preprocessing.
    """
    check_options(options)
    source = open_for_preprocessing(
        options.preprocessing, lambda eight_bit: open_source(options, eight_bit, columns)
    )
    return make_dataset(source, options)


def make_dataset(source: DataSource, options: DataOptions) -> Dataset:
    """Split an opened source, store and preprocess it.

    Raises:
        ConfigError, DataError: as :func:`load_data`.
    """
    lengths = {part: len(examples) for part, examples in source.parts.items()}
    labels = class_labels(source.labels, lengths, source.class_names)
    splits = make_splits(
        source,
        labels.ids,
        validation=options.validation,
        test=options.test,
        seed=options.split_seed,
        limit=options.limit,
    )
    resident = options.storage == "resident" or (options.storage == "auto" and fits_in_memory(splits))
    splits = read_splits(splits) if resident else scan_splits(splits)
    preprocessing = make_preprocessing(options.preprocessing, splits[0], options.binarize_seed)
    train, validation, test = (
        preprocessing.prepare_split(split, ordinal) for ordinal, split in enumerate(splits)
    )
    return Dataset(
        name=source.name,
        source=options.source,
        x_shape=train.shape,
        train=train,
        validation=validation,
        test=test,
        preprocessing=preprocessing,
        checksum=checksum(splits),
        classes=labels.classes,
        class_names=labels.names,
        reading={**source.reading, **source.parts["train"].reading},
        remarks=_collect_remarks(source, labels.remarks),
        column_names=source.column_names,
    )


def open_for_preprocessing(name: str, open_: Callable[[bool], DataSource]) -> DataSource:
    """Open a source with values as the named preprocessing needs them; under ``auto``, images as 8-bit if they can be.

    Args:
        open_: opens the source, with values that can be stored as uint8 if its argument is True.
    """
    if name != AUTO:
        return open_(preprocessing_class(name).eight_bit)
    source = open_(False)
    train = source.parts["train"]
    if len(train.shape) == 3 and train.dtype.is_floating_point:
        with suppress(DataError):  # the values are not gray levels
            return open_(True)
    return source


def _collect_remarks(source: DataSource, others: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the remarks of a source, its examples and others, each once."""
    of_examples = (remark for examples in source.parts.values() for remark in examples.remarks)
    return tuple(dict.fromkeys([*source.remarks, *of_examples, *others]))


@torch.inference_mode(False)
def load_part(
    options: DataOptions,
    preprocessing: Preprocessing,
    part: str | None = None,
    columns: Sequence[str] | None = None,
) -> tuple[str, Split, tuple[str, ...]]:
    """Load all examples of a source in their order, without splitting them.

    Args:
        options: of which the source and how it is read are used.
        preprocessing: of a trained model.
        part: train, validation or test, for sources that have several; by default test.
        columns: of a trained model, by which those of a table are matched; the others are left out.

    Returns:
        The source's name, its examples, and remarks.

    Raises:
        ConfigError, DataError: as :func:`load_data`, and if the part does not exist or is empty.
    """
    source = open_source(options, preprocessing.eight_bit, columns)
    name = part or (next(iter(source.parts)) if len(source.parts) == 1 else "test")
    if name not in source.parts:
        expected = " or ".join(source.parts)
        raise DataError(f"The data have no {name} split.", given=options.source, expected=expected)
    examples = source.parts[name]
    if len(examples) == 0:
        raise DataError("The data are empty.", given=options.source)
    if isinstance(preprocessing, Standardize) and examples.dtype.is_floating_point:
        examples.dtype = preprocessing.dtype  # as in training, whatever the range of these examples
    lengths = {key: len(values) for key, values in source.parts.items()}
    labels = class_labels(source.labels, lengths, source.class_names, renumber=False)
    splits = [Split(name, None, labels.ids.get(name), Subset(examples, np.arange(len(examples))))]
    splits = read_splits(splits) if fits_in_memory(splits) else scan_splits(splits)
    return source.name, preprocessing.prepare_split(splits[0], 2), _collect_remarks(source)


def check_options(options: DataOptions) -> None:
    """Raise ConfigError if an option has an invalid value."""
    if options.channels not in (None, 1, 3):
        raise ConfigError("data.channels must be 1 or 3.", given=options.channels)
    if options.image_size is not None and not 1 <= options.image_size <= MAX_IMAGE_SIZE:
        raise ConfigError(f"data.image_size must be 1 to {MAX_IMAGE_SIZE}.", given=options.image_size)
    if options.white_level is not None and not 0 < options.white_level < math.inf:
        raise ConfigError("data.white_level must be positive.", given=options.white_level)
    if options.layout not in get_args(Layout):
        expected = ", ".join(get_args(Layout))
        raise ConfigError("data.layout is unknown.", given=options.layout, expected=expected)
    if options.storage not in ("auto", "resident", "stream"):
        expected = "auto, resident or stream"
        raise ConfigError("data.storage is unknown.", given=options.storage, expected=expected)
    if options.missing not in ("refuse", "drop"):
        raise ConfigError("data.missing is unknown.", given=options.missing, expected="refuse or drop")
    if options.workers < 0:
        raise ConfigError("data.workers must be 0 or more.", given=options.workers)
