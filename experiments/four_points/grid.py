"""Integrals over a two-dimensional latent, in float64.

    x_i, q_i, p_i    as in `run.py`
    mass      of a density in the cells of a grid over [−5, 5]²             [..., bins, bins]
    counts    of samples in the cells of a grid over the square Φ(z) ∈ [0, 1]²    [bins, bins]

A density is integrated by the midpoint rule, whose error for smooth densities vanishes faster than any power of the
width. Samples of an implicit density are counted in cells of equal prior mass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from advae.methods import METHODS

GRID_HALF_WIDTH = 5.0  # 1.1e-6 of the prior's mass is outside
NUM_OBSERVATIONS = 4
BINS = 512  # per axis, of width 0.02
SQUARE_BINS = 512  # per axis: 0.005 wide at z = 0, 0.04 at two standard deviations
NUM_SAMPLES = 2**22  # of each q_i, for its KL: 64 per cell if the posteriors tile the prior
NUM_DECODED = 2**18  # of these, for the reconstruction
DECODER_BATCH_SIZE = 2**14  # small enough for activations to stay in the cache
SAMPLES_PER_BLOCK = 2**18  # that are counted together


def centers(bins: int = BINS) -> Tensor:
    """Return the centers of the cells, row by row, ``[bins², 2]``."""
    middle = GRID_HALF_WIDTH * ((2 * torch.arange(bins, dtype=torch.float64) + 1) / bins - 1)
    return torch.cartesian_prod(middle, middle)


def mass_from_log_density(log_density: Tensor) -> Tensor:
    """Return masses ``[..., bins, bins]`` from log densities at the centers ``[..., bins²]``, by the midpoint rule."""
    bins = math.isqrt(log_density.shape[-1])
    return (log_density.exp() * (2 * GRID_HALF_WIDTH / bins) ** 2).unflatten(-1, (bins, bins))


def log_prior(z: Tensor) -> Tensor:
    """Return ``log N(z; 0, I)`` for ``z [..., 2]``."""
    return -0.5 * z.square().sum(-1) - math.log(2 * math.pi)


def evidence(log_likelihood: Tensor) -> Tensor:
    """Return ``log p(x_i) = log ∫ p(x_i|z) p(z) dz`` from log p(x_i|z) at the centers ``[4, bins²]``."""
    bins = math.isqrt(log_likelihood.shape[-1])
    return mass_from_log_density(log_likelihood + log_prior(centers(bins))).sum((-2, -1)).log()


def overlap(mass: Tensor) -> float:
    """Return ``H(x|z)`` of four densities ``[4, bins, bins]``: 0 if they are disjoint, log 4 if they are equal."""
    share = mass / mass.sum(0).clamp_min(torch.finfo(mass.dtype).tiny)
    return float(-(torch.xlogy(mass, share)).sum() / mass.sum())


def kl_from_mass(mass: Tensor) -> float:
    """Return ``KL(q ‖ p(z))`` from the masses ``[bins, bins]`` of a smooth density."""
    bins = mass.shape[-1]
    p = mass_from_log_density(log_prior(centers(bins)))
    return float((torch.xlogy(mass, mass) - mass * p.log()).sum())


# --- samples ------------------------------------------------------------------------------------------------


def count_in_cells(z: Tensor, bins: int = SQUARE_BINS) -> Tensor:
    """Return how many of the samples ``[K, 2]`` are in each cell of the unit square, ``[bins, bins]``."""
    index = (torch.special.ndtr(z.double()) * bins).long().clamp_max(bins - 1)
    return torch.bincount(index[:, 0] * bins + index[:, 1], minlength=bins**2).double().reshape(bins, bins)


def merge_cells(counts: Tensor) -> Tensor:
    """Return the counts of cells of twice the width."""
    half = counts.shape[-1] // 2
    return counts.reshape(half, 2, half, 2).sum((1, 3))


def log_count(n: Tensor) -> Tensor:
    """Return ``G(n)`` with ``E[n G(n)] ≈ λ log λ`` for n ~ Poisson(λ), for counts of at least 1 (Grassberger 2003).

    ``G(n) = ψ(n) + (−1)ⁿ/2 · [ψ((n + 1)/2) − ψ(n/2)]``. Its bias vanishes like e^(−2λ); that of log n is about a half
    for any λ, which adds up to half the number of occupied cells.
    """
    sign = 1 - 2 * torch.remainder(n, 2)
    return torch.digamma(n) + sign / 2 * (torch.digamma((n + 1) / 2) - torch.digamma(n / 2))


def binned_kl(counts: Tensor) -> float:
    """Return ``KL(q ‖ p(z))`` of the masses in the cells, from counts of samples of q ``[bins, bins]``.

    The prior has equal mass in all cells. Structure within cells is lost, so the KL of masses is at most that of
    densities.
    """
    K, n = counts.sum(), counts[counts > 0]
    return float((n / K * (log_count(n) - K.log())).sum()) + math.log(counts.numel())


def kl_from_counts(counts: Tensor) -> dict[str, float]:
    """Return bounds ``low`` and ``high`` of ``KL(q ‖ p(z))``, from counts of samples of q ``[bins, bins]``.

    The loss by cells of width h is of order h² where q/p is smooth in Φ(z), and of order h at a jump. So ``low``, by
    the cells as they are, is too low by at most what the last halving of the width has gained, which ``high`` adds.
    ``order`` is the gain of the previous halving divided by that of the last: 4 where smooth, 2 at jumps; below 2 the
    cells are too wide.
    """
    coarse = merge_cells(counts)
    fine, half, quarter = (binned_kl(c) for c in (counts, coarse, merge_cells(coarse)))
    return {"low": fine, "high": 2 * fine - half, "order": (half - quarter) / (fine - half)}


# --- a model ------------------------------------------------------------------------------------------------


def observations(model: Any) -> Tensor:
    """Return ``x_i``, ``[4, *x_shape]``."""
    return torch.eye(NUM_OBSERVATIONS).reshape(NUM_OBSERVATIONS, *model.x_shape)


def log_likelihoods(model: Any, z: Tensor) -> Tensor:
    """Return ``log p(x_i|z)`` of all x_i for ``z [B, 2]``, ``[4, B]`` in float64."""
    chunks = []
    for chunk in z.float().split(DECODER_BATCH_SIZE):
        p = model.decode(chunk)
        chunks.append(torch.stack([p.log_prob(x.expand(len(chunk), *x.shape)) for x in observations(model)]))
    return torch.cat(chunks, 1).double()


@torch.no_grad()
def posteriors_on_grid(model: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``log p(x_i|z) [4, BINS²]``, the masses of p_i ``[4, BINS, BINS]``, and ``log p(x_i) [4]``."""
    log_p = log_likelihoods(model, centers())
    log_x = evidence(log_p)
    return log_p, mass_from_log_density(log_p + log_prior(centers()) - log_x[:, None]), log_x


@torch.no_grad()
def sample_posteriors(model: Any) -> tuple[Tensor, Tensor]:
    """Return counts ``[4, bins, bins]`` of samples of each q_i, and log p(x_i|z) of the first ``[4, S]``."""
    torch.manual_seed(0)
    x, size = observations(model), DECODER_BATCH_SIZE // NUM_OBSERVATIONS
    counts = torch.zeros(NUM_OBSERVATIONS, SQUARE_BINS, SQUARE_BINS, dtype=torch.float64)
    log_p = []
    for start in range(0, NUM_SAMPLES, SAMPLES_PER_BLOCK):
        z = torch.cat([model.encode(x).sample((size,)) for _ in range(SAMPLES_PER_BLOCK // size)])
        z = z.transpose(0, 1)
        counts += torch.stack([count_in_cells(z_i, SQUARE_BINS) for z_i in z])
        if start < NUM_DECODED:
            log_p.append(torch.stack([log_likelihoods(model, z_i)[i] for i, z_i in enumerate(z)]))
    return counts, torch.cat(log_p, 1)


@torch.no_grad()
def measure(model: Any) -> dict[str, Any]:
    """Return all values of a model in nats, as means over the four observations.

    Of quantities that are known by samples alone, the conservative bounds: KLs at most, so the ELBO at least.
    """
    log_p, exact, log_x = posteriors_on_grid(model)
    by_samples = measure_by_samples(model)
    values = measure_by_density(model, log_p) or {
        "reconstruction": by_samples["reconstruction"]["value"],
        "kl": by_samples["kl"]["high"],
        "marginal": by_samples["marginal"]["high"],
        "overlap": by_samples["overlap"],
    }
    elbo = -values["reconstruction"] - values["kl"]
    return values | {
        "elbo": elbo,
        "evidence": float(log_x.mean()),
        "inference_gap": float(log_x.mean()) - elbo,
        "exact_overlap": overlap(exact),
        "exact_marginal": kl_from_mass(exact.mean(0)),
        "by_samples": by_samples,
        "adversarial_elbo": adversarial_elbo(model),
    }


@torch.no_grad()
def measure_by_density(model: Any, log_p: Tensor) -> dict[str, float] | None:
    """Return values for an encoder with normal q_i, by formula and by the grid; None without a density."""
    q = model.encode(observations(model))
    if not q.has_log_prob:
        return None
    mean, var = (moment.double() for moment in q.moments())
    normal = Normal(mean, var.sqrt())
    mass = mass_from_log_density(Normal(mean[:, None], var.sqrt()[:, None]).log_prob(centers()).sum(-1))
    return {
        "reconstruction": -float((mass.flatten(1) * log_p).sum(1).mean()),
        "kl": float(kl_divergence(normal, Normal(0.0, 1.0)).sum(-1).mean()),
        "marginal": kl_from_mass(mass.mean(0)),
        "overlap": overlap(mass),
    }


def measure_by_samples(model: Any) -> dict[str, Any]:
    """Return the same from samples of any q_i, with errors.

    The overlap ``H(x|z) = log 4 − E KL(q_i ‖ p(z)) + KL(q(z) ‖ p(z))`` of cells is at least that of densities.
    """
    counts, log_p = sample_posteriors(model)
    kl, marginal = mean_of_dicts(kl_from_counts(c) for c in counts), kl_from_counts(counts.sum(0))
    return {
        "reconstruction": {
            "value": -float(log_p.mean()),
            "stderr": float(
                log_p.std(1).square().sum().sqrt() / NUM_OBSERVATIONS / math.sqrt(log_p.shape[1])
            ),
        },
        "kl": kl,
        "marginal": marginal,
        "overlap": math.log(NUM_OBSERVATIONS) - kl["low"] + marginal["low"],
    }


def mean_of_dicts(dicts: Iterable[dict[str, float]]) -> dict[str, float]:
    """Return the mean of dictionaries of numbers with the same keys."""
    rows = list(dicts)
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


@torch.no_grad()
def adversarial_elbo(model: Any) -> float | None:
    """Return the ELBO with the critic's own estimate of KL(q_i ‖ p(z)); None without a critic."""
    method = METHODS.build(model.info["method"])
    if not model.critics:
        return None
    torch.manual_seed(2)
    x = observations(model)
    diagnostics = method.losses(model, x.repeat(2**15, *([1] * (x.dim() - 1)))).diagnostics
    return -float((diagnostics["reconstruction"] + diagnostics["kl"]).double().mean())
