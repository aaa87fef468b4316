"""The evidence lower bound and its importance-weighted tightening, for encoders and decoders with densities.

    ELBO     E_q[log p(x|z) + log p(z) − log q(z|x)]
    IWAE-K   E[log 1/K Σ_k p(x, z_k) / q(z_k|x)],  z_k ~ q(z|x)      (Burda, Grosse and Salakhutdinov 2016)

IWAE-1 is the ELBO; the bound rises with K to log p(x).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from advae.errors import NoDensityError
from advae.evaluation.estimate import Estimate, from_images
from advae.evaluation.observed import Observed, likelihood, scored_as
from advae.model import LatentModel

BATCH = 4096  # codes decoded at a time


@torch.no_grad()
def log_weights(model: LatentModel, x: Tensor, draws: int, bins: bool) -> Tensor:
    """``log p(x, z_k) − log q(z_k|x)`` for ``draws`` codes of each ``x [B, …]``: ``[draws, B]``.

    Raises:
        NoDensityError: encoder or decoder is implicit.
    """
    q = model.encode(x)
    if not q.has_log_prob:
        raise NoDensityError(
            "this bound needs the density of q(z|x), and the encoder is implicit",
            remedy="see the adversarial estimate, which is not a bound",
        )
    parts = []
    at_once = max(1, BATCH // len(x))
    for start in range(0, draws, at_once):
        count = min(at_once, draws - start)
        z = q.rsample((count,))
        p = likelihood(model.decode(z.flatten(0, 1)), bins)
        log_p = p.log_prob(x.repeat(count, *[1] * (x.dim() - 1))).reshape(count, len(x))
        parts.append(log_p + model.prior.log_prob(z) - q.log_prob(z))
    return torch.cat(parts)


def elbo(model: LatentModel, observed: Observed, draws: int = 16) -> Estimate:
    """The ELBO: the mean over images and over ``draws`` codes of each, in nats."""
    values = _per_image(model, observed, draws, lambda w: w.double().mean(0))
    return from_images(values, "elbo", "lower bound", "nats", _protocol(model, observed, draws))


def iwae(model: LatentModel, observed: Observed, draws: int = 64) -> Estimate:
    """The importance-weighted bound of ``draws`` codes an image, in nats."""
    values = _per_image(model, observed, draws, lambda w: torch.logsumexp(w.double(), 0) - math.log(draws))
    return from_images(values, f"iwae-{draws}", "lower bound", "nats", _protocol(model, observed, draws))


def _per_image(model: LatentModel, observed: Observed, draws: int, reduce: object) -> Tensor:
    assert callable(reduce)
    bins = observed.scores_bins(model)
    chunks = observed.chunks(model.device)
    return torch.cat([reduce(log_weights(model, x, draws, bins)).cpu() for x, _ in chunks])


def _protocol(model: LatentModel, observed: Observed, draws: int) -> dict[str, object]:
    scored = scored_as(observed.scores_bins(model))
    return observed.protocol(estimator="importance weights", draws=draws, likelihood=scored)
