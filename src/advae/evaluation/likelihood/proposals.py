"""Proposals for importance sampling: the encoder, or a normal fitted to it.

    q(z|x)                          "encoder": where it has a density
    q(a|x) q(z|a,x) / r(a|x,z)      "auxiliary": an encoder that scores its own samples, in the space of a and z
    N(μ(x), diag σ²(x))             "diagonal": the encoder's moments
    N(μ(x), Σ(x))                   "full"

Any proposal gives a valid bound on log p(x); fitting one only needs samples from the encoder. With a fitted proposal
the bound is not the ELBO of the encoder itself, so the estimate's name contains the proposal. An encoder with an
auxiliary variable is trained by the bound in the space of a and z; that bound keeps its name, and its protocol says
"auxiliary".
"""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from advae.distributions import Distribution
from advae.distributions.normal import Normal
from advae.errors import ConfigError, NoDensityError, nearest
from advae.evaluation.eval_config import Proposal
from advae.model import LatentModel

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


def sample_with_log_prob(r: Distribution | MultivariateNormal, count: int) -> tuple[Tensor, Tensor]:
    """Return latents ``[count, B, d]`` and ``log r [count, B]``, computed together: a flow is not inverted."""
    if isinstance(r, Distribution):
        return r.rsample_and_log_prob((count,))
    z = r.rsample((count,))
    return z, r.log_prob(z)


def fit_gaussian(q: Distribution, full: bool) -> tuple[Tensor, Tensor]:
    """Return mean ``[B, d]`` and scale of the normal with the moments of ``q``: ``[B, d]``, or lower triangular."""
    mean, second = (moment.detach() for moment in q.moments(full))
    if not full:
        return mean, (second + MIN_VARIANCE).sqrt()
    eye = torch.eye(mean.shape[-1], dtype=second.dtype, device=second.device)
    return mean, torch.linalg.cholesky_ex(second + MIN_VARIANCE * eye).L


def proposal_variant(proposal: str) -> str:
    """Return how the proposal is named in an estimate; the encoder itself is not.

    >>> proposal_variant("encoder"), proposal_variant("full")
    ('', 'full-normal')
    """
    return "" if proposal in ENCODER_PROPOSALS else f"{proposal}-normal"
