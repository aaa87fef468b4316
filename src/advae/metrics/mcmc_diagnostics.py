"""Diagnostics of Markov chains and importance weights.

Rank-normalized split R-hat and effective sample size (Vehtari, Gelman, Simpson, Carpenter and Bürkner 2021):

    R̂      sqrt((W (n − 1)/n + B/n) / W)     B, W the variances between and within 2 M half chains of n samples
    z       Φ⁻¹((rank − 3/8) / (S + 1/4))     rank among all S samples: insensitive to heavy tails
    R̂ of    z, and of ranked |θ − median|; the larger one counts: locations and scales

Above 1.01 chains have not converged to one distribution. Samples of a fitted q are independent; there R-hat compares
independent fits.

Pareto k-hat: shape of a generalized Pareto distribution in the tail of importance weights (Vehtari, Simpson, Gelman,
Yao and Gabry 2024), fitted as by Zhang and Stephens (2009):

    k < 0.5   the weights have a variance         k > 0.7   no practical number of samples makes their mean reliable

If log q is an estimate, so is k: a critic that is too smooth in the tails hides large weights.

The formulas are those of arviz-stats, and are tested against it; they are here because inference works without ArviZ.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PRIOR_K, PRIOR_COUNT = 0.5, 10.0  # k is shrunk towards 0.5 as by ten observations, as in the published code
MIN_TAIL_SIZE = 5  # weights for a fit of the shape


def split_rhat(samples: Tensor) -> Tensor:
    """Return rank-normalized split R-hat ``[d]`` in float64 of M chains ``samples [M, n, d]``.

    It is 1 for a coordinate that is constant, such as the first entry of a correlation matrix's Cholesky factor.
    """
    halves = _split_chains(samples.double())
    folded = (halves - halves.flatten(0, 1).quantile(0.5, dim=0)).abs()
    rhat = torch.maximum(_rhat(_normal_scores(halves)), _rhat(_normal_scores(folded)))
    return torch.where(_is_constant(samples), 1.0, rhat)


def effective_sample_size(samples: Tensor) -> Tensor:
    """Return the bulk effective sample size ``[d]`` of M chains ``samples [M, n, d]``.

    Autocorrelations are summed over pairs of lags while the sums are positive, made monotone (Geyer 1992). For a
    constant coordinate it is the number of samples.
    """
    halves = _normal_scores(_split_chains(samples.double()))
    chains, n, _ = halves.shape
    centered = halves - halves.mean(1, keepdim=True)
    spectrum = torch.fft.rfft(centered, 2 * n, dim=1)
    autocovariance = torch.fft.irfft(spectrum * spectrum.conj(), 2 * n, dim=1)[:, :n].mean(0) / n  # [n, d]
    within = autocovariance[0] * n / (n - 1)
    total = within * (n - 1) / n + halves.mean(1).var(0)
    rho = 1 - (within - autocovariance) / total
    rho[0] = 1
    pairs = rho[: n - n % 2].reshape(-1, 2, rho.shape[1]).sum(1)
    positive = (pairs > 0).cumprod(0)
    monotone = torch.cummin(pairs, 0).values * positive
    autocorrelation_time = (2 * monotone.sum(0) - 1).clamp_min(1 / math.log10(chains * n))
    return torch.where(_is_constant(samples), float(chains * n), chains * n / autocorrelation_time)


def _split_chains(samples: Tensor) -> Tensor:
    """Return the first and second half of every chain, ``[2 M, n // 2, d]``."""
    half = samples.shape[1] // 2
    return torch.cat([samples[:, :half], samples[:, -half:]])


def _normal_scores(samples: Tensor) -> Tensor:
    """Replace ``samples [M, n, d]`` by normal quantiles of their ranks per coordinate; ties share their mean rank."""
    flat = samples.flatten(0, 1)
    ranks = torch.empty_like(flat)
    for j in range(flat.shape[1]):
        _, index, counts = torch.unique(flat[:, j], return_inverse=True, return_counts=True)
        ranks[:, j] = (counts.cumsum(0) - (counts - 1) / 2)[index]
    return torch.special.ndtri((ranks - 0.375) / (len(flat) + 0.25)).reshape(samples.shape)


def _rhat(halves: Tensor) -> Tensor:
    n = halves.shape[1]
    within, between = halves.var(1).mean(0), n * halves.mean(1).var(0)
    return ((within * (n - 1) / n + between / n) / within).sqrt()


def _is_constant(samples: Tensor) -> Tensor:
    """Return which coordinates of ``samples [M, n, d]`` have one value only, ``[d]``."""
    return (samples == samples[:1, :1]).flatten(0, 1).all(0)


def pareto_k(log_weights: Tensor) -> float:
    """Return ``k̂`` of importance weights with logarithms ``[S]``; infinite if some are NaN or all are zero.

    The tail consists of the largest ``min(S/5, 3 √S)`` weights.
    """
    w = log_weights.double().flatten()
    if bool(w.isnan().any()) or not bool(w.max().isfinite()):
        return math.inf
    tail_size = min(len(w) // 5, math.ceil(3 * math.sqrt(len(w))))
    if tail_size < MIN_TAIL_SIZE:
        return math.inf
    ordered = (w - w.max()).sort().values
    cutoff = ordered[-tail_size - 1].clamp_min(math.log(torch.finfo(torch.float64).tiny))
    excess = (ordered[-tail_size:].exp() - cutoff.exp()).clamp_min(0)
    if float(excess.max()) <= 1e-12:
        return -math.inf  # all weights are equal: there is no tail
    return _pareto_shape(excess.clamp_min(1e-300))


def _pareto_shape(x: Tensor) -> float:
    """Return the shape of a generalized Pareto distribution from its sorted sample ``x [n]``, by a mean over a grid."""
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
    return (n * k_hat + PRIOR_COUNT * PRIOR_K) / (n + PRIOR_COUNT)
