"""Fully connected networks, for vectors and for images of any size read as vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, linear

from advae.errors import ConfigError
from advae.networks.base import (
    ACTIVATIONS,
    CRITICS,
    NETWORKS,
    Activation,
    Critic,
    check_dropout,
    near_zero,
    normalise_spectrum,
    with_noise,
    xavier,
)


def layers(
    widths: Sequence[int], activation: Activation, dropout: float = 0.0, last_active: bool = False
) -> nn.Sequential:
    """Linear layers of the given widths with an activation (and dropout) after each but the last.

    Raises:
        ConfigError: a layer of no width, or a share to drop that is none.
    """
    if min(widths[1:], default=1) < 1:
        raise ConfigError("a layer needs a width", given=list(widths[1:]), expected="1 or more each")
    check_dropout(dropout)
    modules: list[nn.Module] = []
    for i, (a, b) in enumerate(pairwise(widths)):
        modules.append(nn.Linear(a, b))
        if i < len(widths) - 2 or last_active:
            modules.append(ACTIVATIONS[activation]())
            if dropout:
                modules.append(nn.Dropout(dropout))
    return nn.Sequential(*modules)


@NETWORKS.register("mlp")
class MLP(nn.Module):
    """A fully connected network.

    Args:
        in_shape: shape of one input.
        out_shape: shape of one output.
        noise: how many noise numbers are concatenated to the input.
        hidden: widths of the hidden layers.
        activation: the nonlinearity.
        dropout: probability of dropping a hidden unit.
        near_zero: start with an output of (almost) zero.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        noise: int = 0,
        hidden: Sequence[int] = (300, 300),
        activation: Activation = "elu",
        dropout: float = 0.0,
        near_zero: bool = False,
    ) -> None:
        super().__init__()
        self.out_shape = tuple(out_shape)
        self.body = layers([math.prod(in_shape) + noise, *hidden, math.prod(out_shape)], activation, dropout)
        xavier(self)
        if near_zero:
            start_near_zero(self.body)

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Tensor:
        """``[B, *in_shape]`` (and noise ``[B, k]``) to ``[B, *out_shape]``."""
        return self.body(with_noise(inputs, noise)).reshape(-1, *self.out_shape)


def start_near_zero(body: nn.Sequential) -> None:
    """Make the last layer of ``body`` start near zero, in place."""
    last = body[-1]
    assert isinstance(last, nn.Linear)
    near_zero(last)


def side_by_side(body: Iterable[nn.Module], first: Tensor) -> Callable[[Tensor], Tensor]:
    """Layers of ``first [B, n]`` and a second input ``[B, k]`` side by side, as a function of the second.

    Nothing is put side by side: the first layer's columns are, and the product with those of ``first`` is made here,
    once for every second input.
    """
    layer, *others = body
    assert isinstance(layer, nn.Linear)
    n = first.shape[1]
    of_first, of_second = layer.weight.split([n, layer.in_features - n], dim=1)
    begun = linear(first, of_first, layer.bias)

    def of(second: Tensor) -> Tensor:
        h = torch.addmm(begun, second.to(first.dtype), of_second.T) if second.shape[1] else begun
        for module in others:
            h = module(h)
        return h

    return of


@CRITICS.register("concat")
class ConcatCritic(Critic):
    """``T(x, z)`` by a fully connected network of x and z side by side.

    It holds no batch statistics: with batch normalisation the answer for one pair would depend on the others,
    and P and Q must not be told apart by the batch they come in.

    Args:
        x_shape: shape of one observation.
        z_shape: shape of one code.
        hidden: widths of the hidden layers.
        activation: the nonlinearity.
        dropout: probability of dropping a hidden unit.
        spectral_norm: put every layer under spectral normalisation.
        gain: factor of the output; under spectral normalisation, the largest slope of ``T``.
        near_zero: start with ``T = 0`` (not together with spectral normalisation, which rescales it).
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        z_shape: Sequence[int],
        *,
        hidden: Sequence[int] = (512, 512),
        activation: Activation = "leaky-relu",
        dropout: float = 0.0,
        spectral_norm: bool = False,
        gain: float = 1.0,
        near_zero: bool = False,
    ) -> None:
        super().__init__()
        self.gain = gain
        self.body = layers([math.prod(x_shape) + math.prod(z_shape), *hidden, 1], activation, dropout)
        xavier(self)
        if near_zero and not spectral_norm:
            start_near_zero(self.body)
        if spectral_norm:
            normalise_spectrum(self)

    def at(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        T = side_by_side(self.body, x.flatten(1))
        return lambda z: self.gain * T(z.flatten(1)).squeeze(-1)


@CRITICS.register("product")
class ProductCritic(Critic):
    """``T(x, z) = θ(x)·s(z) + T_x(x) + T_z(z)``, the form in the AVB authors' code.

    Args:
        x_shape: shape of one observation.
        z_shape: shape of one code.
        hidden: widths of the hidden layers of each of the four networks.
        features: length of θ and s (8,192 in the authors' code).
        activation: the nonlinearity.
        spectral_norm: put every layer under spectral normalisation.
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        z_shape: Sequence[int],
        *,
        hidden: Sequence[int] = (256, 256),
        features: int = 256,
        activation: Activation = "leaky-relu",
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        n, d = math.prod(x_shape), math.prod(z_shape)
        self.theta = layers([n, *hidden, features], activation)
        self.s = layers([d, *hidden, features], activation)
        self.t_x = layers([n, *hidden, 1], activation)
        self.t_z = layers([d, *hidden, 1], activation)
        xavier(self)
        if spectral_norm:
            normalise_spectrum(self)
        else:
            for part in (self.theta, self.t_x, self.t_z):
                start_near_zero(part)

    def at(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        flat = x.flatten(1)
        theta, t_x = elu(self.theta(flat)), self.t_x(flat)

        def T(z: Tensor) -> Tensor:
            z = z.flatten(1).to(x.dtype)
            return (theta * self.s(z)).sum(-1) + (t_x + self.t_z(z)).squeeze(-1)

        return T
