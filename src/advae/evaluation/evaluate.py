"""Evaluation of a model: which metrics apply, their estimates, and the files of a run.

    encoder   latents   density   log p(x)                     other
    yes       yes       yes       elbo, iwae, ais, bdmc        reconstruction, posterior
    yes       yes       no                                     reconstruction, posterior
    no        yes       yes       ais, bdmc from the prior
    no        no        yes       exact
    no        yes       no                                     (a GAN)

"Density" is that of the decoder. All models have samples, some have critics. An affine decoder also has an exact log
p(x). Each likelihood estimator declares what it requires (`likelihood/base.py`).

A run's evaluation is written to:

eval/estimates.json     estimates and remarks of the last evaluation
eval/NAME.npz           values for each example of the estimate of that name
eval/unfinished/        partial results of an evaluation that is running or was interrupted
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from advae.data import Dataset, preprocessing_from_dict
from advae.errors import AdvaeError, ConfigError, UnsupportedError, nearest
from advae.evaluation.critics.critic_diagnostics import evaluate_critics
from advae.evaluation.estimate import Estimate, EvaluationResult, Remark, file_stem
from advae.evaluation.eval_config import DIAGNOSTICS, EvalConfig
from advae.evaluation.eval_data import EvalData, num_dims
from advae.evaluation.latent_diagnostics import evaluate_posterior
from advae.evaluation.likelihood.adversarial_elbo import adversarial_elbo
from advae.evaluation.likelihood.base import ESTIMATORS, LikelihoodEstimator, estimator_names, no_encoder
from advae.evaluation.reconstruction import evaluate_reconstruction
from advae.evaluation.resumable import LOCAL, Runner, model_fingerprint, no_progress
from advae.evaluation.samples.sample_metrics import check_and_load_features, evaluate_samples
from advae.model import LatentModel
from advae.progress import StageProgress
from advae.random import seeded
from advae.run import Run
from advae.torch_state import default_torch_modes


def evaluate(
    model: LatentModel,
    data: Dataset,
    config: EvalConfig | None = None,
    *,
    split: str = "test",
    seed: int = 0,
    limit: int | None = None,
    runner: Runner = LOCAL,
    **options: Any,
) -> EvaluationResult:
    """Evaluate a model.

    The caller's default dtype, grad and inference modes and random state have no effect and are not changed.

    Args:
        model: a trained model.
        data: the data set, with the preprocessing that the model was trained for.
        config: metrics and their options.
        split: "train", "validation" or "test".
        seed: of everything random.
        limit: use the first examples only, at most this many.
        runner: shows progress, shares out the work, stores partial results.
        options: fields of :class:`EvalConfig`, which replace those of ``config``.

    Returns:
        Estimates with remarks on what they mean: reconstruction errors, with those of principal components; log p(x)
        and bounds on it, for 8-bit images also in bits per dimension; diagnostics of the posterior and of critics;
        metrics of samples.

    Raises:
        ConfigError: an unknown metric, split or option.
        NoDensityError, UnsupportedError: a metric was named that the model does not support; before any work.
    """
    for name in options:
        if name not in EvalConfig.__dataclass_fields__:
            fix = nearest(name, EvalConfig.__dataclass_fields__)
            raise ConfigError(f"evaluate has no option {name!r}.", fix=fix)
    config = replace(config or EvalConfig(), **options)
    model.eval()
    eval_data = EvalData(match_training_preprocessing(model, data), split, seed, limit)
    eval_data.check_min_size()
    with default_torch_modes(model.dtype), seeded(seed, model.device):
        unsupported = unsupported_metrics(model, eval_data)
        estimators = [
            ESTIMATORS.find(name).from_config(config)
            for name in _select(config.likelihood, _default_estimators(), unsupported, config.strict)
        ]
        diagnostics = _select(config.diagnostics, DIAGNOSTICS, unsupported, config.strict)
        for estimator in estimators:
            estimator.check(model)
        features = None
        if config.samples:
            features = check_and_load_features(
                eval_data,
                config.samples,
                config.feature_extractor,
                config.num_samples,
                device=model.device,
                runner=runner,
            )

        result = EvaluationResult((), capability_notes(model, likelihood=config.likelihood != ()))
        if model.has_encoder:
            result.add(evaluate_reconstruction(model, eval_data, runner=runner))
        log_prob = None
        if model.decoder_has_density():
            log_prob = _add_likelihood(result, model, eval_data, estimators, diagnostics, runner)
        if "posterior" in diagnostics:
            bound = next((e for e in result if e.metric == "elbo" and e.kind == "lower bound"), None)
            result.add(
                evaluate_posterior(model, eval_data, log_prob=log_prob, bound=bound, seed=seed, runner=runner)
            )
        if "critics" in diagnostics:
            result.add(evaluate_critics(model, eval_data, log_prob=log_prob, runner=runner))
        if config.samples:
            result.add(
                evaluate_samples(
                    model,
                    eval_data,
                    metrics=config.samples,
                    features=features,
                    num_samples=config.num_samples,
                    seed=seed,
                    runner=runner,
                )
            )
    return result


def evaluate_run(
    run: Run,
    model: LatentModel,
    data: Dataset,
    config: EvalConfig | None = None,
    *,
    stage: StageProgress = no_progress,
    **options: Any,
) -> EvaluationResult:
    """Evaluate a run's model and write the result into its directory.

    After an interruption the same evaluation continues and gives the same estimates. Under several processes examples
    are shared out, and the first process writes.

    Args:
        run: where to write.
        model: its model.
        data: its data.
        config: as for :func:`evaluate`.
        stage: shows progress.
        options: as for :func:`evaluate`.
    """
    unfinished = run.path / "eval" / "unfinished"
    runner = Runner(unfinished, stage, model_fingerprint(model))
    result = evaluate(model, data, config, runner=runner, **options)
    if runner.rank == 0:
        write_result(run, model, result)
        shutil.rmtree(unfinished, ignore_errors=True)
    return result


def write_result(run: Run, model: LatentModel, result: EvaluationResult) -> None:
    """Write estimates, remarks and per-example values; delete the values of earlier estimates."""
    arrays = {file_stem(estimate.name): estimate.per_example for estimate in result if estimate.per_example}
    for stem, values in arrays.items():
        run.write_arrays(f"eval/{stem}.npz", {name: value.numpy() for name, value in values.items()})
    run.write_estimates(result.to_dict(), model.checksum)
    for path in (run.path / "eval").glob("*.npz"):
        if path.stem not in arrays:
            path.unlink()


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


def capability_notes(model: LatentModel, likelihood: bool) -> list[Remark]:
    """Return remarks on a model without an encoder or a density.

    Args:
        model: the model.
        likelihood: whether likelihood estimates were to be computed.
    """
    notes = []
    if not model.has_encoder:
        text = "The model has no encoder, so there are no latents of data, reconstructions or posterior."
        notes.append(Remark("reconstruction", text))
    if likelihood and not model.decoder_has_density():
        text = "The decoder has no density: this model has no likelihood, and no bound on one."
        if not model.has_encoder:
            text += " Only its samples can be evaluated."
        notes.append(Remark("likelihood", text))
    return notes


def _default_estimators() -> list[str]:
    return [name for name in estimator_names() if ESTIMATORS.find(name).by_default]


def _select(
    names: tuple[str, ...] | None,
    default: tuple[str, ...] | list[str],
    unsupported: Mapping[str, AdvaeError],
    strict: bool,
) -> list[str]:
    """Return the metrics to compute; raise the reason if one is unsupported that was named."""
    for name in names or ():
        if strict and name in unsupported:
            raise unsupported[name]
    selected_names = default if names is None else names
    order = [*estimator_names(), *DIAGNOSTICS]
    return sorted((name for name in set(selected_names) if name not in unsupported), key=order.index)


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
    if warning := _density_is_no_probability(model, data):
        result.remarks.append(warning)
        return None
    first = len(result)
    best: Estimate | None = None
    best_precedence = 0
    per_dim: list[Estimate] = []
    for estimator in estimators:
        estimates = estimator.estimate(model, data, runner)
        if estimator.precedence > best_precedence:
            best, best_precedence = estimates[0], estimator.precedence
        per_dim += estimates if estimator.per_dim else []
        result.add(estimates)
    if model.critics and model.has_encoder and not model.encoder_has_density():
        estimates = adversarial_elbo(model, data, runner=runner)
        extra = [e for e in estimates if e.section == "likelihood" or "critics" not in diagnostics]
        has_elbo = bool(result[first:]) and result[first].metric == "elbo"
        result[first + has_elbo : first + has_elbo] = extra
    if data.uses_discretized_likelihood(model):
        bits_per_nat = -1 / (num_dims(model) * math.log(2))
        result.extend(estimate.scaled(bits_per_nat, "bits/dim") for estimate in per_dim)
    return best


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
