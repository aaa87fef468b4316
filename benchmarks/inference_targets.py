"""Target densities of ``inference.py``, with their parameters and modes.

A mode is a region of the parameter space.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import HalfCauchy, Normal, constraints

positive = constraints.positive
Values = dict[str, Tensor]


@dataclass(frozen=True)
class Example:
    """A target density.

    Attributes:
        parameters, log_joint: as for ``advae.infer``.
        region: maps samples to the index of their mode, ``[S]``; None for targets with one mode.
    """

    parameters: dict[str, Any]
    log_joint: Callable[..., Tensor]
    region: Callable[[Values], Tensor] | None = None


def normal(value: Tensor, mean: Any, sd: Any) -> Tensor:
    return Normal(mean, sd, validate_args=False).log_prob(value)


# --- eight schools ------------------------------------------------------------------------------------------

PAPER_Y = torch.tensor([2.8, 0.8, -0.3, 0.7, -0.1, 0.1, 1.8, 1.2])
PAPER_SIGMA = torch.tensor([0.8, 0.5, 0.8, 0.6, 0.5, 0.6, 0.5, 0.4])


def paper_schools() -> Example:
    """Mescheder, Nowozin and Geiger 2017: N(0, 1) priors; tau is unconstrained, so (tau, eta) and −(tau, eta) agree."""

    def log_joint(mu: Tensor, tau: Tensor, eta: Tensor) -> Tensor:
        prior = normal(mu, 0, 1) + normal(tau, 0, 1) + normal(eta, 0, 1).sum(-1)
        theta = mu[:, None] + tau[:, None] * eta
        return prior + normal(PAPER_Y.to(mu), theta, PAPER_SIGMA.to(mu)).sum(-1)

    parameters: dict[str, Any] = {"mu": (), "tau": (), "eta": (8,)}
    return Example(parameters, log_joint, lambda values: (values["tau"] > 0).long())


Y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SIGMA = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def _tau(tau: Tensor) -> Tensor:
    return HalfCauchy(torch.tensor(5.0).to(tau), validate_args=False).log_prob(tau)


def schools() -> Example:
    """Rubin 1981, non-centered: theta = mu + tau eta."""

    def log_joint(mu: Tensor, tau: Tensor, eta: Tensor) -> Tensor:
        prior = normal(mu, 0, 5) + _tau(tau) + normal(eta, 0, 1).sum(-1)
        return prior + normal(Y.to(mu), mu[:, None] + tau[:, None] * eta, SIGMA.to(mu)).sum(-1)

    return Example({"mu": (), "tau": positive, "eta": (8,)}, log_joint)


def schools_centred() -> Example:
    """The centered parametrization, in theta: a funnel."""

    def log_joint(mu: Tensor, tau: Tensor, theta: Tensor) -> Tensor:
        prior = normal(mu, 0, 5) + _tau(tau) + normal(theta, mu[:, None], tau[:, None]).sum(-1)
        return prior + normal(Y.to(mu), theta, SIGMA.to(mu)).sum(-1)

    return Example({"mu": (), "tau": positive, "theta": (8,)}, log_joint)


# --- shapes -------------------------------------------------------------------------------------------------


def unknown_scale() -> Example:
    """Five observations of a normal whose mean and standard deviation are unknown."""
    y = torch.tensor([-1.0, 0.3, 0.6, 1.4, 3.2])

    def log_joint(mu: Tensor, sigma: Tensor) -> Tensor:
        prior = normal(mu, 0, 10) + HalfCauchy(torch.tensor(5.0).to(mu), validate_args=False).log_prob(sigma)
        return prior + normal(y.to(mu), mu[:, None], sigma[:, None]).sum(-1)

    return Example({"mu": (), "sigma": positive}, log_joint)


def rosenbrock() -> Example:
    """A curved valley: x ~ N(1, 1), y ~ N(x², 0.3²)."""

    def log_joint(x: Tensor, y: Tensor) -> Tensor:
        return normal(x, 1, 1) + normal(y, x.square(), 0.3)

    return Example({"x": (), "y": ()}, log_joint)


def torus() -> Example:
    """A ring of radius 2 and width 0.25 in the plane, a normal in the third coordinate."""

    def log_joint(x: Tensor) -> Tensor:
        radius = x[:, :2].norm(dim=1)
        return -0.5 * ((radius - 2) / 0.25).square() - 0.5 * (x[:, 2] / 0.25).square()

    def region(values: Values) -> Tensor:  # quarters of the ring
        x = values["x"]
        return ((torch.atan2(x[..., 1], x[..., 0]) + math.pi) / (math.pi / 2)).long().clamp(0, 3)

    return Example({"x": (3,)}, log_joint, region)


def banana() -> Example:
    """A bent normal: x ~ N(0, 10²), y + 0.03 x² − 3 ~ N(0, 1) (Haario, Saksman and Tamminen 1999)."""

    def log_joint(x: Tensor, y: Tensor) -> Tensor:
        return normal(x, 0, 10) + normal(y + 0.03 * x.square() - 3, 0, 1)

    return Example({"x": (), "y": ()}, log_joint)


# --- regression ---------------------------------------------------------------------------------------------


def logistic() -> Example:
    """scikit-learn's breast-cancer data, 30 standardized columns, coefficients N(0, 1), no intercept."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    x = torch.tensor((data.data - data.data.mean(0)) / data.data.std(0), dtype=torch.float32)
    sign = torch.tensor(2.0 * data.target - 1, dtype=torch.float32)

    def log_joint(w: Tensor) -> Tensor:
        logits = w @ x.T.to(w) * sign.to(w)
        return normal(w, 0, 1).sum(-1) + torch.nn.functional.logsigmoid(logits).sum(-1)

    return Example({"w": (30,)}, log_joint)


TARGETS: dict[str, Callable[[], Example]] = {
    "schools-paper": paper_schools,
    "unknown-scale": unknown_scale,
    "rosenbrock": rosenbrock,
    "torus": torus,
    "schools": schools,
    "schools-centred": schools_centred,
    "banana": banana,
    "logistic": logistic,
}
