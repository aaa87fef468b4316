"""The critic of AVB's black-box inference (Mescheder, Nowozin and Geiger 2017, the authors' notebooks).

    h ← W (x, z),      h ← h + V act(U act(h)) in every block,      T = w · act(h)

The authors have five blocks of width 256. The V and w start near zero, so that T starts as zero everywhere: P and Q are
assumed to be equal until the critic learns otherwise.
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
    apply_spectral_norm,
    init_near_zero,
    init_xavier,
)
from advae.networks.mlp import bind_first_input


class ResidualMLPBlock(nn.Module):
    """``h + V act(U act(h))``."""

    def __init__(self, width: int, activation: Activation) -> None:
        super().__init__()
        self.u, self.v = nn.Linear(width, width), nn.Linear(width, width)
        self.act = ACTIVATIONS[activation]()

    def forward(self, h: Tensor) -> Tensor:
        """Map ``[B, width]`` to the same shape."""
        return h + self.v(self.act(self.u(self.act(h))))


@CRITICS.register("residual")
class ResidualCritic(Critic):
    """``T(x, z)`` by fully connected residual blocks of the concatenation of x and z.

    Args:
        x_shape: shape of one observation.
        z_shape: shape of one latent.
        width: of every layer.
        num_blocks: number of residual blocks; with none there is one hidden layer.
        activation: the nonlinearity.
        spectral_norm: put every layer under spectral normalization; nothing starts at zero then.
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
    ) -> None:
        super().__init__()
        self.first = nn.Linear(math.prod(x_shape) + math.prod(z_shape), width)
        self.blocks = nn.Sequential(*(ResidualMLPBlock(width, activation) for _ in range(num_blocks)))
        self.act, self.last = ACTIVATIONS[activation](), nn.Linear(width, 1)
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
