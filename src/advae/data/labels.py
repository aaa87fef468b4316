"""Labels as class ids, for plots and metrics."""

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
    """Convert the labels of each part to class ids. Names become ids in alphabetical order, over all parts.

    Args:
        labels: whole numbers or names, ``[N]`` per part. A part whose labels are all -1 (unknown) is omitted.
        lengths: the number of examples per part, to check against.

    Returns:
        int64 ``[N]`` per labeled part, and the class names if the labels were names.

    Raises:
        DataError: if labels are neither whole numbers nor names, or their number is wrong.
    """
    arrays = {part: np.asarray(values) for part, values in labels.items()}
    for part, values in arrays.items():
        arrays[part] = values = values.reshape(-1) if values.size == len(values) else values
        if lengths and len(values) != lengths[part]:
            raise DataError(
                f"The number of {part} labels and examples differs.",
                given=f"{len(values)} labels, {lengths[part]} examples",
            )
        is_whole = values.dtype.kind == "f" and (values == np.rint(values)).all()
        if values.ndim != 1 or not (is_whole or values.dtype.kind in "buiUS"):
            raise DataError(
                f"The labels of {part} are not classes.",
                given=f"{values.dtype} of shape {values.shape}",
                expected="one whole number or name per example",
            )
    names = None
    if any(values.dtype.kind in "US" for values in arrays.values()):
        texts = [values.astype(str) for values in arrays.values()]
        names, ids = np.unique(np.concatenate(texts), return_inverse=True)
        ends = np.cumsum([len(values) for values in texts])[:-1]
        arrays = dict(zip(arrays, np.split(ids, ends), strict=True))
    tensors = {part: torch.from_numpy(values.astype(np.int64)) for part, values in arrays.items()}
    known = {part: ids for part, ids in tensors.items() if (ids != -1).any()}
    return known, None if names is None else tuple(names.tolist())
