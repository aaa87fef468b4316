"""What networks share: their registries, activations, initialisation and spectral normalisation.

A network is built as ``Network(in_shape, out_shape, noise=…, **options)`` and called as
``network(x [B, *in_shape], noise [B, noise] or None) -> [B, *out_shape]``.
A critic is built as ``Critic(x_shape, z_shape, **options)`` and called as ``critic(x, z) -> [B]``; one that can put
what depends on x alone apart is a :class:`Critic`, and pays for it once where a method asks about several z.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from advae.errors import ConfigError
from advae.registry import Registry

NETWORKS: Registry[type[nn.Module]] = Registry("network", "advae.networks", nn.Module)
CRITICS: Registry[type[nn.Module]] = Registry("critic", "advae.networks", nn.Module)

Activation = Literal["relu", "leaky-relu", "elu", "silu", "softplus", "tanh"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky-relu": lambda: nn.LeakyReLU(0.2),
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}

SMALL_INIT = 1e-5  # last layers that must start near zero (AVB authors' code)


class Critic(nn.Module):
    """A critic of pairs whose work on x serves every z that this x is paired with."""

    def at(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """``T(x, ·)``: from ``z [B, *z_shape]`` to ``[B]``, at ``x [B, *x_shape]``."""
        raise NotImplementedError

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Pairs ``x [B, *x_shape]``, ``z [B, *z_shape]`` to ``T [B]``."""
        return self.at(x)(z)


def critic_at(critic: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    """``T(x, ·)`` of any critic; one that is no :class:`Critic` is called anew for every z."""
    return critic.at(x) if isinstance(critic, Critic) else partial(critic, x)


def check_dropout(dropout: float) -> None:
    """Refuse what is no share to drop.

    Raises:
        ConfigError: below 0, or all.
    """
    if not 0 <= dropout < 1:
        raise ConfigError("dropout is a share of the units", given=dropout, expected="from 0, below 1")


def xavier(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases, in place (Glorot and Bengio 2010)."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def near_zero(layer: nn.Linear) -> None:
    """Weights so small that the layer starts as zero, in place."""
    nn.init.normal_(layer.weight, std=SMALL_INIT)
    nn.init.zeros_(layer.bias)


def normalise_spectrum(module: nn.Module) -> None:
    """Put every linear and convolutional layer under spectral normalisation (Miyato et al. 2018), in place."""
    for layer in list(module.modules()):
        if isinstance(layer, nn.Linear | nn.Conv2d):
            spectral_norm(layer)


def with_noise(inputs: Tensor, noise: Tensor | None) -> Tensor:
    """Flattened inputs ``[B, n]``, with the noise ``[B, k]`` beside them where there is any."""
    flat = inputs.flatten(1)
    return flat if noise is None else torch.cat([flat, noise.to(flat.dtype)], dim=1)


@contextmanager
def statistics_kept(*networks: nn.Module) -> Iterator[None]:
    """Within, batch normalisation of these networks does not add to its running statistics.

    For a second population that goes through them while training: a mixture of the statistics of both is right for
    neither when the networks are used.
    """
    norms = [m for net in networks for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
