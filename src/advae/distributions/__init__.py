"""Probability distributions, and the heads that make them from a network's output."""

from advae.distributions.base import HEADS, Distribution, Head, StandardNormal

__all__ = ["HEADS", "Distribution", "Head", "StandardNormal"]
