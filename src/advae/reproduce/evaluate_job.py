"""The evaluation of a run for a table, part by part, and images to show.

The result is cached in the run, with the options of the evaluation and the checksum of the weights:

reproduced/estimates.json   estimates, remarks, and what the model supports
reproduced/NAME.npz         per-example values
reproduced/images.npz       samples, test images and their reconstructions, 8-bit [n, C, H, W]
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from advae.data import Dataset
from advae.devices import find_device
from advae.errors import CheckpointError
from advae.evaluation.estimate import EvaluationResult, file_stem
from advae.evaluation.eval_config import AISConfig, EvalConfig
from advae.evaluation.evaluate import ARRAY_FILE, evaluate, resumable_evaluation, write_result
from advae.io import (
    path_inside,
    read_json,
    read_json_object,
    read_npz,
    recovered_folder,
    remove_leftovers,
    write_json,
)
from advae.model import LatentModel
from advae.progress import StageProgress
from advae.reproduce.plan import Job, Plan, Record
from advae.reproduce.table_spec import AIS_OPTIONS
from advae.run import Run

FOLDER = "reproduced"
NUM_IMAGES = 36  # of each kind: six rows of six


def eval_arguments(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return a part of a table's evaluation as arguments of :func:`evaluate`; unsupported metrics are left out.

    Raises:
        ConfigError: an unknown metric or an invalid option.
    """
    options = {name: value for name, value in part.items() if name not in (*AIS_OPTIONS, "split", "limit")}
    options["annealing"] = AISConfig(**{name: part[name] for name in AIS_OPTIONS if name in part})
    config = EvalConfig(**options, strict=False)
    return {"config": config} | {name: part[name] for name in ("split", "limit") if name in part}


def get_or_evaluate(plan: Plan, job: Job, run: Run, stage: StageProgress) -> Record:
    """Return the cached result of a run, or evaluate the run and cache the result."""
    result = cached_result(plan, job, run)
    if result is None:
        result = evaluate_job(plan, job, run, stage)
        cache = {"key": cache_key(plan, job), "model": _weights_checksum(run), "result": result}
        path = path_inside(run.path, FOLDER, "estimates.json")
        write_json(path, cache)
        remove_leftovers(path.parent, rf"{ARRAY_FILE}|estimates\.json")
        result = read_json(path)["result"]
    return dict(result)


def cached_result(plan: Plan, job: Job, run: Run) -> Record | None:
    """Return the result of the same evaluation of the same weights; None if there is none, or it is damaged."""
    try:
        cache = read_json_object(path_inside(run.path, FOLDER, "estimates.json"))
    except CheckpointError:
        return None
    is_same = (cache.get("key"), cache.get("model")) == (cache_key(plan, job), _weights_checksum(run))
    return dict(cache["result"]) if is_same and isinstance(cache.get("result"), dict) else None


def cache_key(plan: Plan, job: Job) -> dict[str, Any]:
    """Return what a result depends on besides the weights, as JSON values."""
    return {"evaluation": plan.evaluation, "data": job.data.checksum}


def evaluate_job(plan: Plan, job: Job, run: Run, stage: StageProgress) -> Record:
    """Evaluate a finished run; return estimates, remarks, what the model supports, and the seconds taken.

    After an interruption the evaluation continues and gives the same estimates.
    """
    start, model = time.monotonic(), run.model(str(find_device(job.config.device)))
    result = _evaluate_parts(run, model, job.data, plan.evaluation, stage)
    if len(model.x_shape) == 3:
        run.write_arrays(f"{FOLDER}/images.npz", make_images(model, job.data))
    supports = {"likelihood": model.decoder_has_density(), "encoder": model.has_encoder}
    seconds = round(time.monotonic() - start, 3)
    return result.to_dict() | {"supports": supports, "evaluation_seconds": seconds}


def _weights_checksum(run: Run) -> str:
    return str(read_json(recovered_folder(run.path / "model") / "config.json")["sha256"])


def _evaluate_parts(
    run: Run, model: LatentModel, data: Dataset, parts: Sequence[Mapping[str, Any]], stage: StageProgress
) -> EvaluationResult:
    """Evaluate the parts one after another; of estimates with the same name the first is kept."""
    result = EvaluationResult()
    with resumable_evaluation(run, model, stage) as runner:
        for part in parts:
            more = evaluate(model, data, runner=runner, **eval_arguments(part))
            names, remarks = {estimate.name for estimate in result}, list(result.remarks)
            result.extend(estimate for estimate in more if estimate.name not in names)
            result.remarks += [remark for remark in more.remarks if remark not in remarks]
        write_result(run, model, result)
        for estimate in result:
            if "value" in estimate.per_example:
                arrays = {"value": estimate.per_example["value"].numpy()}
                run.write_arrays(f"{FOLDER}/{file_stem(estimate.name)}.npz", arrays)
    return result


@torch.no_grad()
def make_images(model: LatentModel, data: Dataset) -> dict[str, NDArray[np.uint8]]:
    """Return samples of a model, test images and, if it has an encoder, their reconstructions."""
    raw = data.test.raw(list(range(min(NUM_IMAGES, len(data.test))))).cpu()
    x = data.preprocessing.apply(raw, torch.Generator().manual_seed(0))
    images = {"samples": model.sample(NUM_IMAGES, seed=0), "test": x}
    if model.has_encoder:
        images["reconstructions"] = model.reconstruct(x, seed=0)
    to_gray = data.preprocessing.to_gray
    return {n: to_gray(v.float().cpu()).clamp(0, 255).round().byte().numpy() for n, v in images.items()}


def load_images(record: Record | None) -> dict[str, NDArray[Any]]:
    """Return the images of an evaluated run; none for data that are not images, or if they are damaged."""
    try:
        return dict(read_npz(path_inside(record["run"], FOLDER, "images.npz"))) if record else {}
    except CheckpointError:
        return {}
