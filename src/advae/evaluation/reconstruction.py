"""Reconstruction errors, under the likelihood and as images are compared.

Latents are samples from q(z|x), one per example. Reconstructions are the decoder's means (a sample of an implicit
decoder), not clamped, and are compared with the stored example without the preprocessing's noise: images in gray
levels, tables in standard deviations of their columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from advae.evaluation.estimate import (
    Estimate,
    EvaluationResult,
    Kind,
    Remark,
    from_per_example,
    mean_and_stderr,
)
from advae.evaluation.eval_data import (
    Batch,
    ErrorScale,
    EvalData,
    OtherExamples,
    likelihood_description,
    num_dims,
    scoring_distribution,
)
from advae.evaluation.model_criticism import ReconstructionErrors
from advae.evaluation.pca import PCA, fit_pca
from advae.evaluation.resumable import LOCAL, Runner
from advae.metrics.image_similarity import (
    K1,
    K2,
    MAX_PSNR,
    PEAK,
    WINDOW_SIGMA,
    mean_squared_error,
    psnr,
    ssim,
    window_width,
)
from advae.model import LatentModel

LATENT, MEAN_LATENT = "a sample from q(z|x)", "the mean of q(z|x)"
PCA_PREFIX, MEAN_PREFIX = (
    "pca-",
    "mean-",
)  # of the names of values for PCA's reconstructions, and from mean latents
MAX_COLUMNS = 1000  # of a table, with an error each


def evaluate_reconstruction(
    model: LatentModel, data: EvalData, *, runner: Runner = LOCAL
) -> EvaluationResult:
    """Compute all reconstruction errors in one pass, and the same for baselines.

    Returns:
        Root mean squared error per dimension, with latents that are samples and that are means; ``−E_q[log p(x|z)]`` in
        nats if the decoder has a density; the peak signal-to-noise ratio for gray levels, and the structural similarity
        for images. Baselines are the same for as many principal components of the training examples as the model has
        latent dimensions, ``rmse (PCA-32)``, the mean of the training examples, and the model on training examples. For
        a table ``per_example["columns"]`` of model and PCA are the errors of its columns, ``[n]``. Remarks name faults.
    """
    pca = fit_pca(data.data, model.latent_dim, model.device, runner)
    values = _per_example_values(model, data, pca, runner)
    result = _comparisons(data, values, "error", {"latent": LATENT})
    if "nats" in values:
        likelihood = likelihood_description(data.uses_discretized_likelihood(model))
        protocol, name = data.protocol(latent=LATENT, likelihood=likelihood), "reconstruction"
        result.append(from_per_example(values["nats"], name, "error", "nats", protocol, "reconstruction"))
    k = len(pca.basis)
    noun = "image" if len(data.data.x_shape) == 3 else "example"
    fitted = f"{pca.num_images} training {noun}s"
    pca_protocol = {
        "latent": f"{k} principal components",
        "fitted": f"{fitted}, {pca.method}",
        "input": f"the stored {noun}",
    }
    of_pca = {k.removeprefix(PCA_PREFIX): v for k, v in values.items() if k.startswith(PCA_PREFIX)}
    result.add(_comparisons(data, of_pca, "baseline", pca_protocol, variant=f"PCA-{k}"))
    if k == len(pca.mean):
        text = f"PCA is not a useful baseline here: {k} components reconstruct {k} dimensions exactly."
        result.remarks.append(Remark(f"rmse (PCA-{k})", text))
    protocol = data.protocol(latent="none", reconstruction=f"the mean of {fitted}")
    result.append(
        _rmse(data, "rmse (mean example)", values["mean-example"], "baseline", protocol, "mean example")
    )
    train = _train_errors(model, data, runner)
    if train is not None:
        protocol = data.protocol(latent=LATENT, examples="of training, evenly spaced")
        result.append(_rmse(data, "rmse (train)", train, "baseline", protocol, "train"))
    protocol = data.protocol(latent=MEAN_LATENT)
    estimate = _rmse(
        data, "rmse (mean latent)", values[MEAN_PREFIX + "mse"], "error", protocol, "mean latent"
    )
    result.append(replace(estimate, metric="rmse-mean-latent"))
    errors = ReconstructionErrors(
        sampled=values["mse"],
        from_mean=values[MEAN_PREFIX + "mse"],
        pca=values[PCA_PREFIX + "mse"],
        mean_example=values["mean-example"],
        train=train,
        dims=num_dims(model),
        components=k,
        latents=model.latent_dim,
        unit=ErrorScale.of(data.data.preprocessing).unit,
        sees_examples=data.data.preprocessing.support != "binary",
    )
    result.remarks += errors.remarks()
    return result


def explained_variance(result: EvaluationResult) -> float | None:
    """Return the part of the variance of examples that reconstructions explain; None if there are none."""
    errors = {e.variant: e.value for e in result if e.metric == "rmse"}
    if "" not in errors or not errors.get("mean example"):
        return None
    return 1 - (errors[""] / errors["mean example"]) ** 2


def _train_errors(model: LatentModel, data: EvalData, runner: Runner) -> Tensor | None:
    """Return squared errors of as many training examples as there are others; None if these are evaluated."""
    split = data.data.train
    if data.other is None and data.split == "train":
        return None
    count = min(len(split), data.count)
    examples = replace(split, values=split.raw(torch.arange(count) * len(split) // count), examples=None)
    train = replace(data, limit=None, other=OtherExamples(data.data.name, data.data.checksum, examples))
    scale = ErrorScale.of(data.data.preprocessing)

    @torch.no_grad()
    def compute(batch: Batch) -> dict[str, Tensor]:
        p = model.decode(model.encode(batch.x).sample())
        x_hat = scale.from_x(p.point_estimate())
        return {"mse": mean_squared_error(x_hat, scale.from_raw(batch.raw))}

    return train.map(model.device, compute, label="training examples", runner=runner)["mse"]


@torch.no_grad()
def _per_example_values(model: LatentModel, data: EvalData, pca: PCA, runner: Runner) -> dict[str, Tensor]:
    """Return errors and scores of each example; those of baselines under names that begin with their prefixes."""
    preprocessing, discretize = data.data.preprocessing, data.uses_discretized_likelihood(model)
    scale = ErrorScale.of(preprocessing)
    is_gray = preprocessing.unit == "gray levels"
    is_image = is_gray and len(data.data.x_shape) == 3
    has_columns = not is_gray and num_dims(model) <= MAX_COLUMNS

    def compare(a: Tensor, b: Tensor) -> dict[str, Tensor]:
        values = {"mse": mean_squared_error(a, b)}
        if is_gray:
            values["psnr"] = psnr(values["mse"])
        if is_image:
            values["ssim"] = ssim(a, b)
        if has_columns:
            values["columns"] = (a.double() - b.double()).square().flatten(1)
        return values

    @torch.no_grad()
    def compute(batch: Batch) -> dict[str, Tensor]:
        q = model.encode(batch.x)
        p = model.decode(q.sample())
        target = scale.from_raw(batch.raw)
        values = compare(scale.from_x(p.point_estimate()), target)
        if p.has_log_prob:
            values["nats"] = -scoring_distribution(p, discretize).log_prob(batch.x)
        baseline = compare(pca.reconstruct(target), target)
        values |= {PCA_PREFIX + name: value for name, value in baseline.items()}
        from_mean = scale.from_x(model.decode(q.mean).point_estimate())
        values[MEAN_PREFIX + "mse"] = mean_squared_error(from_mean, target)
        values["mean-example"] = mean_squared_error(
            pca.mean.reshape(target.shape[1:]).expand_as(target), target
        )
        return values

    return data.map(model.device, compute, label="reconstruction", runner=runner)


def _comparisons(
    data: EvalData, values: Mapping[str, Tensor], kind: Kind, latent: Mapping[str, Any], variant: str = ""
) -> EvaluationResult:
    """Return the comparisons as estimates; those of PCA have a variant and are baselines."""
    score: Kind = "score" if kind == "error" else kind
    suffix = variant and f" ({variant})"

    def mean(metric: str, unit: str, **more: Any) -> Estimate:
        protocol, name = data.protocol(**latent, **more), f"{metric.upper()}{suffix}"
        return from_per_example(
            values[metric], name, score, unit, protocol, "reconstruction", metric=metric, variant=variant
        )

    per = "pixel" if len(data.data.x_shape) == 3 else "column"
    protocol = data.protocol(**latent, per=per)
    rmse = _rmse(data, f"rmse{suffix}", values["mse"], kind, protocol, variant)
    if "columns" in values:
        columns = values["columns"].mean(0).sqrt()
        rmse = replace(rmse, per_example={**rmse.per_example, "columns": columns})
    result = EvaluationResult([rmse])
    if "psnr" in values:
        result.append(mean("psnr", "dB", peak=PEAK, mean="of each image's PSNR", **{"at most": MAX_PSNR}))
    if "ssim" in values:
        width = window_width(data.data.x_shape)
        window = {"window": f"{width} × {width}, Gaussian of {WINDOW_SIGMA}", "borders": "left out"}
        result.append(mean("ssim", "", **window, K1=K1, K2=K2, L=PEAK))
    return result


def _rmse(
    data: EvalData, name: str, mse: Tensor, kind: Kind, protocol: dict[str, Any], variant: str
) -> Estimate:
    """Return the root of the mean squared error per dimension, on the scale of errors.

    By the delta method se(√m) = se(m) / (2 √m). Per-example values are the roots for each example; the estimate is
    the root of the mean of their squares.
    """
    mean, stderr = mean_and_stderr(mse)
    root, unit = math.sqrt(mean), ErrorScale.of(data.data.preprocessing).unit
    stderr = stderr / (2 * root) if root else 0.0
    estimate = Estimate(name, root, stderr, kind, unit, len(mse), protocol, "reconstruction")
    return replace(estimate, per_example={"value": mse.sqrt()}, metric="rmse", variant=variant)
