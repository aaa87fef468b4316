"""Posterior diagnostics: the inference gap, and the aggregated posterior against the prior.

inference gap            log p(x) − ELBO(x) = KL(q(z|x) ‖ p(z|x))
aggregated posterior     q(z) = E_x q(z|x), which equals the prior in a well-trained model
information              I_u = ½ log(Var z_u / E_x Var(z_u|x)), nats: E_x KL(q(z_u|x) ‖ q(z_u)) if both are normal
active units             dimensions u with I_u ≥ 0.1

KL(q(z_u|x) ‖ p(z_u)) is not used for the information: it is large for a posterior that is narrow and the same for all
x. Nor is a small variance of posterior means (Burda, Grosse and Salakhutdinov 2016: 0.01), which is 0.005 nats.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from advae.distributions import Distribution
from advae.distributions.normal import Normal
from advae.errors import ConfigError, NotFiniteError
from advae.evaluation.estimate import Estimate, EvaluationResult, Kind, Remark, from_per_example
from advae.evaluation.eval_data import Batch, EvalData
from advae.evaluation.model_criticism import MIN_INFORMATION, collapse_remark
from advae.evaluation.resumable import LOCAL, Runner
from advae.metrics.two_sample import (
    MIN_CLASSIFIER_SAMPLES,
    NUM_PERMUTATIONS,
    classifier_test,
    mmd_test,
    num_blocks,
)
from advae.model import LatentModel
from advae.random import mix_seeds, seeded

MAX_LATENTS = 10_000  # that are compared with samples from the prior
MEAN_VARIANCE_TOL = 0.001  # of the variance of an inactive dimension whose means are estimated
DIMS_PER_BATCH = 2**23  # of repeated observations that are encoded together
NUM_SIGMAS = 3.0
P_VALUE_LEVEL = 0.01

C2ST = "C2ST accuracy"


def evaluate_posterior(
    model: LatentModel,
    data: EvalData,
    *,
    log_prob: Estimate | None = None,
    bound: Estimate | None = None,
    explained_variance: float | None = None,
    seed: int = 0,
    runner: Runner = LOCAL,
) -> EvaluationResult:
    """Compute diagnostics of the encoder's latents.

    Args:
        model: only its encoder and prior are used.
        log_prob: log p(x) of these examples, exact or estimated, with per-example values.
        bound: their ELBO. The inference gap needs both.
        explained_variance: of reconstructions, which tells whether a model with little information has collapsed.
        seed: of samples from the prior, permutations and the classifier.

    Returns:
        The inference gap; MMD² between latents and samples from the prior, with its p-value; the accuracy of a
        classifier in telling them apart; the number of active units; the aggregated posterior's standard deviation.
        A remark says whether the model has collapsed.

    Raises:
        ConfigError: ``log_prob`` and ``bound`` are not for the same examples.
        NotFiniteError: the encoder's latents are not finite.
    """
    result = EvaluationResult()
    if log_prob is not None and bound is not None:
        result.add(inference_gap(log_prob, bound))
    latents = _sample_latents(model, data, runner)
    active = _active_units(data, latents)
    collapse = collapse_remark(active[0].per_example["information"], explained_variance)
    if collapse:
        active.remarks = [collapse]
    result.add(
        _compare_with_prior(model, data, latents["z"], seed, runner, is_collapsed=collapse is not None)
    )
    result.add(active)
    result.append(_aggregated_std(data, latents["z"]))
    return result


def inference_gap(log_prob: Estimate, bound: Estimate) -> EvaluationResult:
    """Compute ``log p(x) − ELBO(x)`` for each example, in nats.

    It is a lower bound if ``log_prob`` is one. With the bound of a fitted normal, or of a critic, it is the gap of
    that; name or kind say so. For an encoder with an auxiliary variable it includes KL(q(a|x,z) ‖ r), the gap of the
    reverse model; the protocol says so.

    Raises:
        ConfigError: the two estimates are not for the same examples.
    """
    for key in ("data", "checksum", "split", "preprocessing", "seed", "likelihood"):
        if log_prob.protocol.get(key) != bound.protocol.get(key) or log_prob.n != bound.n:
            raise ConfigError(
                "An inference gap needs log p(x) and the ELBO of the same examples.",
                given=f"{log_prob.name} for {log_prob.n} examples, {bound.name} for {bound.n} ({key})",
            )
    values = log_prob.per_example["value"].double() - bound.per_example["value"].double()
    kind: Kind = "unbiased" if log_prob.kind == "exact" else log_prob.kind
    if bound.kind == "adversarial estimate":
        kind = bound.kind
    protocol = {**bound.protocol, "log_prob": log_prob.name, "bound": bound.name}
    name = f"inference gap{bound.variant and f'[{bound.variant}]'}"
    gap = from_per_example(
        values, name, kind, "nats", protocol, "posterior", metric="inference-gap", variant=bound.variant
    )
    result = EvaluationResult([gap])
    if gap.value < -NUM_SIGMAS * gap.stderr:
        text = (
            f"{log_prob.name} is below {bound.name} by {-gap.value:.2f} nats: it is too loose an estimate of"
            " log p(x) for an inference gap."
        )
        result.remarks.append(Remark(gap.name, text, warning=True))
    return result


@torch.no_grad()
def _sample_latents(model: LatentModel, data: EvalData, runner: Runner) -> dict[str, Tensor]:
    """Return per example a sample "z", the "mean" E[z|x] and the "variance"; or two estimates of the mean.

    For an implicit posterior these are "mean" and "other", and there is no "variance".
    """
    num_samples = math.ceil(1 / (MEAN_VARIANCE_TOL * math.sqrt(data.count)))

    @torch.no_grad()
    def compute(batch: Batch) -> dict[str, Tensor]:
        q = model.encode(batch.x)
        if isinstance(q, Normal):
            return {"z": q.sample(), "mean": q.mean, "variance": q.scale.square()}
        names = ("mean", "other")
        return {"z": q.sample()} | {name: _sample_mean(q, num_samples, batch.x) for name in names}

    latents = data.map(model.device, compute, label="latents", runner=runner)
    if not latents["z"].isfinite().all():
        fix = "train again: the training has failed"
        raise NotFiniteError("The encoder's latents are not finite.", fix=fix)
    return latents


def _sample_mean(q: Distribution, num_samples: int, x: Tensor) -> Tensor:
    """Return the mean of samples, ``[B, d]``."""
    chunk_size = max(1, DIMS_PER_BATCH // x.numel())
    counts = [min(chunk_size, num_samples - start) for start in range(0, num_samples, chunk_size)]
    return torch.stack([q.sample((count,)).sum(0) for count in counts]).sum(0) / num_samples


def _compare_with_prior(
    model: LatentModel, data: EvalData, z: Tensor, seed: int, runner: Runner, *, is_collapsed: bool
) -> EvaluationResult:
    """Compare at most MAX_LATENTS of the latents ``z [N, d]`` with as many samples from the prior."""
    n = min(len(z), MAX_LATENTS)
    z = z[torch.arange(n) * len(z) // n]
    with seeded(mix_seeds(seed, 0), model.device):
        prior = model.prior.sample((n,))
    with runner.stage("latents against the prior", num_blocks(n)) as tick:
        distance = mmd_test(z.to(prior.device), prior, seed=mix_seeds(seed, 1), tick=tick)
    p, about = distance.p, {"latents": n, "prior_samples": n, "samples_seed": seed}

    def estimate(
        name: str, metric: str, value: float, stderr: float, more: dict[str, Any], kind: Kind = "diagnostic"
    ) -> Estimate:
        protocol = data.protocol(**about, **more)
        return Estimate(name, value, stderr, kind, "", n, protocol, "posterior", metric=metric)

    kernel = {"kernel": "5 Gaussians of variance d/2 to 8d", "stderr": "under equality, by permutations"}
    name, permutations = "MMD² of aggregated posterior", {"test": "MMD²", "permutations": NUM_PERMUTATIONS}
    result = EvaluationResult([estimate(name, "mmd", distance.value, distance.stderr, kernel, "error")])
    p_stderr = math.sqrt(p * (1 - p) / NUM_PERMUTATIONS)
    result.append(estimate("MMD² p-value", "mmd-p-value", p, p_stderr, permutations))
    if n >= MIN_CLASSIFIER_SAMPLES:
        accuracy, num_test = classifier_test(z, prior, seed=mix_seeds(seed, 2))
        stderr = math.sqrt(accuracy * (1 - accuracy) / num_test)
        tested_on = {"tested on": f"{num_test} held-out latents"}
        classifier = {"classifier": "perceptron, one hidden layer of 64", **tested_on}
        result.append(estimate(C2ST, "c2st", accuracy, stderr, classifier))
        result.remarks.append(_prior_remark(accuracy, num_test, p, is_collapsed))
    return result


def _prior_remark(accuracy: float, num_test: int, p: float, is_collapsed: bool) -> Remark:
    """Return what the classifier's accuracy and the test mean."""
    if is_collapsed:
        text = (
            f"A comparison of latents with the prior (accuracy {accuracy:.2f}, chance: 0.50; MMD, p = {p:.2f}) says"
            " nothing about a collapsed model: latents without information on x can equal the prior for every x."
        )
    elif accuracy - 0.5 > NUM_SIGMAS * 0.5 / math.sqrt(num_test):
        text = (
            f"A classifier separates latents of data from samples of the prior with accuracy {accuracy:.2f} (chance:"
            " 0.50), so generated samples come from latents that were rare in training."
        )
    elif p <= P_VALUE_LEVEL:
        text = (
            f"Latents of data differ from samples of the prior (MMD, p = {p:.3f}), but a classifier does not separate"
            f" them (accuracy {accuracy:.2f}, chance: 0.50): the difference is small, or there are too few examples"
            " to learn it from."
        )
    else:
        text = (
            f"Latents of data and samples of the prior cannot be distinguished (accuracy {accuracy:.2f}, chance:"
            f" 0.50; MMD, p = {p:.2f})."
        )
    return Remark(C2ST, text)


def _active_units(data: EvalData, latents: dict[str, Tensor]) -> EvaluationResult:
    """Count the dimensions whose latents have information on x.

    The covariance over examples of two independent estimates of E[z|x] does not have the bias that the variance of
    one has, and neither does that of their differences from a sample. The standard error is that of the count if each
    dimension's share of variance, Var E[z|x] / Var z, is as uncertain as a ratio of means over examples.
    """
    is_normal = "variance" in latents
    z, a, b = (latents[name].double() for name in ("z", "mean", "mean" if is_normal else "other"))
    between = (a - a.mean(0)) * (b - b.mean(0)) * (len(a) / (len(a) - 1))
    within = latents["variance"].double() if is_normal else (z - a) * (z - b)
    tiny = torch.finfo(a.dtype).tiny
    explained, noise = between.mean(0).clamp_min(0), within.mean(0).clamp_min(tiny)
    share, threshold = explained / (explained + noise), 1 - math.exp(-2 * MIN_INFORMATION)
    information = -0.5 * torch.log1p(-share.clamp_max(1 - torch.finfo(a.dtype).eps))
    influence = (between * noise - within * explained) / (explained + noise).square()
    stderr = influence.std(0) / math.sqrt(len(a))
    count, d = int((share >= threshold).sum()), a.shape[1]
    p = torch.special.ndtr((share - threshold) / stderr.clamp_min(tiny))
    method = "mean and variance of q(z|x)" if is_normal else "two sample means"
    protocol = data.protocol(
        information=f"½ log(Var z / E Var(z|x)), {method}", threshold=f"{MIN_INFORMATION} nats"
    )
    count_stderr = round(float((p * (1 - p)).sum().sqrt()), 2)  # less is 0 for a count
    name, unit, n = "active units", f"of {d}", len(a)
    estimate = Estimate(name, float(count), count_stderr, "diagnostic", unit, n, protocol, "posterior")
    values = {"variance": between.mean(0), "information": information}
    result = EvaluationResult([replace(estimate, metric="active-units", per_example=values)])
    if count < d:
        text = (
            f"{count} of {d} latent dimensions are active: the others have less than {MIN_INFORMATION} nats of"
            f" information on x each, all together have {float(information.sum()):.1f}."
        )
        result.remarks.append(Remark(name, text))
    return result


def _aggregated_std(data: EvalData, z: Tensor) -> Estimate:
    """Return the standard deviation of q(z), averaged over dimensions; the prior's is 1. Also each mean and std.

    The standard error is that of the variances, by the delta method.
    """
    z = z.double()
    mean, std = z.mean(0), z.std(0)
    influence = ((z - mean).square() - std.square()) / (2 * std.clamp_min(torch.finfo(z.dtype).tiny))
    value, stderr = float(std.mean()), float(influence.mean(1).std()) / math.sqrt(len(z))
    protocol = data.protocol(latent="a sample from q(z|x)")
    estimate = Estimate("aggregated std", value, stderr, "diagnostic", "", len(z), protocol, "posterior")
    return replace(estimate, metric="aggregated-std", per_example={"mean": mean, "std": std})
