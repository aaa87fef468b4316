"""What is measured of a model of ``toy.py``: integrals over a code of two dimensions, in float64.

    x_i, q_i, p_i    as there
    mass      of a density in the cells of a grid over [−5, 5]²             [..., bins, bins]
    counts    of draws in the cells of a grid over the square Φ(z) ∈ [0, 1]²    [bins, bins]

A density is summed by the midpoint rule, whose error for a smooth one vanishes faster than any power of the width.
An implicit one is known by draws, counted in cells of the same prior mass each.
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

REACH = 5.0  # beyond lie 1.1e-6 of the prior's mass
OBSERVED = 4
BINS = 512  # a side, of width 0.02
SQUARE = 512  # a side of the square: 0.005 wide at z = 0, 0.04 two standard deviations away
DRAWS = 2**22  # of each q_i, for its divergence: 64 a cell where four tiles lie
DECODED = 2**18  # of these, for its reconstruction
CHUNK = 2**14  # codes at a time through a network: what then lies between layers stays in the cache
BLOCK = 2**18  # codes at a time into the cells


def centres(bins: int = BINS) -> Tensor:
    """Of the cells, row by row: ``[bins², 2]``."""
    middle = REACH * ((2 * torch.arange(bins, dtype=torch.float64) + 1) / bins - 1)
    return torch.cartesian_prod(middle, middle)


def mass_of(log_density: Tensor) -> Tensor:
    """From log densities at the centres ``[..., bins²]``, by the midpoint rule."""
    bins = math.isqrt(log_density.shape[-1])
    return (log_density.exp() * (2 * REACH / bins) ** 2).unflatten(-1, (bins, bins))


def log_prior(z: Tensor) -> Tensor:
    """``log N(z; 0, I)`` for ``z [..., 2]``."""
    return -0.5 * z.square().sum(-1) - math.log(2 * math.pi)


def evidence(log_likelihood: Tensor) -> Tensor:
    """``log p(x_i) = log ∫ p(x_i|z) p(z) dz`` from log p(x_i|z) at the centres ``[4, bins²]``."""
    bins = math.isqrt(log_likelihood.shape[-1])
    return mass_of(log_likelihood + log_prior(centres(bins))).sum((-2, -1)).log()


def overlap(mass: Tensor) -> float:
    """``H(x|z)`` of four densities ``[4, bins, bins]``: 0 if they are disjoint, log 4 if they are the same."""
    share = mass / mass.sum(0).clamp_min(torch.finfo(mass.dtype).tiny)
    return float(-(torch.xlogy(mass, share)).sum() / mass.sum())


def kl_of_mass(mass: Tensor) -> float:
    """``KL(q ‖ p(z))`` from the masses ``[bins, bins]`` of a smooth density."""
    bins = mass.shape[-1]
    p = mass_of(log_prior(centres(bins)))
    return float((torch.xlogy(mass, mass) - mass * p.log()).sum())


# --- draws --------------------------------------------------------------------------------------------------


def counted(z: Tensor, bins: int = SQUARE) -> Tensor:
    """How many of the draws ``[K, 2]`` fall into each cell of the unit square, ``[bins, bins]``."""
    places = (torch.special.ndtr(z.double()) * bins).long().clamp_max(bins - 1)
    return torch.bincount(places[:, 0] * bins + places[:, 1], minlength=bins**2).double().reshape(bins, bins)


def coarser(counts: Tensor) -> Tensor:
    """Four cells into one."""
    half = counts.shape[-1] // 2
    return counts.reshape(half, 2, half, 2).sum((1, 3))


def log_count(n: Tensor) -> Tensor:
    """``G(n)``, so that ``E[n G(n)] ≈ λ log λ`` for n ~ Poisson(λ), for counts of 1 and more (Grassberger 2003).

    ``G(n) = ψ(n) + (−1)ⁿ/2 · [ψ((n + 1)/2) − ψ(n/2)]``. What is missing vanishes like e^(−2λ); for log n itself it is
    about a half whatever λ, in all: half the number of occupied cells.
    """
    sign = 1 - 2 * torch.remainder(n, 2)
    return torch.digamma(n) + sign / 2 * (torch.digamma((n + 1) / 2) - torch.digamma(n / 2))


def binned_kl(counts: Tensor) -> float:
    """``KL(q ‖ p(z))`` of the masses in the cells, from counts of draws of q ``[bins, bins]``.

    The prior has the same mass in each. What happens inside a cell is lost, so that the divergence of masses is never
    above that of densities.
    """
    K, n = counts.sum(), counts[counts > 0]
    return float((n / K * (log_count(n) - K.log())).sum()) + math.log(counts.numel())


def kl_of_draws(counts: Tensor) -> dict[str, float]:
    """``KL(q ‖ p(z))`` between ``low`` and ``high``, from counts of draws of q ``[bins, bins]``.

    What cells of width h lose goes like h² where q/p is smooth in Φ(z), and like h at a jump. So ``low``, by the cells
    as they are, lacks at most what halving them once has gained: ``high`` adds that again. ``order`` is the gain of the
    last halving but one over that of the last: 4 where smooth, 2 at jumps; below 2 the cells are too wide.
    """
    coarse = coarser(counts)
    low, before, first = (binned_kl(each) for each in (counts, coarse, coarser(coarse)))
    return {"low": low, "high": 2 * low - before, "order": (before - first) / (low - before)}


# --- a model ------------------------------------------------------------------------------------------------


def observations(model: Any) -> Tensor:
    """``x_i``, ``[4, *x_shape]``."""
    return torch.eye(OBSERVED).reshape(OBSERVED, *model.x_shape)


def log_likelihoods(model: Any, z: Tensor) -> Tensor:
    """``log p(x_i|z)`` of all x_i for ``z [B, 2]``, ``[4, B]`` in float64."""
    parts = []
    for some in z.float().split(CHUNK):
        p = model.decode(some)
        parts.append(torch.stack([p.log_prob(x.expand(len(some), *x.shape)) for x in observations(model)]))
    return torch.cat(parts, 1).double()


@torch.no_grad()
def on_grid(model: Any) -> tuple[Tensor, Tensor, Tensor]:
    """At the centres: ``log p(x_i|z) [4, BINS²]``, the masses of p_i ``[4, BINS, BINS]``; and ``log p(x_i) [4]``."""
    log_p = log_likelihoods(model, centres())
    log_x = evidence(log_p)
    return log_p, mass_of(log_p + log_prior(centres()) - log_x[:, None]), log_x


@torch.no_grad()
def drawn(model: Any) -> tuple[Tensor, Tensor]:
    """Of draws of each q_i: the counts ``[4, SQUARE, SQUARE]`` of all, and log p(x_i|z) of the first ``[4, S]``."""
    torch.manual_seed(0)
    x, size = observations(model), CHUNK // OBSERVED
    counts, found = torch.zeros(OBSERVED, SQUARE, SQUARE, dtype=torch.float64), []
    for done in range(0, DRAWS, BLOCK):
        z = torch.cat([model.encode(x).sample((size,)) for _ in range(BLOCK // size)]).transpose(0, 1)
        counts += torch.stack([counted(each, SQUARE) for each in z])
        if done < DECODED:
            found.append(torch.stack([log_likelihoods(model, each)[i] for i, each in enumerate(z)]))
    return counts, torch.cat(found, 1)


@torch.no_grad()
def measure(run: Any) -> dict[str, Any]:
    """All figures of one run, in nats, means over the four observations.

    The cautious ends of what is known by draws alone: the divergences at most, so the bound at least.
    """
    model = run.model()
    log_p, true, log_x = on_grid(model)
    draws, found = by_draws(model), by_density(model, log_p)
    found = found or {
        "reconstruction": draws["reconstruction"]["value"],
        "kl": draws["kl"]["high"],
        "marginal": draws["marginal"]["high"],
        "overlap": draws["overlap"],
    }
    elbo = -found["reconstruction"] - found["kl"]
    return found | {
        "elbo": elbo,
        "evidence": float(log_x.mean()),
        "inference_gap": float(log_x.mean()) - elbo,
        "true_overlap": overlap(true),
        "true_marginal": kl_of_mass(true.mean(0)),
        "by_draws": draws,
        "claimed_elbo": claimed(model),
    }


@torch.no_grad()
def by_density(model: Any, log_p: Tensor) -> dict[str, float] | None:
    """What q_i of normals say, by formula and by the grid; None without a density."""
    q = model.encode(observations(model))
    if not q.has_log_prob:
        return None
    mean, var = (moment.double() for moment in q.moments())
    normal = Normal(mean, var.sqrt())
    mass = mass_of(Normal(mean[:, None], var.sqrt()[:, None]).log_prob(centres()).sum(-1))
    return {
        "reconstruction": -float((mass.flatten(1) * log_p).sum(1).mean()),
        "kl": float(kl_divergence(normal, Normal(0.0, 1.0)).sum(-1).mean()),
        "marginal": kl_of_mass(mass.mean(0)),
        "overlap": overlap(mass),
    }


def by_draws(model: Any) -> dict[str, Any]:
    """The same from draws of any q_i, with how sure it is.

    The overlap ``H(x|z) = log 4 − E KL(q_i ‖ p(z)) + KL(q(z) ‖ p(z))`` is of cells, which hold more than there is.
    """
    counts, log_p = drawn(model)
    kl, marginal = mean_of(kl_of_draws(each) for each in counts), kl_of_draws(counts.sum(0))
    return {
        "reconstruction": {
            "value": -float(log_p.mean()),
            "stderr": float(log_p.std(1).square().sum().sqrt() / OBSERVED / math.sqrt(log_p.shape[1])),
        },
        "kl": kl,
        "marginal": marginal,
        "overlap": math.log(OBSERVED) - kl["low"] + marginal["low"],
    }


def mean_of(found: Iterable[dict[str, float]]) -> dict[str, float]:
    """Of dictionaries of numbers with the same keys."""
    rows = list(found)
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


@torch.no_grad()
def claimed(model: Any) -> float | None:
    """The bound with the critic's own estimate of KL(q_i ‖ p(z)); None without a critic."""
    method = METHODS.build(model.info["method"])
    if not model.critics:
        return None
    torch.manual_seed(2)
    x = observations(model)
    seen = method.losses(model, x.repeat(2**15, *([1] * (x.dim() - 1)))).report
    return -float((seen["reconstruction"] + seen["kl"]).double().mean())
