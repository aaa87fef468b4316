"""Reconstruction errors, under the likelihood and as images are compared.

Latents are samples from q(z|x), one per example. Reconstructions are the decoder's means (a sample of an implicit
decoder), not clamped, and are compared with the stored example without the preprocessing's noise.
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
from advae.evaluation.eval_data import Batch, EvalData, likelihood_description, scoring_distribution
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

LATENT = "a sample from q(z|x)"
PCA_PREFIX = "pca-"  # of the names of values for PCA's reconstructions


def evaluate_reconstruction(
    model: LatentModel, data: EvalData, *, runner: Runner = LOCAL
) -> EvaluationResult:
    """Compute all reconstruction errors in one pass, and the same for PCA.

    Returns:
        Root mean squared error per dimension; ``−E_q[log p(x|z)]`` in nats if the decoder has a density; the peak
        signal-to-noise ratio for gray levels, and the structural similarity for images. Baselines are the same for as
        many principal components of the training images as the model has latent dimensions: ``rmse (PCA-32)``.
    """
    pca = fit_pca(data.data, model.latent_dim, model.device, runner)
    values = _per_example_values(model, data, pca, runner)
    result = _comparisons(data, values, "error", {"latent": LATENT})
    if "nats" in values:
        likelihood = likelihood_description(data.uses_discretized_likelihood(model))
        protocol, name = data.protocol(latent=LATENT, likelihood=likelihood), "reconstruction"
        result.append(from_per_example(values["nats"], name, "error", "nats", protocol, "reconstruction"))
    k = len(pca.basis)
    pca_protocol = {
        "latent": f"{k} principal components",
        "fitted": f"{pca.num_images} training images, {pca.method}",
        "input": "the stored image",
    }
    of_pca = {k.removeprefix(PCA_PREFIX): v for k, v in values.items() if k.startswith(PCA_PREFIX)}
    result.add(_comparisons(data, of_pca, "baseline", pca_protocol, variant=f"PCA-{k}"))
    if k == len(pca.mean):
        text = f"PCA is not a useful baseline here: {k} components reconstruct {k} dimensions exactly."
        result.remarks.append(Remark(f"rmse (PCA-{k})", text))
    return result


@torch.no_grad()
def _per_example_values(model: LatentModel, data: EvalData, pca: PCA, runner: Runner) -> dict[str, Tensor]:
    """Return errors and scores of each example; those of PCA under names that begin with PCA_PREFIX."""
    preprocessing, discretize = data.data.preprocessing, data.uses_discretized_likelihood(model)
    is_gray = preprocessing.unit == "gray levels"
    is_image = is_gray and len(data.data.x_shape) == 3

    def compare(a: Tensor, b: Tensor) -> dict[str, Tensor]:
        values = {"mse": mean_squared_error(a, b)}
        if is_gray:
            values["psnr"] = psnr(values["mse"])
        if is_image:
            values["ssim"] = ssim(a, b)
        return values

    @torch.no_grad()
    def compute(batch: Batch) -> dict[str, Tensor]:
        p = model.decode(model.encode(batch.x).sample())
        gray = preprocessing.raw_to_gray(batch.raw)
        values = compare(preprocessing.to_gray(p.point_estimate()), gray)
        if p.has_log_prob:
            values["nats"] = -scoring_distribution(p, discretize).log_prob(batch.x)
        baseline = compare(pca.reconstruct(gray), gray)
        return values | {PCA_PREFIX + name: value for name, value in baseline.items()}

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

    protocol = data.protocol(**latent, per="pixel")
    result = EvaluationResult([_rmse(data, f"rmse{suffix}", values["mse"], kind, protocol, variant)])
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
    """Return the root of the mean squared error per dimension, in the unit of the data.

    By the delta method se(√m) = se(m) / (2 √m). Per-example values are the roots for each example; the estimate is
    the root of the mean of their squares.
    """
    mean, stderr = mean_and_stderr(mse)
    root, unit = math.sqrt(mean), data.data.preprocessing.unit
    stderr = stderr / (2 * root) if root else 0.0
    estimate = Estimate(name, root, stderr, kind, unit, len(mse), protocol, "reconstruction")
    return replace(estimate, per_example={"value": mse.sqrt()}, metric="rmse", variant=variant)
