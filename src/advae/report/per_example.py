"""Per-example arrays of an evaluation, one file per estimate: ``eval/NAME.npz``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from advae.errors import CheckpointError
from advae.evaluation.estimate import file_stem
from advae.io import read_npz

if TYPE_CHECKING:
    from advae.run import Run

Arrays = Mapping[str, NDArray[Any]]
MEAN_REL_TOL = 1e-5  # between the mean of the values and the estimate, which may have been rounded to float32


def per_example_arrays(run: Run, estimate: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Return the arrays of an estimate; empty if there is no such file or it cannot be read."""
    try:
        return dict(read_npz(run.path / run.eval_folder / f"{file_stem(str(estimate.get('name', '')))}.npz"))
    except CheckpointError:
        return {}


def per_example_values(run: Run, estimate: Mapping[str, Any]) -> NDArray[np.float64] | None:
    """Return the values whose mean an estimate is; None if they were not saved or are of another evaluation."""
    values, mean = per_example_arrays(run, estimate).get("value"), estimate.get("value")
    if values is None or mean is None or values.shape != (estimate.get("n"),):
        return None
    values = values.astype(np.float64)
    return values if abs(values.mean() - mean) <= MEAN_REL_TOL * max(1.0, abs(mean)) else None
