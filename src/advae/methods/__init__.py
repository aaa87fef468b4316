"""Methods, one file each, registered by name in ``METHODS``."""

from advae.methods.base import METHODS, CriticSpec, KLBound, Losses, Method, method_from_model

__all__ = ["METHODS", "CriticSpec", "KLBound", "Losses", "Method", "method_from_model"]
