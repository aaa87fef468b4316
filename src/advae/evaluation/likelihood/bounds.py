"""The evidence lower bound and its importance-weighted tightening, for decoders with densities.

    ELBO     E_r[log p(x|z) + log p(z) − log r(z|x)]
    IWAE-K   E[log 1/K Σ_k p(x, z_k) / r(z_k|x)],  z_k ~ r(z|x)      (Burda, Grosse and Salakhutdinov 2016)

r is the encoder q(z|x), or for one without a density a normal fitted to it. IWAE-1 is the ELBO; the bound rises
with K to log p(x). An encoder with an auxiliary variable a has log q̂ (`distributions/auxiliary.py`) in place of
log r(z|x): both bounds are then those of the space of a and z, and their protocol says "auxiliary".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from advae.distributions import Distribution
from advae.evaluation.estimate import Estimate, from_images
from advae.evaluation.eval_data import Observed, Part, likelihood, scored_as
from advae.evaluation.likelihood.proposals import Proposal, chosen, propose, suffix
from advae.evaluation.resumable import ALONE, Work
from advae.model import LatentModel

BATCH = 4096  # codes decoded at a time


@torch.no_grad()
def log_weights(
    model: LatentModel, x: Tensor, draws: int, bins: bool, proposal: str = "encoder", batch: int = BATCH
) -> Tensor:
    """``log p(x, z_k) − log r(z_k|x)`` for ``draws`` codes of each ``x [B, …]``: ``[draws, B]``.

    Whatever scores the draws, the weights' mean is p(x): see :meth:`Distribution.rsample_and_log_prob`.
    """
    r = propose(model, x, proposal)
    parts = []
    at_once = max(1, batch // len(x))
    for start in range(0, draws, at_once):
        count = min(at_once, draws - start)
        z, log_r = drawn(r, count)
        p = likelihood(model.decode(z.flatten(0, 1)), bins)
        log_p = p.log_prob(x.repeat(count, *[1] * (x.dim() - 1))).reshape(count, len(x))
        parts.append(log_p + model.prior.log_prob(z) - log_r)
    return torch.cat(parts)


def drawn(r: Distribution | MultivariateNormal, count: int) -> tuple[Tensor, Tensor]:
    """Codes ``[count, B, d]`` from a proposal and ``log r [count, B]``: together, for a flow need not be inverted."""
    if isinstance(r, Distribution):
        return r.rsample_and_log_prob((count,))
    z = r.rsample((count,))
    return z, r.log_prob(z)


def elbo(
    model: LatentModel,
    observed: Observed,
    draws: int = 16,
    proposal: Proposal = "auto",
    *,
    work: Work = ALONE,
) -> Estimate:
    """The ELBO: the mean over images and over ``draws`` codes of each, in nats.

    With a fitted proposal it is the bound of that normal in the encoder's place, and is named so. With an auxiliary
    variable it lies KL(q(a|x,z) ‖ r) below the ELBO of the encoder's own, unknown density.

    Raises:
        NoDensityError: the decoder is implicit; or the encoder, with proposal "encoder".
    """
    return _bound("elbo", model, observed, draws, proposal, lambda w: w.mean(0), work)


def iwae(
    model: LatentModel,
    observed: Observed,
    draws: int = 64,
    proposal: Proposal = "auto",
    *,
    work: Work = ALONE,
) -> Estimate:
    """The importance-weighted bound of ``draws`` codes an image, in nats.

    Raises:
        NoDensityError: the decoder is implicit; or the encoder, with proposal "encoder".
    """

    def mean(log_w: Tensor) -> Tensor:
        return torch.logsumexp(log_w, 0) - math.log(draws)

    return _bound(f"iwae-{draws}", model, observed, draws, proposal, mean, work)


def _bound(
    name: str,
    model: LatentModel,
    observed: Observed,
    draws: int,
    proposal: Proposal,
    reduce: Callable[[Tensor], Tensor],
    work: Work,
) -> Estimate:
    bins, used = observed.scores_bins(model), chosen(model, proposal)
    protocol = observed.protocol(
        estimator="importance weights", draws=draws, proposal=used, likelihood=scored_as(bins)
    )

    def compute(part: Part) -> Mapping[str, Tensor]:
        return {"value": reduce(log_weights(model, part.x, draws, bins, used).double())}

    named = name + suffix(used)
    values = observed.map(model.device, compute, protocol=protocol, label=named, work=work)["value"]
    return from_images(values, named, "lower bound", "nats", protocol)
