"""Targets with known posterior and evidence."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Beta, Binomial, Gamma, MultivariateNormal, Normal

import advae
from advae.evaluation.eval_config import AISConfig
from advae.inference.preconditioner import AffineMap

LOG_Z = 1.5
SHORT_AIS = AISConfig(chains=64, temperatures=30, leapfrog_steps=3)


@dataclass
class StandardNormal:
    """Unnormalized standard normal in ``d`` dimensions."""

    d: int

    def __post_init__(self) -> None:
        self.parameters: dict[str, Any] = {"x": (self.d,)}
        self.evidence = 0.5 * self.d * math.log(2 * math.pi)

    def log_joint(self, x: Tensor) -> Tensor:
        return -0.5 * x.square().sum(-1)


@dataclass
class CorrelatedNormal:
    """Normal with a covariance of condition number 100 and means far from 0; its log evidence is LOG_Z."""

    d: int
    diagonal: bool = False

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.d)
        a = torch.randn(self.d, self.d, generator=generator, dtype=torch.float64)
        root, _ = torch.linalg.qr(a)
        scales = torch.logspace(-0.5, 0.5, self.d, dtype=torch.float64)
        if self.diagonal:
            root = torch.eye(self.d, dtype=torch.float64)
        self.cov = root @ torch.diag(scales.square()) @ root.T
        self.mean = torch.linspace(-3, 5, self.d, dtype=torch.float64)
        self.parameters: dict[str, Any] = {"x": (self.d,)}

    def log_joint(self, x: Tensor) -> Tensor:
        exact = MultivariateNormal(self.mean.to(x), self.cov.to(x), validate_args=False)
        return exact.log_prob(x) + LOG_Z


@dataclass
class Conjugate:
    """Model with a closed form.

    Attributes:
        mean, sd: of each parameter under the posterior.
        evidence: log p(data).
    """

    parameters: dict[str, Any]
    log_joint: Callable[..., Tensor]
    mean: dict[str, float]
    sd: dict[str, float]
    evidence: float


def beta_binomial() -> Conjugate:
    """7 of 20 successes with a Beta(2, 3) prior: the posterior is Beta(9, 16)."""
    n, k, a, b = 20, 7, 2.0, 3.0

    def log_joint(p: Tensor) -> Tensor:
        return Beta(a, b).log_prob(p) + Binomial(n, p).log_prob(torch.tensor(float(k)))

    def log_beta(a: float, b: float) -> float:
        return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

    posterior = Beta(torch.tensor(a + k), torch.tensor(b + n - k))
    evidence = math.log(math.comb(n, k)) + log_beta(a + k, b + n - k) - log_beta(a, b)
    mean, sd = float(posterior.mean), float(posterior.stddev)
    return Conjugate({"p": advae.unit_interval}, log_joint, {"p": mean}, {"p": sd}, evidence)


def normal_gamma() -> Conjugate:
    """Normal with unknown mean and precision: λ ~ Gamma(3, 2), μ | λ ~ N(1, 1/(2 λ)) (Bernardo and Smith 1994)."""
    y = torch.tensor([0.1, 2.0, 1.1, -0.4, 1.9, 0.6], dtype=torch.float64)
    m0, k0, a0, b0 = 1.0, 2.0, 3.0, 2.0
    n, mean = len(y), float(y.mean())
    kn, an = k0 + n, a0 + n / 2
    mn = (k0 * m0 + n * mean) / kn
    bn = b0 + 0.5 * float((y - mean).square().sum()) + k0 * n * (mean - m0) ** 2 / (2 * kn)

    def log_joint(mu: Tensor, lam: Tensor) -> Tensor:
        prior = Gamma(a0, b0).log_prob(lam) + Normal(m0, (k0 * lam).rsqrt()).log_prob(mu)
        return prior + Normal(mu[:, None], lam[:, None].rsqrt()).log_prob(y.to(mu)).sum(-1)

    evidence = (
        math.lgamma(an)
        - math.lgamma(a0)
        + a0 * math.log(b0)
        - an * math.log(bn)
        + 0.5 * math.log(k0 / kn)
        - n / 2 * math.log(2 * math.pi)
    )
    return Conjugate(
        {"mu": (), "lam": advae.positive},
        log_joint,
        {"mu": mn, "lam": an / bn},
        {"mu": math.sqrt(bn / (kn * (an - 1))), "lam": math.sqrt(an) / bn},
        evidence,
    )


def rescaled(posterior: advae.Posterior, scale: float, shift: float = 0.0) -> advae.Posterior:
    """Return a copy whose samples are scaled about the mean by ``scale``, and shifted by ``shift`` in the first fit."""
    fit = copy(posterior._fit)
    mean = fit.affine.mean.clone()
    mean[0] += shift
    fit.affine = AffineMap(mean, scale * fit.affine.factor)
    return advae.Posterior(fit, posterior.log_likelihood)
