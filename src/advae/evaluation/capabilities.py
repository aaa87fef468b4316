"""What a model can be judged by: whether it has an encoder, codes, and a decoder with a density.

    encoder   codes   density     log p(x)                     else
    yes       yes     yes         elbo, iwae, ais, bdmc        reconstruction, posterior
    yes       yes     no                                       reconstruction, posterior
    no        yes     yes         ais, bdmc from the prior
    no        no      yes         exact
    no        yes     no                                       a GAN

All of them have samples, and critics where some were trained. An affine decoder has an exact log p(x) too.
"""

from __future__ import annotations

from collections.abc import Mapping

from advae.errors import AdvaeError, NoDensityError, UnsupportedError
from advae.evaluation.estimate import Remark
from advae.evaluation.eval_data import Observed
from advae.evaluation.likelihood.exact import has_exact, no_closed_form
from advae.model import LatentModel

BOUNDS, ANNEALED = ("elbo", "iwae"), ("ais", "bdmc")

NO_LIKELIHOOD = "The decoder has no density: this model has no likelihood, and no bound on one."
NO_ENCODER = (
    "This model has no encoder: observations have no codes, so there is no reconstruction and no posterior."
)
JUDGED = " What can be judged of it is its samples."


def lacking(model: LatentModel, observed: Observed) -> Mapping[str, AdvaeError]:
    """What the model cannot have: by the name of a figure or check, the error that says why."""
    found: dict[str, AdvaeError] = {}
    if not has_exact(model, observed):
        found["exact"] = no_closed_form()
    if not model.has_encoder:
        no_codes = UnsupportedError(
            "a bound on log p(x) by codes, and a check of the posterior, need an encoder, and this model has none",
            remedy=_instead(model),
        )
        found |= dict.fromkeys((*BOUNDS, "posterior"), no_codes)
    if not model.latent:
        found |= dict.fromkeys(
            ANNEALED,
            UnsupportedError(
                "annealing is over codes, and this model has none: its log p(x) is exact",
                remedy="ask for exact",
            ),
        )
    if not model.decoder_has_density():
        found |= dict.fromkeys(
            (*BOUNDS, *ANNEALED, "exact"),
            NoDensityError(
                "the decoder has no density: this model has no likelihood, and no bound on one",
                remedy="judge its samples: fid, kid, is, prdc, neighbours",
            ),
        )
    if not model.critics:
        found["critics"] = UnsupportedError(
            "this model has no critics to judge", remedy="leave critics out of the checks"
        )
    return found


def _instead(model: LatentModel) -> str:
    if not model.decoder_has_density():
        return "judge its samples: fid, kid, is, prdc, neighbours"
    return "ask for ais, started from the prior" if model.latent else "ask for exact"


def said(model: LatentModel, likelihood: bool) -> list[Remark]:
    """What is to be said of a model that lacks an encoder or a density.

    Args:
        model: the model.
        likelihood: whether a figure of log p(x) was asked for.
    """
    found = [] if model.has_encoder else [Remark("reconstruction", NO_ENCODER)]
    if likelihood and not model.decoder_has_density():
        found.append(Remark("likelihood", NO_LIKELIHOOD + JUDGED * (not model.has_encoder)))
    return found
