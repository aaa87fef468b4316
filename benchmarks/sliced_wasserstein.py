"""Sliced Wasserstein distance of two samples (Bonneel, Rabin, Peyré and Pfister 2015)."""

from __future__ import annotations

import torch
from torch import Tensor

NUM_DIRECTIONS = 200


def sliced_wasserstein(x: Tensor, y: Tensor, *, directions: int = NUM_DIRECTIONS, seed: int = 0) -> float:
    """Return ``E_v W₁(vᵀx, vᵀy)`` over unit vectors v, for ``x [n, d]`` and ``y [n, d]``, in their units.

    >>> x = torch.randn(50, 3)
    >>> sliced_wasserstein(x, x)
    0.0
    """
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(x.shape[1], directions, generator=generator, dtype=torch.float64)
    v = (v / v.norm(dim=0)).to(x.device)
    a, b = ((s.double() @ v).sort(0).values for s in (x, y))
    return float((a - b).abs().mean())
