"""Tensors in, tensors out: the networks behind encoders, decoders and critics."""

from advae.networks.base import CRITICS, NETWORKS

__all__ = ["CRITICS", "NETWORKS"]
