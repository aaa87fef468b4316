"""Exact log-likelihood of models without latents, and of affine decoders with fixed normal noise.

log p(x) = log p(x|z)              where z has no dimensions: the decoder is p(x) itself
x = b + W z + ε,  ε ~ N(0, S)      p(x) = N(b, W Wᵀ + S),  S diagonal        (probabilistic PCA; Bishop 2006, 12.2)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal

from advae.distributions.normal import Normal, NormalHead
from advae.errors import AdvaeError, NoDensityError
from advae.evaluation.estimate import Estimate, EvaluationResult, from_per_example
from advae.evaluation.eval_data import (
    Batch,
    EvalData,
    likelihood_description,
    num_dims,
    scoring_distribution,
)
from advae.evaluation.likelihood.base import ESTIMATORS, LikelihoodEstimator
from advae.evaluation.resumable import LOCAL, Runner
from advae.model import Conditional, LatentModel
from advae.networks.mlp import MLP

DIMS_PER_BATCH = 2**18  # networks that give p(x) pixel by pixel are deep and wide


def has_closed_form(model: LatentModel, data: EvalData) -> bool:
    """Return whether :func:`exact` supports the model."""
    if not model.latent_dim:
        return model.decoder_has_density()
    decoder = model.decoder
    if not isinstance(decoder, Conditional) or data.uses_discretized_likelihood(model):
        return False
    network, head = decoder.network, decoder.head
    affine = isinstance(network, MLP) and len(network.body) == 1
    normal = isinstance(head, NormalHead) and head.distribution is Normal
    return affine and normal and head.variance != "pixel" and head.squash == "none"


@torch.no_grad()
def marginal(model: LatentModel) -> LowRankMultivariateNormal:
    """Return ``p(x)`` over flattened observations ``[n]`` in float64, from the decoder at z = 0 and unit vectors."""
    unit_vectors = torch.eye(model.latent_dim, dtype=model.dtype, device=model.device)
    p = model.decode(torch.cat([torch.zeros_like(unit_vectors[:1]), unit_vectors]))
    mean, variance = (moment.double().flatten(1) for moment in p.moments())
    return LowRankMultivariateNormal(mean[0], (mean[1:] - mean[0]).T, variance[0], validate_args=False)


def exact(model: LatentModel, data: EvalData, *, runner: Runner = LOCAL) -> Estimate:
    """Compute ``log p(x)`` in nats.

    Raises:
        NoDensityError: the model has no closed form.
    """
    if not has_closed_form(model, data):
        raise no_closed_form()
    discretize = data.uses_discretized_likelihood(model)
    likelihood, options = likelihood_description(discretize), dict[str, Any]()
    if model.latent_dim:
        marginal_p, protocol = marginal(model), data.protocol(estimator="closed form", likelihood=likelihood)

        def compute(batch: Batch) -> Mapping[str, Tensor]:
            return {"value": marginal_p.log_prob(batch.x.double().flatten(1))}

    else:
        protocol = data.protocol(estimator="the model's own density", likelihood=likelihood)
        size = max(1, DIMS_PER_BATCH // num_dims(model))
        options = {"size": size, "protocol": protocol, "label": "log p(x)"}

        @torch.no_grad()
        def compute(batch: Batch) -> Mapping[str, Tensor]:
            p = scoring_distribution(model.decode(model.prior.sample((len(batch.x),))), discretize)
            return {"value": p.log_prob(batch.x).double()}

    value = data.map(model.device, compute, **options, runner=runner)["value"]
    name = "exact log-likelihood"
    return from_per_example(value, name, "exact", "nats", protocol, metric="exact", higher_is_better=True)


def no_closed_form() -> NoDensityError:
    """Return the error for models whose log p(x) is not known."""
    return NoDensityError(
        "The model has no log-likelihood in closed form.",
        expected="no latents (model.latent_dim 0), or an affine decoder (mlp without hidden layers) with normal noise"
        " that does not depend on z",
        fix="estimate it by ais or iwae",
    )


@ESTIMATORS.register("exact")
@dataclass(frozen=True)
class Exact(LikelihoodEstimator):
    """The exact log-likelihood."""

    by_default = True
    order = 30
    precedence = 3

    @classmethod
    def unsupported(cls, model: LatentModel, data: EvalData) -> AdvaeError | None:
        return super().unsupported(model, data) or (
            None if has_closed_form(model, data) else no_closed_form()
        )

    def estimate(self, model: LatentModel, data: EvalData, runner: Runner) -> EvaluationResult:
        return EvaluationResult([exact(model, data, runner=runner)])
