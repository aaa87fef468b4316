"""Bounds on both sides of the ELBO of an implicit encoder, by bidirectional Monte Carlo over its noise.

    q(z|x)  = ∫ q(z|x, ε) N(ε; 0, I) dε,   q(z|x, ε) normal and known; z and its own ε are sampled together

    log q(z|x) ≥  E[log 1/C Σ_c w_c]       w_c: forward weights from ε ~ N(0, I) to ε ↦ N(ε; 0, I) q(z|x, ε)
    log q(z|x) ≤ −E[log 1/C Σ_c 1/w_c]     1/w_c: reverse weights from the ε that z was made of

The ε that z was made of is an exact sample of the posterior p(ε|x, z), for real images too. So both bounds hold
(Grosse, Ghahramani and Adams 2015), and with them

    E_q[log p(x, z) + log 1/C Σ_c 1/w_c]  ≤  ELBO  ≤  E_q[log p(x, z) − log 1/C Σ_c w_c]

No critic takes part. The left side is a lower bound on log p(x) as well.

Where z is a function of ε and x, or nearly so, z' = z + τξ with ξ ~ N(0, I) takes the place of z in the weights, and
q(z'|x) that of q(z|x). The left side with p(x, z') is then the bound of this wider encoder, and still one on log p(x).
The right side holds for the encoder itself with p(x, z) of its own z, as the entropy of z' is at least that of z.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from advae.distributions.base import LOG_2PI, Distribution
from advae.distributions.normal import Normal, batched_normal
from advae.errors import AdvaeError, ConfigError, NoDensityError
from advae.evaluation.estimate import (
    Criterion,
    Estimate,
    EvaluationResult,
    Kind,
    Remark,
    from_per_example,
    mean_and_stderr,
)
from advae.evaluation.eval_config import AISConfig
from advae.evaluation.eval_data import Batch, EvalData
from advae.evaluation.likelihood.ais import Annealer
from advae.evaluation.likelihood.annealing import AnnealingPath
from advae.evaluation.likelihood.base import ESTIMATORS, LikelihoodEstimator
from advae.evaluation.resumable import LOCAL, Runner
from advae.formatting import format_with_error
from advae.model import LatentModel
from advae.random import mix_seeds, seeded

RELATIVE_ADDED_STD = 0.1  # of the standard deviations of q(z|x): τ where z is a function of the noise
NUM_SIGMAS = 3  # a critic's claim is outside the bounds if it is so by more than 3 standard errors


def certified_elbo(
    model: LatentModel,
    data: EvalData,
    config: AISConfig,
    added_std: float | None = 0.0,
    *,
    runner: Runner = LOCAL,
) -> EvaluationResult:
    """Estimate both bounds of the ELBO and their gap, in nats, with one latent per example.

    Args:
        model: its encoder has a known density given its noise.
        data: the examples.
        config: options of annealing; its init is "prior": the noise's own density.
        added_std: τ; None for a tenth of the standard deviations of q(z|x), in each dimension.
        runner: how it is carried out.

    Raises:
        NoDensityError: the decoder is implicit, or the encoder's density given its noise is unknown.
    """
    annealer = Annealer(model, data, config, num_directions=2)
    protocol = annealer.protocol("bidirectional Monte Carlo over the encoder's noise")
    if added_std != 0:
        protocol["added_std"] = f"{RELATIVE_ADDED_STD} posterior std" if added_std is None else added_std

    def compute(batch: Batch, *, reverse: bool) -> Mapping[str, Tensor]:
        q = annealer.model.encode(batch.x)
        with seeded(mix_seeds(data.seed, batch.start, 3), annealer.model.device):
            noise = torch.randn(len(batch.x), q.noise_dim, device=batch.x.device, dtype=batch.x.dtype)
            own_z = q.given_noise(noise).sample()
            z = own_z + (std := _added_std(q, added_std)) * torch.randn_like(own_z)
        make_path = partial(noise_path, q, z, std)
        if reverse:
            log_w, _ = annealer.run_reverse(make_path, noise, batch)
        else:
            log_w, _ = annealer.run_forward(make_path, batch)
        log_mean = torch.logsumexp(log_w, 0) - math.log(config.chains)
        scored = (z if reverse else own_z).unflatten(-1, q.event_shape)
        log_joint = annealer.log_joint(batch.x, scored).double()
        return {"value": log_joint + log_mean if reverse else log_joint - log_mean}

    upper, lower = (
        annealer.map(partial(compute, reverse=reverse), protocol, label, runner)["value"]
        for reverse, label in ((False, "annealing noise forward"), (True, "annealing noise in reverse"))
    )

    def estimate(variant: str, values: Tensor, kind: Kind, higher_is_better: bool | None) -> Estimate:
        return from_per_example(
            values,
            f"elbo-certified {variant}",
            kind,
            "nats",
            protocol,
            metric="elbo-certified",
            variant=variant,
            higher_is_better=higher_is_better,
        )

    estimates = (
        estimate("lower", lower, "lower bound", True),
        estimate("upper", upper, "diagnostic", None),
        estimate("gap", upper - lower, "upper bound", None),
    )
    return EvaluationResult(estimates)


def _added_std(q: Distribution, added_std: float | None) -> float | Tensor:
    return RELATIVE_ADDED_STD * q.moments()[1].sqrt() if added_std is None else added_std


def noise_path(
    q: Distribution, z: Tensor, added_std: float | Tensor, chains: int, transitions: int = 0
) -> AnnealingPath:
    """Return the path from ``N(0, I)`` to ``ε ↦ N(ε; 0, I) q(z|x, ε)`` for flat ``z [B, d]``, chain-major."""
    zeros = torch.zeros(chains * len(z), q.noise_dim, device=z.device, dtype=z.dtype)

    def log_joint(noise: Tensor) -> Tensor:
        given = widened(q.given_noise(noise.unflatten(0, (chains, len(z)))), added_std)
        log_prior = -0.5 * (noise.square().sum(-1) + q.noise_dim * LOG_2PI)
        return given.log_prob(z).flatten() + log_prior

    return AnnealingPath(zeros, torch.ones_like(zeros), log_joint)


def widened(normal: Normal, added_std: float | Tensor) -> Normal:
    """Return the distribution of a sample plus independent normal noise of standard deviation ``[B, d]``."""
    if isinstance(added_std, float | int) and not added_std:
        return normal
    return batched_normal(normal.mean, 0.5 * torch.log((2 * normal.log_scale).exp() + added_std**2))


def compare_with_critic(critic: Estimate, lower: Estimate, upper: Estimate) -> Remark:
    """Return whether a critic's estimate of the ELBO is between both bounds for the same examples."""
    value, low, high = (estimate.per_example["value"] for estimate in (critic, lower, upper))
    sides = {"above the upper bound": value - high, "below the lower bound": low - value}
    criteria, text = [], "The critic's ELBO is between both certified bounds, within its standard error."
    for side, difference in sides.items():
        excess, stderr = mean_and_stderr(difference)
        criteria.append(Criterion.at_most(f"nats {side}", excess, NUM_SIGMAS * stderr))
        if not criteria[-1].passed:
            text = f"The critic's ELBO is wrong: {format_with_error(excess, stderr)} nats {side}."
    warning = not all(criterion.passed for criterion in criteria)
    return Remark("elbo-certified", text, warning, tuple(criteria), "likelihood")


@torch.no_grad()
def _encode_zeros(model: LatentModel) -> tuple[Distribution, Tensor]:
    x = torch.zeros(2, *model.x_shape, device=model.device, dtype=model.dtype)
    return model.encode(x), x


@ESTIMATORS.register("elbo-certified")
@dataclass(frozen=True)
class CertifiedELBO(LikelihoodEstimator):
    """Both bounds of the ELBO of an implicit encoder.

    Args:
        temperatures: between the noise's own density and that given z.
        chains: per example and direction.
        leapfrog_steps: per transition.
        added_std: standard deviation of noise that is added to z. By default 0, but where z is a function of the
            encoder's noise a tenth of the standard deviations of q(z|x).
    """

    requires = ("decoder density", "latents", "encoder")
    order = 15
    per_dim = False
    temperatures: int = 240
    chains: int = 4
    leapfrog_steps: int = 5
    added_std: float | None = None

    def __post_init__(self) -> None:
        std = self.added_std
        if std is not None and not (isinstance(std, float | int) and 0 <= std < math.inf):
            raise ConfigError("Option elbo-certified.added_std must be a number from 0.", given=std)

    @classmethod
    def unsupported(cls, model: LatentModel, data: EvalData) -> AdvaeError | None:
        if error := super().unsupported(model, data):
            return error
        q, _ = _encode_zeros(model)
        if q.has_log_prob:
            return NoDensityError("The encoder has a density: its ELBO needs no certificate.", fix="use elbo")
        if not q.noise_dim:
            return NoDensityError(
                "The ELBO cannot be certified: the encoder's density given its noise is unknown.",
                given=type(q).__name__,
                expected="a noise basis or an auxiliary variable",
            )
        return None

    def check(self, model: LatentModel) -> None:
        self._annealing()
        if self.added_std == 0 and self._default_std(model) is None:
            raise NoDensityError(
                "The ELBO cannot be certified: latents are a function of the encoder's noise.",
                given="elbo-certified.added_std = 0",
                fix="leave it to its default",
            )

    def estimate(self, model: LatentModel, data: EvalData, runner: Runner) -> EvaluationResult:
        std = self._default_std(model) if self.added_std is None else self.added_std
        return certified_elbo(model, data, self._annealing(), std, runner=runner)

    def _default_std(self, model: LatentModel) -> float | None:
        q, x = _encode_zeros(model)
        return 0.0 if q.is_normal_given_noise(x) else None

    def compare(self, estimates: EvaluationResult) -> list[Remark]:
        bounds = (estimates.find(f"elbo-certified {bound}") for bound in ("lower", "upper"))
        critic = [e for e in estimates if e.metric == "elbo" and e.kind == "adversarial estimate"]
        return [compare_with_critic(critic[0], *bounds)] if critic else []

    def _annealing(self) -> AISConfig:
        shared: dict[str, Any] = {"init": "prior", "leapfrog_steps": self.leapfrog_steps}
        return AISConfig(self.chains, self.temperatures, schedule="linear", **shared)
