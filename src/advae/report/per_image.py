"""What an evaluation left of single images, a file for each figure: ``eval/NAME.npz``."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from advae.evaluation.estimate import file_stem

if TYPE_CHECKING:
    from advae.run import Run

Arrays = Mapping[str, NDArray[Any]]

ROUNDING = 1e-5  # of a mean, once in float64 and once as the estimator took it


def arrays_of(run: Run, estimate: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """What an estimate found for single images; empty where there is no such file, or it cannot be read."""
    path = run.path / run.kept / f"{file_name(str(estimate.get('name', '')))}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, zipfile.BadZipFile):
        return {}


def values_of(run: Run, estimate: Mapping[str, Any]) -> NDArray[np.float64] | None:
    """What an estimate is the mean of, image by image; None where that was not kept, or is of another evaluation."""
    values, mean = arrays_of(run, estimate).get("value"), estimate.get("value")
    if values is None or mean is None or values.shape != (estimate.get("n"),):
        return None
    found = values.astype(np.float64)
    return found if abs(found.mean() - mean) <= ROUNDING * max(1.0, abs(mean)) else None
