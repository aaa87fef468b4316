"""The evaluation of a run, written into its folder: whole when it is done, and continued when it was interrupted.

eval/estimates.json     the figures and remarks of the last evaluation
eval/NAME.npz           what a figure found for each image
eval/unfinished/        parts of an evaluation that is going on, or was interrupted
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from advae.data import Dataset
from advae.evaluation.estimate import Estimates, file_name
from advae.evaluation.evaluate import evaluate
from advae.evaluation.resumable import Ticks, Work, fingerprint, unseen
from advae.model import LatentModel
from advae.run import Run


def evaluate_run(
    run: Run,
    model: LatentModel,
    data: Dataset,
    *,
    stage: Callable[[str, int], AbstractContextManager[Ticks]] = unseen,
    **asked: Any,
) -> Estimates:
    """Evaluate a run's model and write what was found into its folder.

    The same evaluation, after it was interrupted, goes on where it was and gives the same figures. Under several
    processes images are shared out, and the first process writes.

    Args:
        run: where to write.
        model: its model.
        data: its data.
        stage: shows progress.
        asked: as for :func:`advae.evaluation.evaluate`.
    """
    unfinished = run.path / "eval" / "unfinished"
    work = Work(unfinished, stage, fingerprint(model))
    found = evaluate(model, data, work=work, **asked)
    if work.rank == 0:
        write(run, model, found)
        shutil.rmtree(unfinished, ignore_errors=True)
    return found


def write(run: Run, model: LatentModel, found: Estimates) -> None:
    """Write figures, remarks and arrays of the run's model; arrays of figures that are no more go."""
    arrays = {file_name(estimate.name): estimate.each for estimate in found if estimate.each}
    for name, each in arrays.items():
        run.write_arrays(f"eval/{name}.npz", {key: value.numpy() for key, value in each.items()})
    run.write_estimates(found.to_dict(), model.checksum)
    for path in (run.path / "eval").glob("*.npz"):
        if path.stem not in arrays:
            path.unlink()
