"""Evaluation of a model: which metrics apply, their estimates, and the files of a run.

    encoder   latents   density   log p(x)                     other
    yes       yes       yes       elbo, iwae, ais, bdmc        reconstruction, posterior
    yes       yes       no                                     reconstruction, posterior
    no        yes       yes       ais, bdmc from the prior
    no        no        yes       exact
    no        yes       no                                     (a GAN)

"Density" is that of the decoder. All models have samples, some have critics. All with latents have a rate-distortion
curve. An affine decoder also has an exact log p(x). Each likelihood estimator declares what it requires
(`likelihood/base.py`).

A run's evaluation is written to:

eval/estimates.json     estimates and remarks of the last evaluation
eval/NAME.npz           values for each example of the estimate of that name
eval/unfinished/        partial results of an evaluation that is running or was interrupted
eval-DATA-CHECKSUM/     the same of an evaluation on other data than the run's
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from advae.config import resolve
from advae.data import DataOptions, Dataset, from_arrays, load_data, preprocessing_from_dict
from advae.devices import default_torch_modes
from advae.errors import (
    AdvaeError,
    CheckpointError,
    ConfigError,
    DataError,
    UnsupportedError,
    WriteError,
    nearest,
)
from advae.evaluation.critics.critic_diagnostics import evaluate_critics
from advae.evaluation.estimate import Estimate, EvaluationResult, Remark, file_stem
from advae.evaluation.eval_config import DIAGNOSTICS, EvalConfig
from advae.evaluation.eval_data import EvalData, OtherExamples, num_dims
from advae.evaluation.latent_diagnostics import evaluate_posterior
from advae.evaluation.likelihood.adversarial_elbo import adversarial_elbo
from advae.evaluation.likelihood.base import ESTIMATORS, LikelihoodEstimator, estimator_names, no_encoder
from advae.evaluation.reconstruction import evaluate_reconstruction, explained_variance
from advae.evaluation.resumable import LOCAL, Runner, model_fingerprint, no_progress
from advae.evaluation.samples.sample_metrics import check_and_load_features, evaluate_samples
from advae.io import (
    PathLike,
    lock_folder,
    path_inside,
    read_json_object,
    remove_leftovers,
    write_json,
    write_npz,
)
from advae.model import LatentModel
from advae.progress import StageProgress
from advae.random import seeded
from advae.run import Run

LOCK_SECONDS = 60  # another process writes its result in less
ARRAY_FILE = r"[a-z0-9-]*\.npz"  # names that file_stem gives


def evaluate(
    model: LatentModel | Run | PathLike,
    data: Any = None,
    config: EvalConfig | None = None,
    *,
    split: str = "test",
    seed: int = 0,
    limit: int | None = None,
    other: OtherExamples | None = None,
    runner: Runner = LOCAL,
    **options: Any,
) -> EvaluationResult:
    """Evaluate a model.

    The caller's default dtype, grad and inference modes and random state have no effect and are not changed.

    Args:
        model: a model, or a run or its directory.
        data: a data set with the preprocessing that the model was trained for, or examples in memory as of
            :func:`advae.data.from_arrays`; by default the run's data. Examples without splits are all evaluated;
            baselines are then fitted to the same examples.
        split: "train", "validation" or "test".
        seed: of everything random.
        limit: use the first examples only, at most this many.
        other: evaluate these examples instead of a split of the data.
        runner: shows progress, shares out the work, stores partial results.
        options: fields of :class:`EvalConfig`, which replace those of ``config``.

    Returns:
        Estimates with remarks on what they mean: reconstruction errors, with those of principal components; log p(x)
        and bounds on it, for 8-bit images also in bits per dimension; diagnostics of the posterior and of critics;
        metrics of samples.

    Raises:
        ConfigError: an unknown metric, split or option; or no data.
        DataError: the examples cannot be read, or do not have the shape or columns of the model's observations.
        NoDensityError, UnsupportedError: a metric was named that the model does not support; before any work.
    """
    config = _replace_options(config or EvalConfig(), options)
    if not isinstance(model, LatentModel):
        run = model if isinstance(model, Run) else Run.open(model)
        model, data = run.model(), load_data(resolve(run.config).data) if data is None else data
    data = as_dataset(model, data)
    eval_data = EvalData(match_training_preprocessing(model, data), split, seed, limit, other)
    eval_data.check_min_size()
    model.eval()
    with default_torch_modes(model.dtype), seeded(seed, model.device):
        estimators, diagnostics = select_metrics(model, eval_data, config)
        sample_options: dict[str, Any] = {"metrics": config.samples, "num_samples": config.num_samples}
        if config.samples:
            sample_options["features"] = check_and_load_features(
                eval_data,
                features=config.feature_extractor,
                device=model.device,
                runner=runner,
                **sample_options,
            )
        without = config.likelihood != () and not estimators
        result = EvaluationResult((), capability_notes(model, likelihood=without))
        if model.has_encoder:
            result.add(evaluate_reconstruction(model, eval_data, runner=runner))
        log_prob = _add_likelihood(result, model, eval_data, estimators, diagnostics, runner)
        if "posterior" in diagnostics:
            bound = next((e for e in result if e.metric == "elbo" and e.kind == "lower bound"), None)
            known: dict[str, Any] = {
                "log_prob": log_prob,
                "bound": bound,
                "explained_variance": explained_variance(result),
            }
            result.add(evaluate_posterior(model, eval_data, **known, seed=seed, runner=runner))
        if "critics" in diagnostics:
            result.add(evaluate_critics(model, eval_data, log_prob=log_prob, runner=runner))
        if config.samples:
            result.add(evaluate_samples(model, eval_data, **sample_options, seed=seed, runner=runner))
    return result


def as_dataset(model: LatentModel, data: Any) -> Dataset:
    """Return data of any kind as a data set for a model; examples without splits are all in each split.

    Raises:
        ConfigError, DataError: as :func:`evaluate`.
    """
    if data is None:
        fix = "pass a data set, an array, a tensor or a data frame"
        raise ConfigError("A model has no data of its own.", fix=fix)
    if not isinstance(data, Dataset):
        description = model.info.get("data") or {}
        preprocessing = description.get("preprocessing") or {}
        options = DataOptions(
            preprocessing=preprocessing.get("name", "auto"), binarize_seed=preprocessing.get("seed", 0)
        )
        if not isinstance(data, Mapping) and not (isinstance(data, tuple) and len(data) == 3):
            data = (data, data, data)
        data = from_arrays(data, options, columns=description.get("columns"))
    if data.x_shape != model.x_shape:
        raise DataError(
            "The examples do not have the shape of the model's observations.",
            given=f"{data.name}: {' × '.join(map(str, data.x_shape))}",
            expected=" × ".join(map(str, model.x_shape)),
        )
    return data


def _replace_options(config: EvalConfig, options: Mapping[str, Any]) -> EvalConfig:
    known = EvalConfig.__dataclass_fields__
    for name in options:
        if name not in known:
            raise ConfigError(f"evaluate has no option {name!r}.", fix=nearest(name, known))
    return replace(config, **options)


# --- files of a run -----------------------------------------------------------------------------------------


def evaluate_run(
    run: Run,
    model: LatentModel,
    data: Dataset,
    config: EvalConfig | None = None,
    *,
    stage: StageProgress = no_progress,
    folder: str = Run.eval_folder,
    **options: Any,
) -> EvaluationResult:
    """Evaluate a run's model and write the result into its directory.

    After an interruption the same evaluation continues and gives the same estimates. Under several processes examples
    are shared out, and the first process writes.

    Args:
        data, config, options: as for :func:`evaluate`.
        stage: shows progress.
        folder: of the run, for the result.

    Raises:
        CheckpointError: the run was deleted, or a link leads out of its directory.
        WriteError: the disk is full.
    """
    path_inside(run.path, folder)
    with resumable_evaluation(run, model, stage) as runner:
        result = evaluate(model, data, config, runner=runner, **options)
        if runner.rank == 0:
            write_result(run, model, result, folder)
    return result


@contextmanager
def resumable_evaluation(run: Run, model: LatentModel, stage: StageProgress) -> Iterator[Runner]:
    """Yield a runner that stores partial results in a run; they are deleted when the block has succeeded.

    Raises:
        CheckpointError: the run was deleted, or a link leads out of its directory.
        WriteError: the disk is full.
    """
    runner = Runner(run.path, stage, model_fingerprint(model))
    try:
        yield runner
        if runner.rank == 0:
            runner.delete_partial_results()
    except WriteError as error:
        fix = f"{error.fix}; then evaluate again: what was computed so far is kept"
        raise WriteError(error.what, given=error.given, fix=fix) from error


def write_result(
    run: Run, model: LatentModel, result: EvaluationResult, folder: str = Run.eval_folder
) -> None:
    """Write estimates, remarks and per-example values to a folder of a run, in place of those of the last evaluation.

    Raises:
        CheckpointError: the run was deleted, or a link leads out of its directory.
    """
    path = run.file(folder)
    arrays = {f"{file_stem(estimate.name)}.npz": estimate.per_example for estimate in result}
    arrays = {name: values for name, values in arrays.items() if values}
    estimates = result.to_dict() | {"model": model.checksum, "files": sorted(arrays)}
    with lock_folder(path, create=True, timeout=LOCK_SECONDS):
        for name, values in arrays.items():
            write_npz(path / name, {key: value.numpy() for key, value in values.items()})
        for name in _files_of_last_evaluation(path) - arrays.keys():
            if (path / name).is_file():
                (path / name).unlink()
        write_json(path / "estimates.json", estimates)
        remove_leftovers(path, rf"{ARRAY_FILE}|estimates\.json")


def _files_of_last_evaluation(folder: Path) -> set[str]:
    """Return the names of the .npz files that the last evaluation wrote: no others may be deleted."""
    try:
        names = read_json_object(path_inside(folder, "estimates.json")).get("files")
    except CheckpointError:
        return set()
    return {n for n in names if re.fullmatch(ARRAY_FILE, str(n))} if isinstance(names, list) else set()


# --- what a model supports ----------------------------------------------------------------------------------


def unsupported_metrics(model: LatentModel, data: EvalData) -> dict[str, AdvaeError]:
    """Return the likelihood estimators and diagnostics that the model does not support, with errors that say why."""
    reasons = {name: ESTIMATORS.find(name).unsupported(model, data) for name in estimator_names()}
    if not model.has_encoder:
        reasons["posterior"] = no_encoder(model)
    if not model.critics:
        reasons["critics"] = UnsupportedError(
            "The model has no critics to evaluate.", fix="leave critics out of the diagnostics"
        )
    return {name: error for name, error in reasons.items() if error is not None}


def select_metrics(
    model: LatentModel, data: EvalData, config: EvalConfig
) -> tuple[list[LikelihoodEstimator], list[str]]:
    """Return the likelihood estimators and the diagnostics to compute, with their options checked."""
    unsupported = unsupported_metrics(model, data)

    def select(named: tuple[str, ...] | None, default: Iterable[str], order: Sequence[str]) -> list[str]:
        for name in named or ():
            if config.strict and name in unsupported:
                raise unsupported[name]
        names = set(default if named is None else named)
        return [name for name in order if name in names and name not in unsupported]

    known = estimator_names()
    default = [name for name in known if ESTIMATORS.find(name).by_default]
    names = select(config.likelihood, default, known)
    estimators = [ESTIMATORS.find(name).from_config(config) for name in names]
    diagnostics = select(config.diagnostics, DIAGNOSTICS, DIAGNOSTICS)
    for estimator in estimators:
        estimator.check(model)
    return estimators, diagnostics


def capability_notes(model: LatentModel, likelihood: bool) -> list[Remark]:
    """Return remarks on a model without an encoder or, where a ``likelihood`` was to be estimated, a density."""
    notes = []
    if not model.has_encoder:
        text = "The model has no encoder, so there are no latents of data, reconstructions or posterior."
        notes.append(Remark("reconstruction", text))
    if likelihood and not model.decoder_has_density():
        text = "The decoder has no density: this model has no likelihood, and no bound on one."
        only = "" if model.has_encoder else " Only its samples can be evaluated."
        notes.append(Remark("likelihood", text + only))
    return notes


def match_training_preprocessing(model: LatentModel, data: Dataset) -> Dataset:
    """Return the data with the model's own preprocessing, if it is of the same kind with other numbers.

    Standardized data thus keep the mean and scale of the data that the model was trained on.
    """
    description = (model.info.get("data") or {}).get("preprocessing", {})
    if description.get("name") != data.preprocessing.name:
        return data
    return replace(data, preprocessing=preprocessing_from_dict(description))


# --- likelihood ---------------------------------------------------------------------------------------------


def _add_likelihood(
    result: EvaluationResult,
    model: LatentModel,
    data: EvalData,
    estimators: list[LikelihoodEstimator],
    diagnostics: list[str],
    runner: Runner,
) -> Estimate | None:
    """Add the likelihood estimates; return the best one of log p(x), with values for each example."""
    has_likelihood = model.decoder_has_density()
    if has_likelihood and (warning := _density_is_no_probability(model, data)):
        result.remarks.append(warning)
        estimators = [estimator for estimator in estimators if not estimator.uses_density]
        has_likelihood = False
    first = len(result)
    by_precedence: dict[int, Estimate] = {}
    per_dim: list[Estimate] = []
    for estimator in estimators:
        estimates = estimator.estimate(model, data, runner)
        by_precedence.setdefault(estimator.precedence, estimates[0])
        per_dim += estimates if estimator.per_dim else []
        result.add(estimates)
    if has_likelihood and model.critics and model.has_encoder and not model.encoder_has_density():
        estimates = adversarial_elbo(model, data, runner=runner)
        extra = [e for e in estimates if e.section == "likelihood" or "critics" not in diagnostics]
        has_elbo = bool(result[first:]) and result[first].metric == "elbo"
        result[first + has_elbo : first + has_elbo] = extra
    for estimator in estimators:
        result.remarks += estimator.compare(result)
    if has_likelihood and data.uses_discretized_likelihood(model):
        bits_per_nat = -1 / (num_dims(model) * math.log(2))
        result.extend(estimate.scaled(bits_per_nat, "bits/dim") for estimate in per_dim)
    precedence = max(by_precedence, default=0)
    return by_precedence[precedence] if precedence else None


def _density_is_no_probability(model: LatentModel, data: EvalData) -> Remark | None:
    """Return a warning if densities would be reported as probabilities of 8-bit images."""
    preprocessing = data.data.preprocessing
    is_eight_bit = data.data.train.dtype == torch.uint8 and preprocessing.support in ("unit", "real")
    if not is_eight_bit or model.likelihood_support not in ("real", "interval"):
        return None
    text = (
        "The density of a normal at gray levels is not a probability of an image: no likelihood is given."
        " Train with data.preprocessing dequantize, for which images are scored by probabilities of their levels."
    )
    return Remark("likelihood", text, warning=True)
