"""Loading of data sets: open a source, split it, store it and preprocess it."""

from __future__ import annotations

import math
from collections.abc import Iterable
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
def load_data(options: DataOptions) -> Dataset:
    """Load the data set that the options describe.

    Raises:
        ConfigError: if an option is invalid.
        DataError: if the data do not exist, cannot be read, or do not suit the preprocessing.
    """
    _check_options(options)
    source = _open_for_preprocessing(options)
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
    )


def _open_for_preprocessing(options: DataOptions) -> DataSource:
    """Open a source with values as the preprocessing needs them; under ``auto``, images are 8-bit if they can be."""
    if options.preprocessing != AUTO:
        return open_source(options, preprocessing_class(options.preprocessing).eight_bit)
    source = open_source(options, eight_bit=False)
    train = source.parts["train"]
    if len(train.shape) == 3 and train.dtype.is_floating_point:
        with suppress(DataError):  # the values are not gray levels
            return open_source(options, eight_bit=True)
    return source


def _collect_remarks(source: DataSource, others: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the remarks of a source, its examples and others, each once."""
    of_examples = (remark for examples in source.parts.values() for remark in examples.remarks)
    return tuple(dict.fromkeys([*source.remarks, *of_examples, *others]))


@torch.inference_mode(False)
def load_part(
    options: DataOptions, preprocessing: Preprocessing, part: str | None = None
) -> tuple[str, Split, tuple[str, ...]]:
    """Load all examples of a source in their order, without splitting them.

    Args:
        options: of which the source and how it is read are used.
        preprocessing: of a trained model.
        part: train, validation or test, for sources that have several; by default test.

    Returns:
        The source's name, its examples, and remarks.

    Raises:
        ConfigError, DataError: as :func:`load_data`, and if the part does not exist or is empty.
    """
    source = open_source(options, preprocessing.eight_bit)
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


def _check_options(options: DataOptions) -> None:
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
    if options.workers < 0:
        raise ConfigError("data.workers must be 0 or more.", given=options.workers)
