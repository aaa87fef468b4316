"""What a network's output means: distribution objects, and the heads that make them from raw tensors."""

from advae.distributions.base import HEADS, Distribution, Head, StandardNormal

__all__ = ["HEADS", "Distribution", "Head", "StandardNormal"]
