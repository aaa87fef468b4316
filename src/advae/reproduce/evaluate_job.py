"""How a run is judged for a table: the parts of the table's evaluation, one after another; and images to show.

What was found is kept in the run, under what was asked of which weights, and found again there:

reproduced/judged.json    figures, remarks, and what the model can do
reproduced/NAME.npz       what a figure is the mean of, image by image
reproduced/images.npz     samples, test images and their reconstructions, 8-bit [n, C, H, W]
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from advae.data import Dataset
from advae.evaluation.estimate import Estimates, file_name
from advae.evaluation.evaluate import Asked, evaluate
from advae.evaluation.evaluate_run import write
from advae.evaluation.likelihood.ais import Annealing
from advae.evaluation.resumable import Work, fingerprint
from advae.io import read_json, recovered_folder, write_json
from advae.model import LatentModel
from advae.reproduce.jobs import FOLDER, Job, Plan, Record, Stage
from advae.reproduce.table_spec import ANNEALING
from advae.run import Run
from advae.training.environment import find_device

Images = dict[str, NDArray[np.uint8]]
SHOWN = 36  # images of each kind: six rows of six
JUDGED, IMAGES = "judged.json", "images.npz"


def asked_of(part: Mapping[str, Any]) -> dict[str, Any]:
    """A part of an evaluation as arguments of :func:`advae.evaluation.evaluate`; what a model cannot have is left out.

    Raises:
        ConfigError: a figure or option that there is not.
    """
    annealing = {name: value for name, value in part.items() if name in ANNEALING}
    asked = {name: value for name, value in part.items() if name not in ANNEALING} | {"strict": False}
    if annealing:
        asked["annealing"] = Annealing(**annealing)
    Asked.of(asked)
    return asked


def question(plan: Plan, job: Job) -> dict[str, Any]:
    """What an evaluation depends on besides the weights, JSON."""
    return {"parts": plan.parts, "data": job.data.checksum}


def judged(plan: Plan, job: Job, run: Run, stage: Stage) -> Record:
    """What a finished run's model is worth: figures, remarks, what it can do and the seconds that this took.

    An evaluation that was interrupted goes on where it was, and gives the same figures.
    """
    began, model = time.monotonic(), run.model(str(find_device(job.config.device)))
    found = _figures(run, model, job.data, plan.parts, stage)
    if len(model.x_shape) == 3:
        run.write_arrays(f"{FOLDER}/{IMAGES}", images(model, job.data))
    can = {"likelihood": model.decoder_has_density(), "encoder": model.has_encoder}
    return found.to_dict() | {"can": can, "evaluation_seconds": round(time.monotonic() - began, 3)}


def answer(run: Run, question: Mapping[str, Any]) -> Record | None:
    """What was found of a run when it was asked the same, with the same weights; None if it never was."""
    path = run.path / FOLDER / JUDGED
    old = read_json(path) if path.exists() else {}
    same = (old.get("question"), old.get("model")) == (question, _weights(run))
    return dict(old["found"]) if same else None


def kept(run: Run, question: Mapping[str, Any], find: Callable[[], Record]) -> Record:
    """The run's answer, or what ``find`` gives, kept as the answer."""
    old, weights = answer(run, question), _weights(run)
    if old is None:
        old = find()
        (run.path / FOLDER).mkdir(exist_ok=True)
        write_json(run.path / FOLDER / JUDGED, {"question": question, "model": weights, "found": old})
    return old


def _weights(run: Run) -> str:
    """The checksum of a run's model."""
    return str(read_json(recovered_folder(run.path / "model") / "config.json")["sha256"])


def _figures(
    run: Run, model: LatentModel, data: Dataset, parts: Sequence[Mapping[str, Any]], stage: Stage
) -> Estimates:
    """The parts one after another; of a figure that several of them give the first stands."""
    unfinished = run.path / "eval" / "unfinished"
    work = Work(unfinished, stage, fingerprint(model))
    found = Estimates()
    for part in parts:
        more = evaluate(model, data, work=work, **asked_of(part))
        known, said = {estimate.name for estimate in found}, list(found.remarks)
        found.extend(estimate for estimate in more if estimate.name not in known)
        found.remarks += [remark for remark in more.remarks if remark not in said]
    write(run, model, found)
    for estimate in found:
        if "value" in estimate.each:
            arrays = {"value": estimate.each["value"].numpy()}
            run.write_arrays(f"{FOLDER}/{file_name(estimate.name)}.npz", arrays)
    shutil.rmtree(unfinished, ignore_errors=True)
    return found


@torch.no_grad()
def images(model: LatentModel, data: Dataset) -> Images:
    """Samples of a model and, if it has an encoder, the first test images with what comes back of them."""
    raw = data.test.raw(list(range(min(SHOWN, len(data.test))))).cpu()
    x = data.protocol.observe(raw, torch.Generator().manual_seed(0))
    shown = {"samples": model.sample(SHOWN, seed=0), "test": x}
    if model.has_encoder:
        shown["reconstructions"] = model.reconstruct(x, seed=0)
    return {name: _levels(data, value) for name, value in shown.items()}


def _levels(data: Dataset, x: torch.Tensor) -> NDArray[np.uint8]:
    grey = data.protocol.to_grey(x.float().cpu()).clamp(0, 255).round()
    return np.asarray(grey.byte().numpy())


def kept_images(run: Run) -> Images:
    """The images that were kept when the run was judged; none for data that are no images."""
    path = run.path / FOLDER / IMAGES
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as file:
        return dict(file)
