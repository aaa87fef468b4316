"""A look at the data before step 1: do they fit the likelihood, and do they fill a batch?"""

from __future__ import annotations

import torch
from torch import Tensor

from advae.data.dataset import Dataset, Split, check_batch_size
from advae.errors import ConfigError, DataError, nearest

LOOKED_AT = 256  # examples observed as a last proof that the preprocessing keeps its range

# What each support of a likelihood can score, among the supports of the preprocessings. A Bernoulli also scores
# probabilities; a likelihood of real numbers scores anything.
ACCEPTED = {
    "binary": ("binary", "unit"),
    "unit": ("binary", "unit"),
    "8-bit": ("8-bit",),
    "interval": ("binary", "unit", "8-bit"),
    "real": ("binary", "unit", "8-bit", "real"),
}
REMEDY = {
    "binary": "set data.preprocessing to binarize-dynamic, binarize-static or gray",
    "unit": "set data.preprocessing to gray, binarize-dynamic or binarize-static",
    "8-bit": "set data.preprocessing to dequantize",
    "interval": "set model.likelihood.squash to none, or data.preprocessing to dequantize",
}
OTHER_LIKELIHOOD = {
    "binary": "a Bernoulli likelihood",
    "unit": "a Bernoulli likelihood",
    "8-bit": "a discretised Normal or a Normal likelihood",
    "real": "a Normal likelihood with model.likelihood.squash none",
}


def check(dataset: Dataset, likelihood_support: str, batch_size: int) -> None:
    """Check data against a likelihood and a batch size.

    Args:
        likelihood_support: what the likelihood can score: ``binary``, ``unit``, ``8-bit``, ``interval``
            (numbers between 0 and 1) or ``real``.

    Raises:
        ConfigError: an unknown support, or a batch size below 1.
        DataError: a preprocessing that the likelihood cannot score, values out of range or not finite, no
            examples, or fewer than a batch.
    """
    _check_support(dataset, likelihood_support)
    for split in dataset.splits:
        _check_split(split, dataset)
    check_batch_size(dataset.train, batch_size)
    for split in dataset.splits:
        _check_observed(split, dataset)


def _check_support(dataset: Dataset, wanted: str) -> None:
    if wanted not in ACCEPTED:
        raise ConfigError("unknown support of a likelihood", given=wanted, fix=nearest(wanted, ACCEPTED))
    preprocessing = dataset.preprocessing
    if preprocessing.support not in ACCEPTED[wanted]:
        raise DataError(
            "the likelihood cannot score what the data preprocessing gives",
            given=f"data.preprocessing {preprocessing.name} gives {preprocessing.support} values",
            expected=f"{' or '.join(ACCEPTED[wanted])} values",
            fix=f"{REMEDY[wanted]}, or choose {OTHER_LIKELIHOOD[preprocessing.support]}",
        )


def _check_split(split: Split, dataset: Dataset) -> None:
    if len(split) == 0:
        raise DataError("the data are empty", given=f"{dataset.name}: no {split.name} example")
    if split.shape != dataset.x_shape:
        raise DataError(
            "the splits have different shapes",
            given=f"{split.name}: {split.shape}",
            expected=f"{dataset.x_shape}",
        )
    if split.values is not None and split.values.dtype.is_floating_point:
        for number, chunk in enumerate(split.chunks()):
            if not torch.isfinite(chunk).all():
                raise DataError(
                    "the data hold NaN or infinite values",
                    given=f"{dataset.name}, {split.name}, near example {number * len(chunk)}",
                    fix="remove or fill these values",
                )


def _check_observed(split: Split, dataset: Dataset) -> None:
    """Observe some examples; the generator is ours, so that the run's own is not moved."""
    raw = split.raw(range(min(LOOKED_AT, len(split))))
    x = dataset.preprocessing.apply(raw, torch.Generator(raw.device).manual_seed(0))
    if not _within(x, dataset.preprocessing.support):
        raise DataError(
            f"observations of {split.name} leave the range of data.preprocessing {dataset.preprocessing.name}",
            given=f"from {x.min().item():g} to {x.max().item():g}",
            expected=f"{dataset.preprocessing.support} values",
            fix="set data.preprocessing to standardize, or save the examples as uint8 from 0 to 255",
        )


def _within(x: Tensor, support: str) -> bool:
    if not torch.isfinite(x).all():
        return False
    if support == "binary":
        return bool(((x == 0) | (x == 1)).all())
    if support == "real":
        return True
    return bool((x >= 0).all() and ((x < 1) if support == "8-bit" else (x <= 1)).all())
