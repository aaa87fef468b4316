"""The evaluation that every run gets: what can be said of this model, and nothing that cannot."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from advae.data import Dataset, protocol_from
from advae.evaluation.adversarial import adversarial_elbo
from advae.evaluation.bounds import elbo, iwae
from advae.evaluation.estimate import Estimates
from advae.evaluation.observed import Observed, unit_dims
from advae.evaluation.reconstruction import reconstruction, rmse
from advae.model import LatentModel, seeded


def evaluate(
    model: LatentModel,
    data: Dataset,
    *,
    split: str = "test",
    importance: int = 64,
    draws: int = 16,
    seed: int = 0,
    limit: int | None = None,
) -> Estimates:
    """Judge a model on data.

    Args:
        model: a trained model.
        data: the data set it is judged on, under the observation protocol it was trained for.
        split: "train", "validation" or "test".
        importance: K of the importance-weighted bound; 0 leaves it out.
        draws: codes an image for the ELBO.
        seed: of every draw.
        limit: the first so many images only.

    Returns:
        Reconstruction error in nats (decoders with a density) and in grey levels; for encoders with a density
        too the ELBO and IWAE-K, also in bits per dimension for 8-bit images; for the others the critic's
        adversarial estimate, labelled so.
    """
    model.eval()
    observed = Observed(as_trained(model, data), split, seed, limit)
    q, p = _kinds(model)
    found = Estimates()
    with seeded(seed, model.device):
        found.append(rmse(model, observed))
        if p:
            found.append(reconstruction(model, observed))
        if p and q:
            bounds = [elbo(model, observed, draws)]
            bounds += [iwae(model, observed, importance)] if importance else []
            found += bounds
            if observed.scores_bins(model):
                per_dim = -1 / (unit_dims(model) * math.log(2))
                found += [bound.scaled(per_dim, "bits/dim") for bound in bounds]
        elif not q and model.critics:
            found += adversarial_elbo(model, observed)
    return found


def as_trained(model: LatentModel, data: Dataset) -> Dataset:
    """The data under the model's own protocol, where it is one of the same name with other numbers.

    Standardised data keep the mean and scale of the data that the model was trained on.
    """
    described = (model.info.get("data") or {}).get("protocol", {})
    if described.get("name") != data.protocol.name:
        return data
    return replace(data, protocol=protocol_from(described))


@torch.no_grad()
def _kinds(model: LatentModel) -> tuple[bool, bool]:
    """Whether encoder and decoder have densities."""
    q = model.encode(torch.zeros(2, *model.x_shape, device=model.device))
    return q.has_log_prob, model.decode(q.sample()).has_log_prob
