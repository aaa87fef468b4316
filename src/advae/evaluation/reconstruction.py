"""How well x → z → x' gives x back: in nats under the likelihood, and in grey levels a pixel."""

from __future__ import annotations

import math

import torch

from advae.errors import NoDensityError
from advae.evaluation.estimate import Estimate, from_images, mean_and_error
from advae.evaluation.observed import Observed, likelihood, scored_as
from advae.model import LatentModel, representative


@torch.no_grad()
def reconstruction(model: LatentModel, observed: Observed) -> Estimate:
    """``−E_q[log p(x|z)]`` in nats, one code an image.

    Raises:
        NoDensityError: the decoder is implicit.
    """
    bins, values = observed.scores_bins(model), []
    for x, _ in observed.chunks(model.device):
        p = model.decode(model.encode(x).sample())
        if not p.has_log_prob:
            raise NoDensityError("an implicit decoder has no reconstruction error in nats", remedy="see rmse")
        values.append(-likelihood(p, bins).log_prob(x).cpu())
    protocol = observed.protocol(code="a draw from q(z|x)", likelihood=scored_as(bins))
    return from_images(torch.cat(values), "reconstruction", "error", "nats", protocol)


@torch.no_grad()
def rmse(model: LatentModel, observed: Observed) -> Estimate:
    """Root of the mean squared error a pixel, against the stored image without observation noise.

    In grey levels, 0 to 255 (in the data's own units where they are no images). The decoder's mean at one draw
    from q(z|x); an implicit decoder gives a draw of its own. The standard error is that of the mean squared
    error carried through the root: se(√m) = se(m) / (2 √m).
    """
    to_grey, raw_grey = observed.data.protocol.to_grey, observed.data.protocol.raw_grey
    values = []
    for x, raw in observed.chunks(model.device):
        back = representative(model.decode(model.encode(x).sample()))
        values.append((to_grey(back) - raw_grey(raw)).square().flatten(1).mean(1).cpu())
    mean, error = mean_and_error(torch.cat(values))
    root = math.sqrt(mean)
    protocol = observed.protocol(code="a draw from q(z|x)", per="pixel")
    unit = observed.data.protocol.unit
    return Estimate(
        "rmse", root, error / (2 * root) if root else 0.0, "error", unit, observed.count, protocol
    )
