"""Registries and utilities shared by all networks.

A network is built as ``Network(in_shape, out_shape, noise_dim=…, **options)`` and called as
``network(x [B, *in_shape], noise [B, noise_dim] or None) -> [B, *out_shape]``. The noise is concatenated to the input
or to its features. Images are ``(C, H, W)``, or ``(k, C, H, W)`` for k numbers per pixel.

A critic is built as ``Critic(x_shape, z_shape, **options)`` and called as ``critic(x, z) -> [B]``, or ``[B, K]`` with K
bridges (:mod:`advae.density_ratio`). An input that it does not see has the shape ``(0,)``. Shapes and ``noise_dim``
are computed; docstrings of networks describe the options.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from advae.errors import ConfigError, UnsupportedError
from advae.registry import Registry

NETWORKS: Registry[type[nn.Module]] = Registry("network", "advae.networks", nn.Module)
CRITICS: Registry[type[nn.Module]] = Registry("critic", "advae.networks", nn.Module)

CriticInputs = Literal["x,z", "x", "z"]
"""What a critic sees: pairs, observations alone, or latents alone. An absent input has the shape ``(0,)``."""

Activation = Literal["relu", "leaky-relu", "elu", "silu", "softplus", "tanh"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky-relu": lambda: nn.LeakyReLU(0.2),
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}

NEAR_ZERO_STD = 1e-5  # initial weights of output layers that start near zero (AVB authors' code)


class Critic(nn.Module):
    """Critic of pairs (x, z) that computes its features of x once and reuses them for several z."""

    def bind_x(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """Return ``T(x, ·)``, which maps ``z [B, *z_shape]`` to ``[B]``, for ``x [B, *x_shape]``."""
        raise NotImplementedError

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Map pairs ``x [B, *x_shape]``, ``z [B, *z_shape]`` to ``T [B]``."""
        return self.bind_x(x)(z)


def bind_x(critic: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Return ``T(x, ·)`` of any critic. One that is not a :class:`Critic` processes x again for every z."""
    return critic.bind_x(x) if isinstance(critic, Critic) else partial(critic, x)


@NETWORKS.register("none")
class NullNetwork(nn.Module):
    """Placeholder for the encoder of a model without one, such as a GAN or an autoregressive model."""

    def __init__(self, in_shape: Sequence[int], out_shape: Sequence[int], noise_dim: int = 0) -> None:
        super().__init__()

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Tensor:
        """Raise an :class:`UnsupportedError`, since there is nothing to compute."""
        raise UnsupportedError(
            "This model has no encoder, so observations have no latents and cannot be reconstructed.",
            fix="sample from it, or train a model with an encoder on the same data",
        )


def build_critic(
    spec: dict[str, Any], inputs: CriticInputs, x_shape: Sequence[int], z_shape: Sequence[int]
) -> nn.Module:
    """Build a critic that sees ``inputs``, from its name and options.

    Raises:
        ConfigError: the critic or an option is unknown, it does not support these inputs, or has no bridge.
    """
    shapes = {"x_shape": tuple(x_shape), "z_shape": tuple(z_shape)}
    if inputs != "x,z":
        shapes["x_shape" if inputs == "z" else "z_shape"] = (0,)
    if spec.get("num_bridges", 1) < 1:
        raise ConfigError("model.critic.num_bridges must be at least 1", given=spec["num_bridges"])
    critic: nn.Module = CRITICS.build(spec, **shapes)
    return critic


def critic_of_x(critic: nn.Module, x: Tensor) -> Tensor:
    """Return ``T(x) [B]`` in float32, for a critic that sees ``x [B, *x_shape]`` alone."""
    T: Tensor = critic(x, x.new_empty(len(x), 0))
    return T.float()


def critic_of_z(critic: nn.Module, z: Tensor) -> Tensor:
    """Return ``T(z) [B]`` in float32, for a critic that sees ``z [B, d]`` alone."""
    T: Tensor = critic(z.new_empty(len(z), 0), z)
    return T.float()


def check_no_batchnorm(critics: nn.Module) -> None:
    """Raise a :class:`ConfigError` if a critic has batch normalization, which a gradient penalty does not allow."""
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in critics.modules()):
        raise ConfigError(
            "A gradient penalty needs a critic whose output for one example does not depend on the others.",
            given="a critic with batch normalization",
            fix="set model.critic.norm to layer or none",
        )


def check_dropout(dropout: float) -> None:
    """Raise a :class:`ConfigError` if ``dropout`` is not a probability below one."""
    if not 0 <= dropout < 1:
        raise ConfigError(
            "The dropout probability is out of range.", given=dropout, expected="0 ≤ dropout < 1"
        )


def init_xavier(module: nn.Module) -> None:
    """Initialize with Xavier-uniform weights and zero biases, in place (Glorot and Bengio 2010)."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def init_near_zero(layer: nn.Module) -> None:
    """Initialize a linear layer so that its output starts near zero, in place."""
    assert isinstance(layer, nn.Linear)
    nn.init.normal_(layer.weight, std=NEAR_ZERO_STD)
    nn.init.zeros_(layer.bias)


def apply_spectral_norm(module: nn.Module) -> None:
    """Put every linear and convolutional layer under spectral normalization, in place (Miyato et al. 2018)."""
    for layer in list(module.modules()):
        if isinstance(layer, nn.Linear | nn.Conv2d):
            spectral_norm(layer)


def concat_noise(inputs: Tensor, noise: Tensor | None) -> Tensor:
    """Return the flattened inputs ``[B, n]``, concatenated with the noise ``[B, k]`` if there is any."""
    flat = inputs.flatten(1)
    return flat if noise is None else torch.cat([flat, noise.to(flat.dtype)], dim=1)


@contextmanager
def freeze_batchnorm_stats(*networks: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch normalization unchanged within the context.

    Used when a second population passes through the networks during training: a mixture of the statistics of both
    populations fits neither of them at evaluation.
    """
    norms = [m for net in networks for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
