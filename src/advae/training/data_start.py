"""Models whose size and initial weights depend on the training examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from advae.data import Dataset
from advae.distributions.normal import NormalHead
from advae.errors import ConfigError
from advae.model import Conditional, LatentModel, build_model
from advae.networks.base import CriticInputs
from advae.networks.principal_components import (
    MAX_EXACT_DIMS,
    PrincipalComponents,
    PrincipalDecoder,
    PrincipalEncoder,
    principal_components,
)

EXPLAINED_VARIANCE = 0.9  # of the principal components that a latent dimension of null stands for
MIN_LATENT_DIM, MAX_LATENT_DIM = 2, 64
MAX_ELEMENTS, MIN_EXAMPLES, MAX_EXAMPLES = 2**24, 512, 10_000  # of the examples that are decomposed


def build_from_data(
    spec: dict[str, Any], data: Dataset, critics: Mapping[str, CriticInputs], info: dict[str, Any]
) -> LatentModel:
    """Build a model, with a latent dimension and a start from the training examples if ``spec`` asks for them.

    Args:
        spec, critics, info: see :func:`advae.model.build_model`. With ``latent_dim`` None the dimension is the
            number of principal components that explain 90 % of the variance, 2 to 64. With ``skip`` "linear" the
            model starts as probabilistic PCA.
        data: whose training examples are used.

    Raises:
        ConfigError: as :func:`advae.model.build_model`, and if the model cannot start as PCA.
    """
    d, is_linear = spec["latent_dim"], spec.get("skip", "none") == "linear"
    if d is not None and not is_linear:
        return build_model(spec, data.x_shape, critics, info)
    limits = (MIN_LATENT_DIM, MAX_LATENT_DIM) if d is None else (d, d)
    components = principal_components(_examples(data), limits[0], limits[1], EXPLAINED_VARIANCE)
    model = build_model(spec | {"latent_dim": len(components.variances)}, data.x_shape, critics, info)
    if is_linear:
        start_from_components(model, components)
    return model


def with_nominal_dim(spec: dict[str, Any]) -> dict[str, Any]:
    """Return ``spec`` with the largest latent dimension that it can get, where there are no data to choose it."""
    return spec | {"latent_dim": MAX_LATENT_DIM if spec["latent_dim"] is None else spec["latent_dim"]}


def start_from_components(model: LatentModel, components: PrincipalComponents) -> None:
    """Start a model with linear skip connections as probabilistic PCA, in place.

    Raises:
        ConfigError: the mean of p(x|z) is not the decoder's output.
    """
    encoder, decoder = model.encoder, model.decoder
    assert isinstance(encoder, Conditional) and isinstance(encoder.network, PrincipalEncoder)
    assert isinstance(decoder, Conditional) and isinstance(decoder.network, PrincipalDecoder)
    head = decoder.head
    if not isinstance(head, NormalHead) or head.squash != "none":
        raise ConfigError(
            "A model that starts as principal components needs a normal likelihood whose mean is not squashed.",
            given=f"model.likelihood {head.name}",
            fix="set model.likelihood to {name: normal, squash: none}, or model.skip to none",
        )
    std = components.residual.sqrt().float().expand(model.x_shape)
    decoder.network.start(components, head.start_offsets(std))
    encoder.network.start(components, encoder.head.start_offsets(components.posterior_std.float()))


def _examples(data: Dataset) -> Tensor:
    """Return evenly spaced, preprocessed training examples ``[N, ...]``, in float64 if they are small."""
    size = torch.Size(data.x_shape).numel()
    count = min(len(data.train), MAX_EXAMPLES, max(MIN_EXAMPLES, MAX_ELEMENTS // size))
    raw = data.train.raw(torch.arange(count) * len(data.train) // count)
    x = data.preprocessing.apply(raw, torch.Generator(raw.device).manual_seed(0)).cpu()
    return x.double() if size <= MAX_EXACT_DIMS else x
