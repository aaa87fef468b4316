"""The exact log-likelihood of models that have one: an affine decoder with a fixed normal noise.

x = b + W z + ε,  ε ~ N(0, S)      p(x) = N(b, W Wᵀ + S),  S diagonal        (probabilistic PCA; Bishop 2006, 12.2)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal

from advae.distributions.normal import Normal, NormalHead
from advae.errors import NoDensityError
from advae.evaluation.estimate import Estimate, from_images
from advae.evaluation.observed import Observed, Part, scored_as
from advae.evaluation.work import ALONE, Work
from advae.model import Conditional, LatentModel
from advae.networks.mlp import MLP


def has_exact(model: LatentModel, observed: Observed) -> bool:
    """Whether :func:`exact` can be computed."""
    decoder = model.decoder
    if not isinstance(decoder, Conditional) or observed.scores_bins(model):
        return False
    network, head = decoder.network, decoder.head
    affine = isinstance(network, MLP) and len(network.body) == 1
    normal = isinstance(head, NormalHead) and head.distribution is Normal
    return affine and normal and head.variance != "pixel" and head.squash == "none"


@torch.no_grad()
def marginal(model: LatentModel) -> LowRankMultivariateNormal:
    """``p(x)`` over flattened observations ``[n]``, in float64, read off the decoder at z = 0 and the unit codes."""
    codes = torch.cat([torch.zeros(1, model.latent), torch.eye(model.latent)]).to(model.device)
    p = model.decode(codes)
    mean, variance = (moment.double().flatten(1) for moment in p.moments())
    return LowRankMultivariateNormal(mean[0], (mean[1:] - mean[0]).T, variance[0], validate_args=False)


def exact(model: LatentModel, observed: Observed, *, work: Work = ALONE) -> Estimate:
    """``log p(x)`` in closed form, in nats.

    Raises:
        NoDensityError: the model has no closed form.
    """
    if not has_exact(model, observed):
        raise NoDensityError(
            "this model has no log-likelihood in closed form",
            expected="an affine decoder (mlp with no hidden layer) with normal noise that does not depend on z",
            remedy="estimate it by ais or iwae",
        )
    p = marginal(model)

    def compute(part: Part) -> Mapping[str, Tensor]:
        return {"value": p.log_prob(part.x.double().flatten(1))}

    protocol = observed.protocol(estimator="closed form", likelihood=scored_as(False))
    values = observed.map(model.device, compute, work=work)["value"]
    return from_images(values, "exact log-likelihood", "exact", "nats", protocol)
