"""The critic of AVB's black-box inference (Mescheder, Nowozin and Geiger 2017, the authors' notebooks).

    h ← W (x, z),      h ← h + V act(U act(h)) in every block,      T = w · act(h)

The authors have five blocks of width 256. The V and w start at zero, so that T starts as zero everywhere: P and Q are
taken to be alike until they are seen to differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from advae.networks.base import (
    ACTIVATIONS,
    CRITICS,
    Activation,
    Critic,
    near_zero,
    normalise_spectrum,
    xavier,
)
from advae.networks.mlp import side_by_side


class Block(nn.Module):
    """``h + V act(U act(h))`` with V near zero at first."""

    def __init__(self, width: int, activation: Activation) -> None:
        super().__init__()
        self.u, self.v = nn.Linear(width, width), nn.Linear(width, width)
        self.act = ACTIVATIONS[activation]()

    def forward(self, h: Tensor) -> Tensor:
        """``[B, width]`` to the same shape."""
        return h + self.v(self.act(self.u(self.act(h))))


@CRITICS.register("residual")
class ResidualCritic(Critic):
    """``T(x, z)`` by fully connected residual blocks of x and z side by side.

    Args:
        x_shape: shape of one observation.
        z_shape: shape of one code.
        width: of every layer.
        blocks: how many blocks; with none there is one hidden layer.
        activation: the nonlinearity.
        spectral_norm: put every layer under spectral normalisation; nothing then starts at zero.
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        z_shape: Sequence[int],
        *,
        width: int = 256,
        blocks: int = 5,
        activation: Activation = "elu",
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        self.first = nn.Linear(math.prod(x_shape) + math.prod(z_shape), width)
        self.blocks = nn.Sequential(*(Block(width, activation) for _ in range(blocks)))
        self.act, self.last = ACTIVATIONS[activation](), nn.Linear(width, 1)
        xavier(self)
        if spectral_norm:
            normalise_spectrum(self)
        else:
            for block in self.blocks:
                assert isinstance(block, Block)
                near_zero(block.v)
            near_zero(self.last)

    def at(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        T = side_by_side([self.first, self.blocks, self.act, self.last], x.flatten(1))
        return lambda z: T(z.flatten(1)).squeeze(-1)
