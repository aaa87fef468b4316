"""The papers' methods, one file each; a method is found by its name in ``METHODS``."""

from advae.methods.base import METHODS, Losses, Method

__all__ = ["METHODS", "Losses", "Method"]
