"""Fully connected networks and critics."""

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
    apply_spectral_norm,
    check_dropout,
    concat_noise,
    init_near_zero,
    init_xavier,
)


def linear_layers(
    widths: Sequence[int], activation: Activation, dropout: float = 0.0, last_active: bool = False
) -> nn.Sequential:
    """Return linear layers of the given widths, with an activation (and dropout) after each but the last.

    Args:
        widths: of the input and of every layer.
        activation: the nonlinearity.
        dropout: probability of dropping a unit.
        last_active: the last layer is followed by an activation, too.

    Raises:
        ConfigError: a width is not positive, or the dropout probability is out of range.
    """
    if min(widths[1:], default=1) < 1:
        raise ConfigError("The width of a layer must be positive.", given=list(widths[1:]), expected="≥ 1")
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
    """A fully connected network, for vectors and for flattened images.

    Args:
        hidden: widths of the hidden layers.
        activation: the nonlinearity.
        dropout: probability of dropping a hidden unit.
        zero_init: start with an output near zero.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        noise_dim: int = 0,
        hidden: Sequence[int] = (300, 300),
        activation: Activation = "elu",
        dropout: float = 0.0,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        self.out_shape = tuple(out_shape)
        widths = [math.prod(in_shape) + noise_dim, *hidden, math.prod(out_shape)]
        self.body = linear_layers(widths, activation, dropout)
        init_xavier(self)
        if zero_init:
            init_near_zero(self.body[-1])

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.body(concat_noise(inputs, noise)).reshape(-1, *self.out_shape)


def bind_first_input(body: Iterable[nn.Module], first: Tensor) -> Callable[[Tensor], Tensor]:
    """Return layers of the concatenated inputs ``[B, n]`` and ``[B, k]`` as a function of the second.

    The inputs are not concatenated. Instead the weights of the first layer are split, and the product with ``first`` is
    computed here, once for all second inputs.
    """
    layer, *others = body
    assert isinstance(layer, nn.Linear)
    n = first.shape[1]
    weight_1, weight_2 = layer.weight.split([n, layer.in_features - n], dim=1)
    product_1 = linear(first, weight_1, layer.bias)

    def of_second(second: Tensor) -> Tensor:
        h = torch.addmm(product_1, second.to(first.dtype), weight_2.T) if second.shape[1] else product_1
        for module in others:
            h = module(h)
        return h

    return of_second


@CRITICS.register("concat")
class ConcatCritic(Critic):
    """``T(x, z)`` by a fully connected network of the concatenation of x and z.

    It has no batch normalization: the output for one pair would depend on the others in its batch, and the critic could
    tell P from Q by the batch statistics.

    Args:
        hidden: widths of the hidden layers.
        activation: the nonlinearity.
        dropout: probability of dropping a hidden unit.
        spectral_norm: put every layer under spectral normalization.
        gain: factor of the output; under spectral normalization, the Lipschitz constant of ``T``.
        zero_init: start with ``T = 0`` (ignored under spectral normalization, which rescales the weights).
        num_bridges: 1, or the number of bridges of a telescoped critic (:mod:`advae.density_ratio`).
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
        zero_init: bool = False,
        num_bridges: int = 1,
    ) -> None:
        super().__init__()
        self.gain = gain
        widths = [math.prod(x_shape) + math.prod(z_shape), *hidden, num_bridges]
        self.body = linear_layers(widths, activation, dropout)
        init_xavier(self)
        if spectral_norm:
            apply_spectral_norm(self)
        elif zero_init:
            init_near_zero(self.body[-1])

    def bind_x(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        T = bind_first_input(self.body, x.flatten(1))
        return lambda z: self.gain * T(z.flatten(1)).squeeze(-1)


@CRITICS.register("product")
class ProductCritic(Critic):
    """``T(x, z) = θ(x)·s(z) + T_x(x) + T_z(z)``, the form in the AVB authors' code.

    Args:
        hidden: widths of the hidden layers of each of the four networks.
        num_features: length of θ and s (8,192 in the authors' code).
        activation: the nonlinearity.
        spectral_norm: put every layer under spectral normalization.
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        z_shape: Sequence[int],
        *,
        hidden: Sequence[int] = (256, 256),
        num_features: int = 256,
        activation: Activation = "leaky-relu",
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        n, d = math.prod(x_shape), math.prod(z_shape)
        self.theta = linear_layers([n, *hidden, num_features], activation)
        self.s = linear_layers([d, *hidden, num_features], activation)
        self.t_x = linear_layers([n, *hidden, 1], activation)
        self.t_z = linear_layers([d, *hidden, 1], activation)
        init_xavier(self)
        if spectral_norm:
            apply_spectral_norm(self)
        else:
            for network in (self.theta, self.t_x, self.t_z):
                init_near_zero(network[-1])

    def bind_x(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        flat = x.flatten(1)
        theta, t_x = elu(self.theta(flat)), self.t_x(flat)

        def T(z: Tensor) -> Tensor:
            z = z.flatten(1).to(x.dtype)
            return (theta * self.s(z)).sum(-1) + (t_x + self.t_z(z)).squeeze(-1)

        return T


class ResidualMLPBlock(nn.Module):
    """``h + V act(U act(h))``."""

    def __init__(self, width: int, activation: Activation) -> None:
        super().__init__()
        self.u, self.v = nn.Linear(width, width), nn.Linear(width, width)
        self.act = ACTIVATIONS[activation]()

    def forward(self, h: Tensor) -> Tensor:
        return h + self.v(self.act(self.u(self.act(h))))


@CRITICS.register("residual")
class ResidualCritic(Critic):
    """The critic of AVB's black-box inference (Mescheder, Nowozin and Geiger 2017, the authors' notebooks).

        h ← W (x, z),      h ← h + V act(U act(h)) in every block,      T = w · act(h)

    The V and w start near zero, so that T starts as zero everywhere: P and Q are assumed to be equal until the critic
    learns otherwise.

    Args:
        width: of every layer.
        num_blocks: number of residual blocks (the authors: 5, of width 256); with none there is one hidden layer.
        activation: the nonlinearity.
        spectral_norm: put every layer under spectral normalization; nothing starts at zero then.
        num_bridges: 1, or the number of bridges of a telescoped critic (:mod:`advae.density_ratio`).
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        z_shape: Sequence[int],
        *,
        width: int = 256,
        num_blocks: int = 5,
        activation: Activation = "elu",
        spectral_norm: bool = False,
        num_bridges: int = 1,
    ) -> None:
        super().__init__()
        self.first = nn.Linear(math.prod(x_shape) + math.prod(z_shape), width)
        self.blocks = nn.Sequential(*(ResidualMLPBlock(width, activation) for _ in range(num_blocks)))
        self.act, self.last = ACTIVATIONS[activation](), nn.Linear(width, num_bridges)
        init_xavier(self)
        if spectral_norm:
            apply_spectral_norm(self)
        else:
            for block in self.blocks:
                init_near_zero(block.v)  # type: ignore[arg-type]
            init_near_zero(self.last)

    def bind_x(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        T = bind_first_input([self.first, self.blocks, self.act, self.last], x.flatten(1))
        return lambda z: T(z.flatten(1)).squeeze(-1)
