"""The exact log-likelihood of models that have one: those without codes, and affine decoders with a fixed normal noise.

log p(x) = log p(x|z)              where z has no numbers: the decoder is p(x) itself
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
from advae.evaluation.eval_data import Observed, Part, likelihood, scored_as, unit_dims
from advae.evaluation.resumable import ALONE, Work
from advae.model import Conditional, LatentModel
from advae.networks.mlp import MLP

NAME = "exact log-likelihood"
AT_ONCE = 2**18  # numbers scored at a time: networks that give p(x) pixel by pixel are deep and wide


def has_exact(model: LatentModel, observed: Observed) -> bool:
    """Whether :func:`exact` can be computed."""
    if not model.latent:
        return model.decoder_has_density()
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
    """``log p(x)`` itself, in nats.

    Raises:
        NoDensityError: the model has no closed form.
    """
    if not has_exact(model, observed):
        raise no_closed_form()
    return (
        _own_density(model, observed, work) if not model.latent else _marginal_density(model, observed, work)
    )


def no_closed_form() -> NoDensityError:
    """What is said of a model whose log p(x) is not known."""
    return NoDensityError(
        "this model has no log-likelihood in closed form",
        expected="no codes (model.latent 0), or an affine decoder (mlp with no hidden layer) with normal noise that"
        " does not depend on z",
        remedy="estimate it by ais or iwae",
    )


def _own_density(model: LatentModel, observed: Observed, work: Work) -> Estimate:
    bins = observed.scores_bins(model)
    protocol = observed.protocol(estimator="the model's own density", likelihood=scored_as(bins))

    @torch.no_grad()
    def compute(part: Part) -> Mapping[str, Tensor]:
        p = likelihood(model.decode(model.prior.sample((len(part.x),))), bins)
        return {"value": p.log_prob(part.x).double()}

    size = max(1, AT_ONCE // unit_dims(model))
    found = observed.map(model.device, compute, size=size, protocol=protocol, label="log p(x)", work=work)
    return from_images(found["value"], NAME, "exact", "nats", protocol)


def _marginal_density(model: LatentModel, observed: Observed, work: Work) -> Estimate:
    p = marginal(model)

    def compute(part: Part) -> Mapping[str, Tensor]:
        return {"value": p.log_prob(part.x.double().flatten(1))}

    protocol = observed.protocol(estimator="closed form", likelihood=scored_as(False))
    values = observed.map(model.device, compute, work=work)["value"]
    return from_images(values, NAME, "exact", "nats", protocol)
