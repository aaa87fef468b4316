"""A posterior in numbers: one row for every number of every parameter."""

from __future__ import annotations

from typing import Any

import torch

from advae.data import mix
from advae.inference.posterior import Fitted
from advae.metrics.rhat import rhat

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def summary(posterior: Fitted, n: int) -> dict[str, Any]:
    """``{label: {"mean": …, "sd": …, "5%": …, "rhat": …}}`` from n draws, kept apart by fit for R-hat."""
    space = posterior.target.space
    z = posterior.unconstrained(-(-n // posterior.fits), seed=mix(posterior.seed, 16))
    return rows(space.flat(space.constrained(z)[0]).cpu(), space.labels())


def rows(flat: torch.Tensor, labels: list[str]) -> dict[str, Any]:
    """A row for each of n numbers, of draws ``flat [F, S, n]``."""
    flat = flat.double()
    agree = rhat(flat) if flat.shape[0] > 1 else torch.full(flat.shape[2:], torch.nan)
    pooled = flat.flatten(0, 1)
    quantiles = torch.quantile(pooled, torch.tensor(QUANTILES, dtype=torch.float64), dim=0)
    found = {}
    for j, label in enumerate(labels):
        row = {"mean": float(pooled[:, j].mean()), "sd": float(pooled[:, j].std())}
        row |= {f"{100 * p:.0f}%": float(q) for p, q in zip(QUANTILES, quantiles[:, j], strict=True)}
        found[label] = {**row, "rhat": float(agree[j])}
    return found
