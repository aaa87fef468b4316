"""Small components of every registered kind, for tests over the registries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from advae.distributions import HEADS
from advae.errors import ConfigError, UnsupportedError
from advae.methods import METHODS, Method
from advae.model import LatentModel, build_model
from advae.networks import CRITICS, NETWORKS

SMALL: dict[str, Any] = {
    "hidden": [7],
    "channels": [3, 4],
    "z_hidden": [5],
    "num_features": 6,
    "stages": [[3], [4, 4]],
    "head_channels": [3],
    "num_blocks": 1,
    "num_basis": 3,
    "moment_samples": 16,
    "smoothing_std": 0.5,
    "num_layers": 3,
    "transforms": 2,
    "context": 1,
    "auxiliary_dim": 3,
    "filters": 4,
    "num_scales": 2,
    "num_components": 2,
}
"""Values of options, used for every class that has an option of that name."""

NOISE_DIM = 2  # of heads with noise
PLAIN = {"normal", "implicit", *(name for name in HEADS.names() if name.startswith("autoregressive"))}
"""Heads that are combined with all others, with and without a density."""
IMAGES_ALONE = ("dcgan",)  # critics that do not take latents
NEEDS_IMAGES = ("projection",)  # critics that see images, with or without latents
AUTOREGRESSIVE = ("pixelcnn",)  # networks for autoregressive_heads()
DOUBLED = ("dcgan", "dcgan-generator")  # networks for images of 4 to 7 pixels, doubled several times


def spec(registry: Any, name: str, **options: Any) -> dict[str, Any]:
    """Return the spec of a component with small options."""
    known = registry.options(registry.find(name))
    small = {key: value for key, value in SMALL.items() if key in known}
    if registry is HEADS and "noise_dim" in known:
        small["noise_dim"] = NOISE_DIM
    return {"name": name, **small, **options}


def image_shape(name: str) -> tuple[int, int, int]:
    """Return the shape of images that a network or critic accepts: odd sides if possible."""
    return (1, 16, 24) if name in DOUBLED else (1, 7, 9)


def latent_shape(critic: str) -> tuple[int]:
    """Return the shape of latents that a critic takes with images."""
    return (0,) if critic in IMAGES_ALONE else (3,)


def supports(critic: str, inputs: str) -> bool:
    """Whether a registered critic can see these inputs."""
    return inputs == "x" if critic in IMAGES_ALONE else inputs != "z" or critic not in NEEDS_IMAGES


def without_effect(method: Method) -> list[str]:
    """Parameters of :func:`model` that no loss depends on: the last bias of a potential, known up to a constant."""
    potentials = [role for role in method.critics if not method.critic_spec(role).log_ratio]
    return [f"critics.{role}.body.2.bias" for role in potentials]


def heads() -> list[str]:
    """Return registered heads, except passthrough and :func:`autoregressive_heads`."""
    return [name for name in HEADS.names() if name != "passthrough" and name not in autoregressive_heads()]


def autoregressive_heads() -> list[str]:
    """Return registered autoregressive heads: likelihoods without latents."""
    return [name for name in HEADS.names() if name.startswith("autoregressive")]


def networks() -> list[str]:
    """Return registered networks, except none."""
    return [name for name in NETWORKS.names() if name != "none"]


def network(name: str, in_shape: Sequence[int], out_shape: Sequence[int], **options: Any) -> Any:
    """Return a network, or None if it does not accept these shapes."""
    noise_dim = options.pop("noise_dim", 0)
    try:
        return NETWORKS.build(
            spec(NETWORKS, name, **options),
            in_shape=tuple(in_shape),
            out_shape=tuple(out_shape),
            noise_dim=noise_dim,
        )
    except ConfigError:
        return None


def critic(name: str, x_shape: Sequence[int], z_shape: Sequence[int], **options: Any) -> Any:
    """Return a critic, or None if it does not accept these shapes."""
    try:
        return CRITICS.build(spec(CRITICS, name, **options), x_shape=tuple(x_shape), z_shape=tuple(z_shape))
    except ConfigError:
        return None


def model(
    method: Method,
    posterior: str = "normal",
    likelihood: str = "normal",
    critic: str = "concat",
    x_shape: Sequence[int] = (1, 4, 5),
    latent: int = 2,
    **options: Any,
) -> LatentModel | None:
    """Return a small model, or None if the method does not support such components."""
    pixels = likelihood in autoregressive_heads()
    if pixels and method.trains_encoder:
        return None
    built = build_model(
        {
            "latent_dim": 0 if pixels else latent,
            "encoder": spec(NETWORKS, "mlp", **options) if method.trains_encoder else {"name": "none"},
            "posterior": spec(HEADS, posterior),
            "decoder": spec(NETWORKS, "pixelcnn" if pixels else "mlp", **options),
            "likelihood": spec(HEADS, likelihood),
            "critic": spec(CRITICS, critic),
        },
        x_shape,
        method.critics,
    )
    try:
        method.check(built)
        method.losses(built, observations(built, 2))
    except (ConfigError, UnsupportedError):
        return None
    return built


def observations(model: LatentModel, n: int) -> Tensor:
    """Return observations that every likelihood supports."""
    return torch.randint(0, 2, (n, *model.x_shape)).float() * 0.998 + 0.001


def methods() -> list[str]:
    """Return registered methods."""
    return METHODS.names()


def combinations() -> list[tuple[str, str, str]]:
    """Return every (method, posterior, likelihood) that the method supports and of which a head is in ``PLAIN``."""
    triples = []
    with torch.random.fork_rng(devices=[]):
        for name in methods():
            for posterior in heads() if METHODS.build({"name": name}).trains_encoder else ["normal"]:
                triples += [
                    (name, posterior, likelihood)
                    for likelihood in [*heads(), *autoregressive_heads()]
                    if {posterior, likelihood} & PLAIN
                    and HEADS.find(posterior).support == "real"
                    and HEADS.find(likelihood).num_params is not None
                    and likelihood != "noise-basis"
                    and model(METHODS.build({"name": name}), posterior, likelihood) is not None
                ]
    return triples
