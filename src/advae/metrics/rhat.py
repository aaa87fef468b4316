"""Do chains agree? Rank-normalised split R-hat and effective sample size (Vehtari, Gelman, Simpson, Carpenter and
Bürkner 2021).

    R̂      sqrt((W (n − 1)/n + B/n) / W)     B, W the variances between and within 2 M half chains of n draws
    z       Φ⁻¹((rank − 3/8) / (S + 1/4))     draws by their rank among all S: heavy tails do no harm
    R̂ of    z, and of |θ − median| ranked likewise; the larger counts: locations and scales

Above 1.01 chains have not come to one distribution. Draws of a fitted q are independent, and there it asks whether
several fits are alike.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def rhat(draws: Tensor) -> Tensor:
    """R-hat of every coordinate of ``draws [M, n, d]``, ``[d]``, in float64; M chains of n draws.

    It is 1 where all draws are one number, as the first entry of a correlation matrix's factor is.
    """
    halves = split(draws.double())
    folded = (halves - halves.flatten(0, 1).quantile(0.5, dim=0)).abs()
    found = torch.maximum(_rhat(normal_scores(halves)), _rhat(normal_scores(folded)))
    return torch.where(constant(draws), 1.0, found)


def constant(draws: Tensor) -> Tensor:
    """Which coordinates of ``draws [M, n, d]`` are one and the same number, ``[d]``."""
    return (draws == draws[:1, :1]).flatten(0, 1).all(0)


def normal_scores(draws: Tensor) -> Tensor:
    """Each of ``draws [M, n, d]`` by the normal quantile of its rank in its coordinate; ties share their ranks."""
    flat = draws.flatten(0, 1)
    count = len(flat)
    ranks = torch.empty_like(flat)
    for j in range(flat.shape[1]):
        _, place, ties = torch.unique(flat[:, j], return_inverse=True, return_counts=True)
        ranks[:, j] = (ties.cumsum(0) - (ties - 1) / 2)[place]
    return torch.special.ndtri((ranks - 0.375) / (count + 0.25)).reshape(draws.shape)


def split(draws: Tensor) -> Tensor:
    """Both halves of every chain as chains: ``[2 M, n // 2, d]``."""
    half = draws.shape[1] // 2
    return torch.cat([draws[:, :half], draws[:, -half:]])


def _rhat(halves: Tensor) -> Tensor:
    n = halves.shape[1]
    within, between = halves.var(1).mean(0), n * halves.mean(1).var(0)
    return ((within * (n - 1) / n + between / n) / within).sqrt()


def effective_size(draws: Tensor) -> Tensor:
    """How many independent draws ``[M, n, d]`` are worth for the mean of each coordinate's scores, ``[d]``.

    Autocorrelations are summed over pairs of lags while the sums are positive and fall (Geyer 1992). Draws that are
    all one number are worth their count.
    """
    halves = normal_scores(split(draws.double()))
    chains, n, _ = halves.shape
    centred = halves - halves.mean(1, keepdim=True)
    spectrum = torch.fft.rfft(centred, 2 * n, dim=1)
    covariance = torch.fft.irfft(spectrum * spectrum.conj(), 2 * n, dim=1)[:, :n].mean(0) / n  # [n, d]
    within = covariance[0] * n / (n - 1)
    total = within * (n - 1) / n + halves.mean(1).var(0)
    rho = 1 - (within - covariance) / total
    rho[0] = 1
    pairs = rho[: n - n % 2].reshape(-1, 2, rho.shape[1]).sum(1)
    positive = (pairs > 0).cumprod(0)
    monotone = torch.cummin(pairs, 0).values * positive
    time = (2 * monotone.sum(0) - 1).clamp_min(1 / math.log10(chains * n))
    return torch.where(constant(draws), float(chains * n), chains * n / time)
