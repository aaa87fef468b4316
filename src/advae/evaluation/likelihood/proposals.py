"""What importance weights draw codes from: the encoder, or for one without a density a normal fitted to it.

    q(z|x)                          "encoder": where it has a density
    q(a|x) q(z|a,x) / r(a|x,z)      "auxiliary": an encoder that scores its own draws, in the space of a and z
    N(μ(x), diag σ²(x))             "diagonal": the encoder's moments
    N(μ(x), Σ(x))                   "full"

Any proposal makes a valid bound; a fitted one only needs draws of its own. The bound is then on log p(x) and not the
ELBO of the encoder itself, which is why its name says which proposal it was made with. An auxiliary variable's bound
is what its encoder was trained by, and has no other name; its protocol says so.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from advae.distributions import Distribution
from advae.distributions.normal import Normal
from advae.errors import ConfigError, NoDensityError, nearest
from advae.model import LatentModel

Proposal = Literal["auto", "encoder", "diagonal", "full"]
PROPOSALS = ("auto", "encoder", "diagonal", "full")
OWN = ("encoder", "auxiliary")  # the encoder itself
LEAST_VARIANCE = 1e-6  # of a fitted normal: an encoder may be narrower than float32 can invert


@torch.no_grad()
def own_proposal(model: LatentModel) -> str:
    """How a model's encoder scores its draws: "encoder", by its density; "auxiliary"; or not at all, ""."""
    if not model.has_encoder:
        return ""
    q = model.encode(torch.zeros(2, *model.x_shape, device=model.device))
    if q.has_log_prob:
        return "encoder"
    return "auxiliary" if q.scores_draws else ""


def chosen(model: LatentModel, proposal: Proposal) -> str:
    """The proposal that is meant: "auto" is the encoder where it can score its draws, else the full normal.

    Returns:
        What :func:`propose` takes: the encoder is "auxiliary" where it scores by an auxiliary variable.

    Raises:
        ConfigError: there is no such proposal.
        NoDensityError: "encoder" was asked for, and it is implicit.
    """
    if proposal not in PROPOSALS:
        raise ConfigError(f"there is no proposal {proposal!r}", remedy=nearest(proposal, PROPOSALS))
    own = own_proposal(model)
    if proposal == "auto":
        return own or "full"
    if proposal == "encoder" and not own:
        raise NoDensityError(
            "this bound needs the density of q(z|x), and the encoder is implicit",
            remedy='use a normal fitted to it as the proposal: "full" or "diagonal"',
        )
    return own if proposal == "encoder" else proposal


def propose(model: LatentModel, x: Tensor, proposal: str) -> Distribution | MultivariateNormal:
    """What codes of ``x [B, …]`` are drawn from: the encoder, or a normal fitted to it."""
    q = model.encode(x)
    if proposal in OWN:
        return q
    mean, factor = fitted(q, full=proposal == "full")
    if proposal == "full":
        return MultivariateNormal(mean, scale_tril=factor, validate_args=False)
    return Normal(mean, factor.log())


def fitted(q: Distribution, full: bool) -> tuple[Tensor, Tensor]:
    """Mean ``[B, d]`` and scale of the normal with the moments of ``q``: ``[B, d]``, or a triangle ``[B, d, d]``."""
    mean, second = (moment.detach() for moment in q.moments(full))
    if not full:
        return mean, (second + LEAST_VARIANCE).sqrt()
    eye = torch.eye(mean.shape[-1], dtype=second.dtype, device=second.device)
    return mean, torch.linalg.cholesky_ex(second + LEAST_VARIANCE * eye).L


def suffix(proposal: str) -> str:
    """What a figure's name carries: nothing for the encoder itself.

    >>> suffix("encoder"), suffix("full")
    ('', '[full-normal]')
    """
    return "" if proposal in OWN else f"[{proposal}-normal]"
