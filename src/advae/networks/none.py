"""No network: the encoder of a model that has none, such as a GAN or an autoregressive model."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from advae.errors import UnsupportedError
from advae.networks.base import NETWORKS


@NETWORKS.register("none")
class NoNetwork(nn.Module):
    """Stands where an encoder would.

    Args:
        in_shape: what it would take; not used.
        out_shape: what it would give; not used.
        noise: not used.
    """

    def __init__(self, in_shape: Sequence[int], out_shape: Sequence[int], noise: int = 0) -> None:
        super().__init__()

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> Tensor:
        """There is nothing to compute.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(
            "this model has no encoder: it has no codes of observations, and cannot reconstruct or interpolate them",
            remedy="sample from it, or train a model with an encoder on the same data",
        )
