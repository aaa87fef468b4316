"""The evidence lower bound (ELBO) and the importance-weighted bound (IWAE), with their proposals.

    ELBO     E_r[log p(x|z) + log p(z) − log r(z|x)]
    IWAE-K   E[log 1/K Σ_k p(x, z_k) / r(z_k|x)],  z_k ~ r(z|x)      (Burda, Grosse and Salakhutdinov 2016)

IWAE-1 is the ELBO; the bound rises with K to log p(x). Any proposal r gives a valid bound:

    "encoder"     q(z|x), where it has a density
    "auxiliary"   q(a|x) q(z|a,x) / r(a|x,z), an encoder that scores its own samples (`distributions/auxiliary.py`)
    "diagonal"    N(μ(x), diag σ²(x)), the encoder's moments, which only need samples
    "full"        N(μ(x), Σ(x))

With a fitted proposal it is not the ELBO of the encoder itself, so the estimate's name contains the proposal. An
encoder with an auxiliary variable is trained by the bound in the space of a and z; that bound keeps its name, and its
protocol says "auxiliary".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from advae.distributions import Distribution
from advae.distributions.normal import Normal
from advae.errors import ConfigError, NoDensityError, nearest
from advae.evaluation.estimate import Estimate, EvaluationResult, from_per_example
from advae.evaluation.eval_config import Proposal
from advae.evaluation.eval_data import Batch, EvalData, likelihood_description, scoring_distribution
from advae.evaluation.likelihood.base import ESTIMATORS, LikelihoodEstimator
from advae.evaluation.resumable import LOCAL, Runner
from advae.model import LatentModel

DECODER_BATCH_SIZE = 4096
PROPOSALS = get_args(Proposal)
ENCODER_PROPOSALS = ("encoder", "auxiliary")  # the encoder itself
MIN_VARIANCE = 1e-6  # of a fitted normal: float32 cannot invert the covariance of some narrower encoders


@torch.no_grad()
def encoder_proposal(model: LatentModel) -> str:
    """Return how the encoder scores its samples: "encoder" (by its density), "auxiliary", or "" (not at all)."""
    if not model.has_encoder:
        return ""
    q = model.encode(torch.zeros(2, *model.x_shape, device=model.device, dtype=model.dtype))
    if q.has_log_prob:
        return "encoder"
    return "auxiliary" if q.has_sample_log_prob else ""


def resolve_proposal(model: LatentModel, proposal: Proposal) -> str:
    """Return what :func:`make_proposal` takes: "auto" is the encoder if it scores its samples, else "full".

    Raises:
        ConfigError: there is no such proposal.
        NoDensityError: "encoder" for an implicit encoder.
    """
    if proposal not in PROPOSALS:
        raise ConfigError(f"Unknown proposal {proposal!r}.", fix=nearest(proposal, PROPOSALS))
    own = encoder_proposal(model)
    if proposal == "auto":
        return own or "full"
    if proposal == "encoder" and not own:
        raise NoDensityError(
            "This bound needs the density of q(z|x), and the encoder is implicit.",
            fix='use a normal fitted to it as the proposal: "full" or "diagonal"',
        )
    return own if proposal == "encoder" else proposal


def make_proposal(model: LatentModel, x: Tensor, proposal: str) -> Distribution | MultivariateNormal:
    """Return the distribution that latents of ``x [B, …]`` are sampled from."""
    q = model.encode(x)
    if proposal in ENCODER_PROPOSALS:
        return q
    mean, scale = fit_gaussian(q, full=proposal == "full")
    if proposal == "full":
        return MultivariateNormal(mean, scale_tril=scale, validate_args=False)
    return Normal(mean, scale.log())


def fit_gaussian(q: Distribution, full: bool) -> tuple[Tensor, Tensor]:
    """Return mean ``[B, d]`` and scale of the normal with the moments of ``q``: ``[B, d]``, or lower triangular."""
    mean, second = (moment.detach() for moment in q.moments(full))
    if not full:
        return mean, (second + MIN_VARIANCE).sqrt()
    eye = torch.eye(mean.shape[-1], dtype=second.dtype, device=second.device)
    return mean, torch.linalg.cholesky_ex(second + MIN_VARIANCE * eye).L


@torch.no_grad()
def log_weights(
    model: LatentModel,
    x: Tensor,
    num_samples: int,
    discretize: bool,
    proposal: str = "encoder",
    batch_size: int = DECODER_BATCH_SIZE,
    noise: Tensor | None = None,
) -> Tensor:
    """Return ``log p(x, z_k) − log r(z_k|x)`` for samples k of each ``x [B, …]``, ``[num_samples, B]``.

    The mean of the weights is p(x) for any proposal: see :meth:`Distribution.rsample_and_log_prob`. A normal r uses
    ``noise [num_samples, d]``, where given, for each x; otherwise each has its own.
    """
    r = make_proposal(model, x, proposal)
    chunks = []
    chunk_size = max(1, batch_size // len(x))
    for start in range(0, num_samples, chunk_size):
        count = min(chunk_size, num_samples - start)
        z, log_r = _sample_with_log_prob(r, count, None if noise is None else noise[start : start + count])
        p = scoring_distribution(model.decode(z.flatten(0, 1)), discretize)
        log_p = p.log_prob(x.repeat(count, *[1] * (x.dim() - 1))).reshape(count, len(x))
        chunks.append(log_p + model.prior.log_prob(z) - log_r)
    return torch.cat(chunks)


def _sample_with_log_prob(
    r: Distribution | MultivariateNormal, count: int, noise: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return samples ``[count, B, d]`` and their log densities; a normal is sampled by ``noise [count, d]``."""
    if noise is not None and type(r) is Normal:
        z = r.mean + r.scale * noise.unsqueeze(1)
    elif isinstance(r, Distribution):
        return r.rsample_and_log_prob((count,))  # together: a flow is not inverted
    elif noise is not None:
        z = r.mean + (r.scale_tril @ noise[:, None, :, None]).squeeze(-1)
    else:
        z = r.rsample((count,))
    return z, r.log_prob(z)


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

    fitted = "" if resolved in ENCODER_PROPOSALS else f"{resolved}-normal"
    k = str(num_samples) if metric == "iwae" else ""
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
