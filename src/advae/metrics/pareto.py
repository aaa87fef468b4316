"""How heavy is the tail of importance weights? The shape k of a generalised Pareto distribution (Vehtari, Simpson,
Gelman, Yao and Gabry 2024), fitted as Zhang and Stephens (2009) do.

    k < 0.5   the weights have a variance            k > 0.7   no number of draws in reach makes their mean reliable

Where log q is an estimate, so is k: a critic that is too smooth in the tails hides large weights.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PRIOR_K, PRIOR_WEIGHT = 0.5, 10.0  # the published code draws k towards 0.5 as ten observations would
LEAST_TAIL = 5  # weights from which a shape can be fitted


def pareto_k(log_weights: Tensor) -> float:
    """``k̂`` of importance weights given by their logs ``[S]``; infinite where some are not numbers or all are zero.

    The tail are the largest ``min(S/5, 3 √S)`` weights.
    """
    w = log_weights.double().flatten()
    if bool(w.isnan().any()) or not bool(w.max().isfinite()):
        return math.inf
    count = min(len(w) // 5, math.ceil(3 * math.sqrt(len(w))))
    if count < LEAST_TAIL:
        return math.inf
    ordered = (w - w.max()).sort().values
    cutoff = ordered[-count - 1].clamp_min(math.log(torch.finfo(torch.float64).tiny))
    excess = (ordered[-count:].exp() - cutoff.exp()).clamp_min(0)
    if float(excess.max()) <= 1e-12:
        return -math.inf  # all alike: no tail at all
    return _shape(excess.clamp_min(1e-300))


def _shape(x: Tensor) -> float:
    """The shape of a generalised Pareto distribution, from its sorted sample ``x [n]``, by a mean over a grid."""
    n = len(x)
    grid = 30 + int(math.sqrt(n))
    quartile = x[int(n / 4 + 0.5) - 1]
    b = (1 - (grid / (torch.arange(1, grid + 1, dtype=x.dtype) - 0.5)).sqrt()) / (3 * quartile) + 1 / x[-1]
    k = torch.log1p(-b.unsqueeze(1) * x).mean(1)
    profile = n * (torch.log(-b / k) - k - 1)
    weights = torch.softmax(profile, 0)
    keep = weights >= 10 * torch.finfo(x.dtype).eps
    b_hat = (weights[keep] * b[keep]).sum() / weights[keep].sum()
    k_hat = float(torch.log1p(-b_hat * x).mean())
    return (n * k_hat + PRIOR_WEIGHT * PRIOR_K) / (n + PRIOR_WEIGHT)
