"""What networks share: their registries, activations, initialisation and spectral normalisation.

A network is built as ``Network(in_shape, out_shape, noise=…, **options)`` and called as
``network(x [B, *in_shape], noise [B, noise] or None) -> [B, *out_shape]``.
A critic is built as ``Critic(x_shape, z_shape, **options)`` and called as ``critic(x, z) -> [B]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

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
