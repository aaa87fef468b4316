"""Bidirectional Monte Carlo (BDMC): bounds on both sides of log p(x).

    AIS      log p(x) ≥  E[log 1/C Σ_c w_c]        w_c: forward weights from f_0
    reverse  log p(x) ≤ −E[log 1/C Σ_c 1/w_c]      1/w_c: reverse weights from z ~ p(z|x)      (Grosse et al. 2015)

Both are Jensen's inequality. Exact samples of the posterior exist for data that the model generated: z ~ p(z),
x ~ p(x|z). For these data log p(x) is between both bounds in expectation, and their gap bounds the error of AIS; for
real data the gap is a guide, not a bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from advae.evaluation.estimate import Estimate, EvaluationResult, Kind, Remark, from_per_example
from advae.evaluation.eval_config import AISConfig
from advae.evaluation.eval_data import Batch, EvalData, scoring_distribution
from advae.evaluation.likelihood.ais import Annealer, Annealing
from advae.evaluation.likelihood.base import ESTIMATORS
from advae.evaluation.resumable import LOCAL, Runner
from advae.formatting import format_with_error
from advae.model import LatentModel
from advae.random import mix_seeds, seeded

MAX_GAP_NATS = 1.0  # beyond it AIS is not reliable


def bdmc(
    model: LatentModel, data: EvalData, config: AISConfig | None = None, *, runner: Runner = LOCAL
) -> EvaluationResult:
    """Estimate both bounds of ``log p(x)`` and their gap, in nats, for data that the model generates.

    As many examples are generated as ``data`` has; those of ``data`` are not used. All reverse chains begin at the one
    latent that an example was generated from: each of their weights is unbiased by itself, and so is their mean.

    Args and Raises: as :func:`advae.evaluation.likelihood.ais.ais`.
    """
    annealer = Annealer(model, data, config or AISConfig(), num_directions=2)
    protocol = {**annealer.protocol("bidirectional Monte Carlo"), "images": "made by the model"}

    def compute(batch: Batch, *, reverse: bool) -> Mapping[str, Tensor]:
        seed = mix_seeds(data.seed, batch.start, 2)
        z, x = generate(annealer.model, len(batch.x), annealer.discretize, seed)
        make_path = annealer.make_path(x)
        if reverse:
            log_w, _ = annealer.run_reverse(make_path, z, batch)
        else:
            log_w, _ = annealer.run_forward(make_path, batch)
        value = torch.logsumexp(log_w, 0) - math.log(annealer.config.chains)
        return {"value": -value if reverse else value}

    lower, upper = (
        annealer.map(partial(compute, reverse=reverse), protocol, label, runner)["value"]
        for reverse, label in ((False, "annealing forward"), (True, "annealing in reverse"))
    )

    def estimate(variant: str, values: Tensor, kind: Kind) -> Estimate:
        return from_per_example(
            values, f"bdmc {variant}", kind, "nats", protocol, metric="bdmc", variant=variant
        )

    gap = estimate("gap", upper - lower, "upper bound")
    bounds = estimate("lower", lower, "lower bound"), estimate("upper", upper, "upper bound")
    return EvaluationResult([*bounds, gap], [gap_remark(gap)])


def gap_remark(gap: Estimate) -> Remark:
    """Return what the gap means for AIS with the same options."""
    size = format_with_error(gap.value, gap.stderr)
    text = f"On data that the model generated, the gap between both bounds of log p(x) is {size} nats:"
    if gap.value > MAX_GAP_NATS:
        more = "AIS with these options may be too low by as much; use more temperatures or chains."
        return Remark("bdmc", f"{text} {more}", warning=True)
    if gap.value < 2 * gap.stderr:
        return Remark("bdmc", f"{text} AIS with these options has no visible error there.")
    return Remark("bdmc", f"{text} AIS with these options is too low by at most about that much there.")


@torch.no_grad()
def generate(model: LatentModel, n: int, discretize: bool, seed: int) -> tuple[Tensor, Tensor]:
    """Return latents ``[n, d]`` from the prior and an observation generated from each, ``[n, *x_shape]``."""
    with seeded(seed, model.device):
        z = model.prior.sample((n,))
        return z, scoring_distribution(model.decode(z), discretize).sample()


@ESTIMATORS.register("bdmc")
@dataclass(frozen=True)
class BDMC(Annealing):
    """Bidirectional Monte Carlo."""

    order = 50
    per_dim = False
    bdmc_images: int = 64

    def estimate(self, model: LatentModel, data: EvalData, runner: Runner) -> EvaluationResult:
        generated = replace(data, limit=max(2, min(data.count, self.bdmc_images)))
        return bdmc(model, generated, self.annealing, runner=runner)
