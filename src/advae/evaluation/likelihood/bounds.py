"""The evidence lower bound (ELBO) and the importance-weighted bound (IWAE).

    ELBO     E_r[log p(x|z) + log p(z) − log r(z|x)]
    IWAE-K   E[log 1/K Σ_k p(x, z_k) / r(z_k|x)],  z_k ~ r(z|x)      (Burda, Grosse and Salakhutdinov 2016)

r is the encoder q(z|x) or, for an implicit encoder, a normal fitted to it. IWAE-1 is the ELBO; the bound rises with K
to log p(x). For an encoder with an auxiliary variable a, log q̂ (`distributions/auxiliary.py`) replaces log r(z|x):
both bounds are then those of the space of a and z, and their protocol says "auxiliary".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from advae.evaluation.estimate import Estimate, EvaluationResult, from_per_example
from advae.evaluation.eval_config import Proposal
from advae.evaluation.eval_data import Batch, EvalData, likelihood_description, scoring_distribution
from advae.evaluation.likelihood.base import ESTIMATORS, LikelihoodEstimator
from advae.evaluation.likelihood.proposals import (
    make_proposal,
    proposal_variant,
    resolve_proposal,
    sample_with_log_prob,
)
from advae.evaluation.resumable import LOCAL, Runner
from advae.model import LatentModel

DECODER_BATCH_SIZE = 4096


@torch.no_grad()
def log_weights(
    model: LatentModel,
    x: Tensor,
    num_samples: int,
    discretize: bool,
    proposal: str = "encoder",
    batch_size: int = DECODER_BATCH_SIZE,
) -> Tensor:
    """Return ``log p(x, z_k) − log r(z_k|x)`` for samples k of each ``x [B, …]``, ``[num_samples, B]``.

    The mean of the weights is p(x) for any proposal: see :meth:`Distribution.rsample_and_log_prob`.
    """
    r = make_proposal(model, x, proposal)
    chunks = []
    chunk_size = max(1, batch_size // len(x))
    for start in range(0, num_samples, chunk_size):
        count = min(chunk_size, num_samples - start)
        z, log_r = sample_with_log_prob(r, count)
        p = scoring_distribution(model.decode(z.flatten(0, 1)), discretize)
        log_p = p.log_prob(x.repeat(count, *[1] * (x.dim() - 1))).reshape(count, len(x))
        chunks.append(log_p + model.prior.log_prob(z) - log_r)
    return torch.cat(chunks)


def elbo(
    model: LatentModel,
    data: EvalData,
    num_samples: int = 16,
    proposal: Proposal = "auto",
    *,
    runner: Runner = LOCAL,
) -> Estimate:
    """Compute the ELBO in nats, the mean over examples and over ``num_samples`` latents of each.

    With a fitted proposal it is the bound of that normal in place of the encoder, and its name says so. With an
    auxiliary variable it is KL(q(a|x,z) ‖ r) below the ELBO of the encoder's own density, which is unknown.

    Raises:
        NoDensityError: the decoder is implicit; or the encoder, with proposal "encoder".
    """
    return _bound("elbo", model, data, num_samples, proposal, lambda w: w.mean(0), runner)


def iwae(
    model: LatentModel,
    data: EvalData,
    num_samples: int = 64,
    proposal: Proposal = "auto",
    *,
    runner: Runner = LOCAL,
) -> Estimate:
    """Compute the importance-weighted bound of ``num_samples`` latents per example, in nats.

    Raises:
        NoDensityError: the decoder is implicit; or the encoder, with proposal "encoder".
    """

    def log_mean_weight(log_w: Tensor) -> Tensor:
        return torch.logsumexp(log_w, 0) - math.log(num_samples)

    return _bound("iwae", model, data, num_samples, proposal, log_mean_weight, runner)


def _bound(
    metric: str,
    model: LatentModel,
    data: EvalData,
    num_samples: int,
    proposal: Proposal,
    reduce: Callable[[Tensor], Tensor],
    runner: Runner,
) -> Estimate:
    discretize, resolved = data.uses_discretized_likelihood(model), resolve_proposal(model, proposal)
    protocol = data.protocol(
        estimator="importance weights",
        samples=num_samples,
        proposal=resolved,
        likelihood=likelihood_description(discretize),
    )

    def compute(batch: Batch) -> Mapping[str, Tensor]:
        return {"value": reduce(log_weights(model, batch.x, num_samples, discretize, resolved).double())}

    fitted, k = proposal_variant(resolved), str(num_samples) if metric == "iwae" else ""
    name = metric + (k and f"-{k}") + (fitted and f"[{fitted}]")
    values = data.map(model.device, compute, protocol=protocol, label=name, runner=runner)["value"]
    variant = ", ".join(filter(None, (k and f"{k} samples", fitted)))
    return from_per_example(
        values, name, "lower bound", "nats", protocol, metric=metric, variant=variant, higher_is_better=True
    )


@dataclass(frozen=True)
class _ImportanceSampling(LikelihoodEstimator):
    """What ELBO and IWAE share."""

    requires = ("decoder density", "encoder")
    by_default = True
    proposal: Proposal = "auto"

    def check(self, model: LatentModel) -> None:
        resolve_proposal(model, self.proposal)


@ESTIMATORS.register("elbo")
@dataclass(frozen=True)
class ELBO(_ImportanceSampling):
    """The evidence lower bound."""

    order = 10
    elbo_samples: int = 16

    def estimate(self, model: LatentModel, data: EvalData, runner: Runner) -> EvaluationResult:
        return EvaluationResult([elbo(model, data, self.elbo_samples, self.proposal, runner=runner)])


@ESTIMATORS.register("iwae")
@dataclass(frozen=True)
class IWAE(_ImportanceSampling):
    """The importance-weighted bound."""

    order = 20
    precedence = 1
    iwae_samples: int = 64

    def estimate(self, model: LatentModel, data: EvalData, runner: Runner) -> EvaluationResult:
        return EvaluationResult([iwae(model, data, self.iwae_samples, self.proposal, runner=runner)])
