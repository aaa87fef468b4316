"""Rate-distortion curves of decoders, by annealed importance sampling.

    d(x, z)   squared error of the decoder's output x̂(z), or −log p(x|z)
    q_β(z)    p(z) exp(−β d(x, z)) / Z_β                   minimizes rate + β · distortion
    D_β       E[d(x, z)],  z ~ q_β
    R_β       KL(q_β ‖ p) = −β D_β − log Z_β              (Huang, Makhzani, Cao and Grosse 2020)

Annealing from the prior along β passes through every q_β, so one run gives the whole curve. With weights w_c of C
chains,

    log Ẑ = log 1/C Σ_c w_c,    D̂ = Σ_c w_c d(x, z_c) / Σ_c w_c,    R̂ = −β D̂ − log Ẑ

E[D̂] is the distortion of a chain that is selected by its weight. E[R̂] is at least its KL from the prior, as the ratio
of its density to that of reverse chains from the prior is exp(−β d(x, z)) / Ẑ. So the curve is not above (E[D̂], E[R̂]).

The other side needs an exact sample of q_β. It is known for x = x̂(z) + ξ, z ~ p(z), ξ ~ N(0, I / 2β). Annealing in
reverse from it bounds log Z_β from above, and the rate at D̂ from below: R(D) ≥ −log Z_β − β D for every D. The gap of
both bounds on log Z_β is that of the rates. For data it is a guide, as in bidirectional Monte Carlo.

With d = −log p(x|z), Z_1 is p(x).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from advae.distributions.base import StandardNormal
from advae.errors import ConfigError, NoDensityError, UnsupportedError, nearest
from advae.evaluation.estimate import (
    Estimate,
    EvaluationResult,
    Kind,
    Remark,
    from_per_example,
    mean_and_stderr,
)
from advae.evaluation.eval_config import AISConfig
from advae.evaluation.eval_data import Batch, ErrorScale, EvalData, num_dims, scoring_distribution
from advae.evaluation.likelihood.ais import Annealer
from advae.evaluation.likelihood.annealing import WeightTrace
from advae.evaluation.likelihood.base import ESTIMATORS, LikelihoodEstimator
from advae.evaluation.likelihood.bdmc import MAX_GAP_NATS
from advae.evaluation.resumable import LOCAL, Runner
from advae.formatting import format_with_error
from advae.model import LatentModel
from advae.random import mix_seeds, seeded

Distortion = Literal["squared-error", "nll"]

CURVE_POINTS = 50
BAND_LEVELS = (0.5, 0.75, 1.0)  # parts of the run at which the band is measured
BAND_FRACTION = 0.1  # of the number of examples: the band then costs 15 % of the curve
MAX_BETA_NLL = 10.0
TARGET_RMSE = (0.7, 0.5, 0.35)  # at which rates are reported, in standard deviations of the data
NUM_EXAMPLES_FOR_STD = 2000


@dataclass
class RateDistortionAnnealer(Annealer):
    """Annealing runs from p(z) to ``p(z) exp(−β_max d(x, z))``; z includes the noise of a decoder that has some.

    Args:
        max_beta: per unit of d: squared units of errors (gray levels), summed over dimensions; or nats.
        distortion: d.
    """

    max_beta: float = 1.0
    distortion: Distortion = "squared-error"
    needs_density: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.noise_dim = decoder_noise_dim(self.model)

    def measure(self, x: Tensor, z: Tensor) -> Tensor:
        """Return ``d(x, z)``, ``[N]``, for ``z [N, d]`` and ``x [N, …]`` of :meth:`target`."""
        if self.distortion == "nll":
            return -scoring_distribution(self.model.decode(z), self.discretize).log_prob(x)
        return (self.output(z) - x).square().flatten(1).sum(1).to(z.dtype)

    def output(self, z: Tensor) -> Tensor:
        """Return ``x̂(z)`` on the scale of errors."""
        d = self.model.latent_dim
        x = decoder_output(self.model, z[:, :d], z[:, d:])
        return ErrorScale.of(self.data.data.preprocessing).from_x(x)

    def target(self, batch: Batch) -> Tensor:
        """Return what outputs are compared with: stored examples on the scale of errors; observations for a density."""
        scale = ErrorScale.of(self.data.data.preprocessing)
        return batch.x if self.distortion == "nll" else scale.from_raw(batch.raw)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        return StandardNormal(z.shape[1]).log_prob(z) - self.max_beta * self.measure(x, z)

    def whitening(self, x: Tensor) -> tuple[Tensor, Tensor]:
        zeros = torch.zeros(len(x), self.model.latent_dim + self.noise_dim, device=x.device)
        return zeros.to(self.model.dtype), torch.ones_like(zeros, dtype=self.model.dtype)

    @property
    def betas(self) -> list[float]:
        """The temperatures relative to ``max_beta``; for a density one of them is β = 1."""
        betas = super().betas
        if self.distortion == "nll":
            betas[self.own_level] = 1 / self.max_beta
        return betas

    @property
    def own_level(self) -> int:
        """The index of β = 1."""
        return max(1, int(np.searchsorted(super().betas[:-1], 1 / self.max_beta)))

    @property
    def levels(self) -> list[int]:
        """The indices of the temperatures at which the band is measured."""
        if self.distortion == "nll":
            return [self.own_level]
        return [max(1, round(part * self.config.temperatures)) for part in BAND_LEVELS]

    @torch.no_grad()
    def generate(self, n: int, level: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return targets ``[n, …]`` and, for each, an exact sample of q_β ``[n, d]`` for the β of a level."""
        with seeded(seed, self.model.device):
            z, _ = self.whitening(torch.empty(n, device=self.model.device))
            z = torch.randn_like(z)
            if self.distortion == "nll":
                return scoring_distribution(self.model.decode(z), self.discretize).sample(), z
            x = self.output(z)
            return x + torch.randn_like(x) / math.sqrt(2 * self.max_beta * self.betas[level]), z


def decoder_noise_dim(model: LatentModel) -> int:
    """Return the length of the decoder's noise, which is part of its latent code: 0 for a decoder with a density."""
    p = model.decode(torch.zeros(2, model.latent_dim, device=model.device, dtype=model.dtype))
    return 0 if p.has_log_prob else p.noise_dim


def decoder_output(model: LatentModel, z: Tensor, noise: Tensor) -> Tensor:
    """Return the decoder's mean ``[N, *x_shape]`` for ``z [N, d]``; its output if it has no density."""
    p = model.decode(z)
    if p.has_log_prob:
        return p.mean
    if not p.noise_dim:
        return p.rsample()
    x: Tensor = p.given_noise(noise).mean
    return x.unflatten(-1, p.event_shape)


def rate_distortion(
    model: LatentModel,
    data: EvalData,
    config: AISConfig | None = None,
    *,
    distortion: Distortion = "squared-error",
    min_noise: float = 0.1,
    band_images: int = 64,
    runner: Runner = LOCAL,
) -> EvaluationResult:
    """Estimate the rate-distortion curve of a decoder, averaged over examples at equal β.

    The first estimate has the curve in ``per_example``: "beta" and "band" ``[K]``, "distortion" and "rate" ``[N, K]``.
    Distortions are mean squared errors per dimension, in squared units of errors, or −log p(x|z) in nats.
    Rates are in nats. "band" is how much too high rates may be, measured on data that the model generates.

    Args:
        model: its decoder's output is a function of its latents, and of noise that is known.
        data: the examples.
        config: options of annealing, of which chains, temperatures and leapfrog steps are used.
        distortion: "squared-error" of the decoder's mean or output, or "nll", −log p(x|z).
        min_noise: smallest standard deviation of the noise that squared errors stand for, 1/√(2β), relative to that of
            the training examples.
        band_images: largest number of examples that are generated for the band.
        runner: how it is carried out.

    Raises:
        NoDensityError: the distortion is "nll", and the decoder is implicit.
        UnsupportedError: the decoder's output is random.
    """
    check_decoder(model, distortion)
    config = replace(config or AISConfig(), init="prior", schedule="geometric")
    std = data_std(data)
    beta = MAX_BETA_NLL if distortion == "nll" else 0.5 / (min_noise * std) ** 2
    make_annealer = partial(RateDistortionAnnealer, config=config, max_beta=beta, distortion=distortion)
    annealer = make_annealer(model, data)
    protocol = annealer.protocol("annealing from the prior") | {
        "distortion": "−log p(x|z)" if distortion == "nll" else "squared error",
        "largest β": f"{beta:.4g}",
    }
    if distortion != "nll":
        del protocol["likelihood"]
    points = np.linspace(0, config.temperatures, min(CURVE_POINTS, config.temperatures) + 1).round()
    steps = sorted({*map(int, points), *annealer.levels})

    def compute(batch: Batch) -> Mapping[str, Tensor]:
        trace = WeightTrace(steps, len(batch.x))
        _, acceptance = annealer.run_forward(annealer.make_path(annealer.target(batch)), batch, trace=trace)
        log_z, log_ratio = trace.values.unbind(1)
        return {"log_z": log_z.T, "distortion": -log_ratio.T / beta, "acceptance": acceptance}

    values = annealer.map(compute, protocol, "rate-distortion curve", runner)
    betas = beta * torch.tensor(annealer.betas, dtype=torch.float64)[steps]
    error = values["distortion"]
    rate = -values["log_z"] - betas * error

    per_level = int(min(band_images, BAND_FRACTION * data.count)) // len(annealer.levels)
    generated = make_annealer(
        model, replace(data, limit=min(max(2, per_level), data.count)), num_directions=2
    )
    gaps = [band_gap(generated, level, protocol, runner) for level in annealer.levels]
    means = [max(0.0, float(gap.mean())) for gap in gaps]
    dims = 1 if distortion == "nll" else num_dims(model)
    arrays = {
        "beta": betas * dims,
        "band": torch.from_numpy(np.interp(steps, [0, *annealer.levels], [0.0, *means])),
        "distortion": (error / dims).float(),
        "rate": rate.float(),
        "acceptance": values["acceptance"],
    }

    def estimate(values: Tensor, name: str, kind: Kind, better: bool | None = None, **more: Any) -> Estimate:
        labels: dict[str, Any] = {
            "metric": "rate-distortion",
            "variant": name.removeprefix("rate-distortion "),
        }
        return from_per_example(
            values, name, kind, "nats", protocol, per_example=more, higher_is_better=better, **labels
        )

    gap = replace(
        estimate(gaps[-1], "rate-distortion gap", "upper bound"),
        protocol={**protocol, "images": "made by the model"},
    )
    if distortion == "nll":
        log_prob = values["log_z"][:, steps.index(annealer.own_level)]
        first = estimate(log_prob, "rate-distortion log p(x)", "lower bound", True, **arrays)
        return EvaluationResult([first, gap], [gap_remark(gap)])
    result = EvaluationResult([smallest_rmse(error[:, -1] / dims, data, protocol, arrays)])
    missed = []
    for target in (float(f"{part * std:.2g}") for part in TARGET_RMSE):
        at_target = rates_at(dims * target**2, error, rate)
        if at_target is None:
            missed.append(f"{target:g}")
        else:
            result.append(estimate(at_target, f"rate at rmse {target:g}", "upper bound", False))
    result.append(gap)
    result.remarks.append(gap_remark(gap))
    if missed:
        unit = ErrorScale.of(data.data.preprocessing).unit
        text = f"The decoder does not reach an RMSE of {' or '.join(missed)} {unit} with noise of this size."
        result.remarks.append(Remark("rate-distortion", text))
    return result


def rates_at(target: float, distortion: Tensor, rate: Tensor) -> Tensor | None:
    """Return values ``[N]`` whose mean is the rate at a mean distortion; None if the curve does not reach it.

    The mean curve is convex, and mixtures achieve its chords. By the envelope theorem the error of the rate at a given
    distortion D is that of ``R̂ + s (D̂ − D)``, with the curve's slope −s there.

    Args:
        target: D.
        distortion, rate: D̂ and R̂ at increasing β, ``[N, K]``.
    """
    d, r = distortion.mean(0), rate.mean(0)
    reached = torch.nonzero(d <= target)
    if not len(reached):
        return None
    k = int(reached[0])
    if k == 0:
        return torch.zeros_like(rate[:, 0])
    share, slope = (d[k - 1] - target) / (d[k - 1] - d[k]), (r[k] - r[k - 1]) / (d[k - 1] - d[k])
    at_d, at_r = (torch.lerp(v[:, k - 1], v[:, k], share) for v in (distortion, rate))
    return at_r + slope * (at_d - target)


def band_gap(
    annealer: RateDistortionAnnealer, level: int, protocol: Mapping[str, Any], runner: Runner
) -> Tensor:
    """Return the gap of both bounds on log Z_β for examples that the model generates at the β of a level, ``[n]``."""
    betas = annealer.betas[: level + 1]

    def compute(batch: Batch, *, reverse: bool) -> Mapping[str, Tensor]:
        seed = mix_seeds(annealer.data.seed, batch.start, 4 + level)
        x, z = annealer.generate(len(batch.x), level, seed)
        make_path = annealer.make_path(x)
        if reverse:
            log_w, _ = annealer.run_reverse(make_path, z, batch, betas)
        else:
            log_w, _ = annealer.run_forward(make_path, batch, betas)
        batch.tick(annealer.config.temperatures - level)  # not made: the run ends at this level
        value = torch.logsumexp(log_w, 0) - math.log(annealer.config.chains)
        return {"value": -value if reverse else value}

    lower, upper = (
        annealer.map(partial(compute, reverse=reverse), {**protocol, "level": level}, label, runner)["value"]
        for reverse, label in ((False, "band, forward"), (True, "band, in reverse"))
    )
    return upper - lower


def smallest_rmse(
    mse: Tensor, data: EvalData, protocol: dict[str, Any], per_example: Mapping[str, Tensor]
) -> Estimate:
    """Return the root mean squared error at the largest β, from the squared errors of each example ``[N]``.

    Its standard error is that of the delta method.
    """
    mean, stderr = mean_and_stderr(mse)
    root = math.sqrt(mean)
    name, unit = "rate-distortion rmse", ErrorScale.of(data.data.preprocessing).unit
    stderr = stderr / (2 * root) if root else 0.0
    return Estimate(
        name, root, stderr, "error", unit, len(mse), protocol,
        per_example=per_example, metric="rate-distortion", variant="rmse at the largest β",
    )  # fmt: skip


def gap_remark(gap: Estimate) -> Remark:
    """Return what the gap means for the curve."""
    size = format_with_error(gap.value, gap.stderr)
    text = (
        f"On data that the model generated, rates at the largest measured β are at most {size} nats too high."
    )
    warning = gap.value > MAX_GAP_NATS
    more = " Rates of data may be too high by as much; use more temperatures or chains." if warning else ""
    return Remark("rate-distortion", text + more, warning)


def data_std(data: EvalData) -> float:
    """Return the standard deviation of training examples, root mean square over dimensions, on the scale of errors."""
    train = data.data.train
    raw = train.raw(range(min(len(train), NUM_EXAMPLES_FOR_STD)))
    values = ErrorScale.of(data.data.preprocessing).from_raw(raw).double()
    return float(values.var(0).mean().sqrt()) or 1.0


@torch.no_grad()
def check_decoder(model: LatentModel, distortion: Distortion) -> None:
    """Raise an error if the model has no such distortion."""
    if distortion == "nll":
        if not model.decoder_has_density():
            raise NoDensityError(
                "The decoder has no density, so −log p(x|z) is not a distortion.",
                fix="use rate-distortion.distortion squared-error",
            )
        return
    z = torch.zeros(2, model.latent_dim, device=model.device, dtype=model.dtype)
    noise = z.new_zeros(2, decoder_noise_dim(model))
    if not torch.equal(decoder_output(model, z, noise), decoder_output(model, z, noise)):
        raise UnsupportedError(
            "The decoder's output is random and its noise is not known: it has no rate-distortion curve.",
            expected="a decoder whose output is a function of z, or of z and the noise of an implicit head",
        )


@ESTIMATORS.register("rate-distortion")
@dataclass(frozen=True)
class RateDistortion(LikelihoodEstimator):
    """Rate-distortion curve of the decoder.

    Args:
        annealing: chains, temperatures and leapfrog steps.
        bdmc_images: largest number of examples that the model generates for the band.
        distortion: "squared-error" of the decoder's mean or output, or "nll": −log p(x|z).
        min_noise: smallest noise that squared errors stand for, in standard deviations of the data.
    """

    requires = ("latents",)
    order = 60
    per_dim = False
    annealing: AISConfig = field(default_factory=AISConfig)
    bdmc_images: int = 64
    distortion: str = "squared-error"
    min_noise: float = 0.1

    def __post_init__(self) -> None:
        if self.distortion not in get_args(Distortion):
            fix = nearest(self.distortion, get_args(Distortion))
            raise ConfigError("Option rate-distortion.distortion is unknown.", given=self.distortion, fix=fix)
        if not 0 < self.min_noise < math.inf:
            raise ConfigError("Option rate-distortion.min_noise must be positive.", given=self.min_noise)

    @property
    def uses_density(self) -> bool:
        return self.distortion == "nll"

    def check(self, model: LatentModel) -> None:
        check_decoder(model, self.distortion)  # type: ignore[arg-type]

    def estimate(self, model: LatentModel, data: EvalData, runner: Runner) -> EvaluationResult:
        return rate_distortion(
            model, data, self.annealing, distortion=self.distortion, min_noise=self.min_noise,  # type: ignore[arg-type]
            band_images=self.bdmc_images, runner=runner,
        )  # fmt: skip
