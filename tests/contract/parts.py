"""Small models of every registered kind, for tests that run over the registries."""

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
    "num_layers": 3,
    "transforms": 2,
    "context": 1,
    "auxiliary_dim": 3,
    "filters": 4,
    "num_scales": 2,
    "num_components": 2,
}
"""Values for options of these names wherever a class has them; what it has not is left out."""

NOISE = 2  # of heads that take noise
IMAGES_ALONE = ("dcgan",)  # critics that see no code
NEEDS_IMAGES = ("projection",)  # critics that see images, with or without latents
PIXELS = ("pixelcnn",)  # networks that read the image they are the distribution of, for pixel_heads
DOUBLED = ("dcgan", "dcgan-generator")  # networks of images that double up from 4 to 7 pixels


def spec(registry: Any, name: str, **options: Any) -> dict[str, Any]:
    """A component by name with small options."""
    known = registry.options(registry.find(name))
    small = {key: value for key, value in SMALL.items() if key in known}
    if registry is HEADS and "noise_dim" in known:
        small["noise_dim"] = NOISE
    return {"name": name, **small, **options}


def image(name: str) -> tuple[int, int, int]:
    """Images that a network or critic takes: of odd sides if it takes any."""
    return (1, 16, 24) if name in DOUBLED else (1, 7, 9)


def codes(critic: str) -> tuple[int]:
    """The codes that a critic sees beside images."""
    return (0,) if critic in IMAGES_ALONE else (3,)


def supports(critic: str, inputs: str) -> bool:
    """Whether a registered critic can see these inputs."""
    return inputs == "x" if critic in IMAGES_ALONE else inputs != "z" or critic not in NEEDS_IMAGES


def without_effect(method: Method) -> list[str]:
    """Parameters of :func:`model` that no loss depends on: the last bias of a potential, known up to a constant."""
    potentials = [role for role in method.critics if not method.critic_spec(role).log_ratio]
    return [f"critics.{role}.body.2.bias" for role in potentials]


def heads() -> list[str]:
    """Registered heads but the one for a user's own network, and those of :func:`pixel_heads`."""
    return [name for name in HEADS.names() if name != "passthrough" and name not in pixel_heads()]


def pixel_heads() -> list[str]:
    """Registered heads of images whose pixels depend on each other: likelihoods without codes."""
    return [name for name in HEADS.names() if name.startswith("autoregressive")]


def networks() -> list[str]:
    """Registered networks but the one that stands for none."""
    return [name for name in NETWORKS.names() if name != "none"]


def network(name: str, in_shape: Sequence[int], out_shape: Sequence[int], **options: Any) -> Any:
    """A network, or None where it is not made for such shapes and says so."""
    noise = options.pop("noise", 0)
    try:
        return NETWORKS.build(
            spec(NETWORKS, name, **options),
            in_shape=tuple(in_shape),
            out_shape=tuple(out_shape),
            noise_dim=noise,
        )
    except ConfigError:
        return None


def critic(name: str, x_shape: Sequence[int], z_shape: Sequence[int], **options: Any) -> Any:
    """A critic, or None where it is not made for such shapes and says so."""
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
    """A small model, or None if the method says that it cannot use such parts; without an encoder if it moves none."""
    pixels = likelihood in pixel_heads()
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
    """Numbers that every likelihood can score."""
    return torch.randint(0, 2, (n, *model.x_shape)).float() * 0.998 + 0.001


def methods() -> list[str]:
    """Registered methods."""
    return METHODS.names()


def combinations() -> list[tuple[str, str, str]]:
    """Every (method, posterior, likelihood) that the method accepts."""
    found = []
    with torch.random.fork_rng(devices=[]):
        for name in methods():
            for posterior in heads() if METHODS.build({"name": name}).trains_encoder else ["normal"]:
                found += [
                    (name, posterior, likelihood)
                    for likelihood in [*heads(), *pixel_heads()]
                    if HEADS.find(posterior).support == "real"
                    and HEADS.find(likelihood).num_params is not None
                    and likelihood != "noise-basis"
                    and model(METHODS.build({"name": name}), posterior, likelihood) is not None
                ]
    return found
