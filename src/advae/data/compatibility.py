"""Compatibility of data, likelihood and batch size, checked before training."""

from __future__ import annotations

import torch
from torch import Tensor

from advae.data.dataset import Dataset, Split, check_batch_size
from advae.errors import ConfigError, DataError, nearest

NUM_CHECKED_EXAMPLES = 256  # per split, preprocessed to check their range

# The supports of preprocessing that a likelihood accepts, by the likelihood's own support. A Bernoulli likelihood
# also accepts probabilities; a likelihood of real numbers accepts everything.
ACCEPTED_SUPPORTS = {
    "binary": ("binary", "unit"),
    "unit": ("binary", "unit"),
    "8-bit": ("8-bit",),
    "interval": ("binary", "unit", "8-bit"),
    "real": ("binary", "unit", "8-bit", "real"),
}
FIX_BY_LIKELIHOOD = {
    "binary": "set data.preprocessing to binarize-dynamic, binarize-static or gray",
    "unit": "set data.preprocessing to gray, binarize-dynamic or binarize-static",
    "8-bit": "set data.preprocessing to dequantize",
    "interval": "set model.likelihood.squash to none, or data.preprocessing to dequantize",
}
LIKELIHOOD_BY_SUPPORT = {
    "binary": "a Bernoulli likelihood",
    "unit": "a Bernoulli likelihood",
    "8-bit": "a discretized normal or a normal likelihood",
    "real": "a normal likelihood with model.likelihood.squash none",
}


def check_compatibility(dataset: Dataset, likelihood_support: str, batch_size: int) -> None:
    """Check data against a likelihood and a batch size.

    Args:
        likelihood_support: the values that the likelihood accepts: ``binary``, ``unit``, ``8-bit``, ``interval``
            (numbers in [0, 1]) or ``real``.

    Raises:
        ConfigError: if the support is unknown, or the batch size below 1.
        DataError: if the likelihood does not accept the preprocessed values; values are not finite or out of
            range; a split is empty; or train is smaller than a batch.
    """
    _check_support(dataset, likelihood_support)
    for split in dataset.splits:
        _check_split(split, dataset)
    check_batch_size(dataset.train, batch_size)
    for split in dataset.splits:
        _check_range(split, dataset)


def _check_support(dataset: Dataset, support: str) -> None:
    if support not in ACCEPTED_SUPPORTS:
        fix = nearest(support, ACCEPTED_SUPPORTS)
        raise ConfigError("The support of the likelihood is unknown.", given=support, fix=fix)
    preprocessing = dataset.preprocessing
    if preprocessing.support not in ACCEPTED_SUPPORTS[support]:
        raise DataError(
            "The likelihood does not accept the preprocessed values.",
            given=f"data.preprocessing {preprocessing.name} gives {preprocessing.support} values",
            expected=f"{' or '.join(ACCEPTED_SUPPORTS[support])} values",
            fix=f"{FIX_BY_LIKELIHOOD[support]}, or choose {LIKELIHOOD_BY_SUPPORT[preprocessing.support]}",
        )


def _check_split(split: Split, dataset: Dataset) -> None:
    if len(split) == 0:
        raise DataError("The data are empty.", given=f"{dataset.name}: no {split.name} example")
    if split.shape != dataset.x_shape:
        given, expected = f"{split.name}: {split.shape}", f"{dataset.x_shape}"
        raise DataError("The splits have different shapes.", given=given, expected=expected)
    if split.values is not None and split.values.dtype.is_floating_point:
        for number, chunk in enumerate(split.chunks()):
            if not torch.isfinite(chunk).all():
                raise DataError(
                    "The data contain NaN or infinite values.",
                    given=f"{dataset.name}, {split.name}, near example {number * len(chunk)}",
                    fix="remove or fill these values",
                )


def _check_range(split: Split, dataset: Dataset) -> None:
    """Preprocess some examples, with a separate random generator, and check the range of the result."""
    raw = split.raw(range(min(NUM_CHECKED_EXAMPLES, len(split))))
    x = dataset.preprocessing.apply(raw, torch.Generator(raw.device).manual_seed(0))
    if not _is_within(x, dataset.preprocessing.support):
        raise DataError(
            f"Values of {split.name} are out of the range of data.preprocessing {dataset.preprocessing.name}.",
            given=f"from {x.min().item():g} to {x.max().item():g}",
            expected=f"{dataset.preprocessing.support} values",
            fix="set data.preprocessing to standardize, or save the examples as uint8 from 0 to 255",
        )


def _is_within(x: Tensor, support: str) -> bool:
    if not torch.isfinite(x).all():
        return False
    if support == "binary":
        return bool(((x == 0) | (x == 1)).all())
    if support == "real":
        return True
    return bool((x >= 0).all() and ((x < 1) if support == "8-bit" else (x <= 1)).all())
