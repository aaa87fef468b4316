"""Labels as class ids, for colouring and metrics only."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advae.errors import DataError


def class_ids(
    labels: Mapping[str, npt.ArrayLike], lengths: Mapping[str, int] | None = None
) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    """Labels of each part as class ids; names become ids in the order of the alphabet, over all parts.

    Args:
        labels: whole numbers or names, [N] a part; a part whose labels are all -1 (unknown) is left out.
        lengths: the examples of each part, to compare with.

    Returns:
        int64 [N] for each labelled part, and the class names if the labels were names.

    Raises:
        DataError: labels that are neither whole numbers nor names, or not one for each example.
    """
    found = {part: np.asarray(values) for part, values in labels.items()}
    for part, values in found.items():
        found[part] = values = values.reshape(-1) if values.size == len(values) else values
        if lengths and len(values) != lengths[part]:
            raise DataError(
                f"the labels of {part} do not match its examples",
                given=f"{len(values)} labels, {lengths[part]} examples",
            )
        whole = values.dtype.kind in "buiUS" or (
            values.dtype.kind == "f" and (values == np.rint(values)).all()
        )
        if values.ndim != 1 or not whole:
            raise DataError(
                f"the labels of {part} cannot be read as classes",
                given=f"{values.dtype} of shape {values.shape}",
                expected="one whole number or name for each example",
            )
    names = None
    if any(values.dtype.kind in "US" for values in found.values()):
        names, flat = np.unique(np.concatenate([v.astype(str) for v in found.values()]), return_inverse=True)
        cuts = np.cumsum([len(values) for values in found.values()])[:-1]
        found = dict(zip(found, np.split(flat, cuts), strict=True))
    ids = {part: torch.from_numpy(values.astype(np.int64)) for part, values in found.items()}
    return {p: v for p, v in ids.items() if (v != -1).any()}, None if names is None else tuple(names.tolist())
