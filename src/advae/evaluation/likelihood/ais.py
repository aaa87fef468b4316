"""Annealed importance sampling (AIS).

    log p(x) ≥ E[log 1/C Σ_c w_c],  w_c: forward weights from f_0        (Neal 2001; Wu et al. 2017)

The bound is Jensen's inequality. Bidirectional Monte Carlo (`bdmc.py`) tells how tight it is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from advae.distributions.normal import Normal
from advae.errors import NoDensityError, UnsupportedError
from advae.evaluation.estimate import Estimate, EvaluationResult, from_per_example
from advae.evaluation.eval_config import AISConfig, AISInit
from advae.evaluation.eval_data import (
    CHUNK_SIZE,
    Batch,
    EvalData,
    likelihood_description,
    scoring_distribution,
)
from advae.evaluation.likelihood.annealing import (
    PILOT_CHAINS,
    PILOT_TEMPERATURES,
    AnnealingPath,
    WeightTrace,
    anneal,
    make_step_size_fn,
    make_temperatures,
    tune_step_sizes,
)
from advae.evaluation.likelihood.base import ESTIMATORS, LikelihoodEstimator
from advae.evaluation.likelihood.bounds import fit_gaussian
from advae.evaluation.likelihood.log_density_grad import LogDensityGrad
from advae.evaluation.resumable import LOCAL, Runner
from advae.model import LatentModel

CHAINS_PER_BATCH = {"cpu": 2048, "cuda": 32768}  # enough that calling operations costs little

MakePath = Callable[[int, int], AnnealingPath]
"""``make_path(c, t)``: the path of c chains per example, chain-major ``[c · examples, d]``, for t transitions."""


def ais(
    model: LatentModel, data: EvalData, config: AISConfig | None = None, *, runner: Runner = LOCAL
) -> Estimate:
    """Estimate ``log p(x)`` by annealed importance sampling, in nats; per example also "ess" and "acceptance".

    The effective sample size (ess) is that of the weights of an example's chains, between 1 and their number.

    The encoder is only sampled, with init "prior" not even that.

    Raises:
        NoDensityError: the decoder is implicit; or the encoder, with init "encoder".
    """
    annealer = Annealer(model, data, config or AISConfig())
    protocol = annealer.protocol("annealed importance sampling")

    def compute(batch: Batch) -> Mapping[str, Tensor]:
        log_w, acceptance = annealer.run_forward(annealer.make_path(batch.x), batch)
        total = torch.logsumexp(log_w, 0)
        ess = torch.exp(2 * total - torch.logsumexp(2 * log_w, 0))
        return {"value": total - math.log(annealer.config.chains), "ess": ess, "acceptance": acceptance}

    values = annealer.map(compute, protocol, "annealing", runner)
    value = values.pop("value")
    return from_per_example(
        value, "ais", "lower bound", "nats", protocol, per_example=values, higher_is_better=True
    )


@dataclass
class Annealer:
    """Annealing runs for a model's examples; its weights must not be changed meanwhile.

    Args:
        num_directions: how many runs share the compiled gradient.

    Raises:
        NoDensityError: the decoder is implicit.
    """

    model: LatentModel
    data: EvalData
    config: AISConfig
    num_directions: int = 1
    discretize: bool = field(init=False)
    needs_density: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.needs_density and not self.model.decoder_has_density():
            raise NoDensityError("An implicit decoder has no likelihood to anneal to.")
        self.model = without_grad(self.model)
        self.discretize = self.data.uses_discretized_likelihood(self.model)
        self._final = LogDensityGrad(self._log_final)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """Return ``log p(x, z)``, ``[N]``, for ``x [N, …]`` and ``z [N, d]``."""
        p = scoring_distribution(self.model.decode(z), self.discretize)
        return p.log_prob(x) + self.model.prior.log_prob(z)

    def _log_final(self, u: Tensor, mean: Tensor, scale: Tensor, x: Tensor) -> Tensor:
        return AnnealingPath(mean, scale, partial(self.log_joint, x)).log_final(u)

    def make_path(self, x: Tensor) -> MakePath:
        """Return the paths from ``f_0`` to ``p(x, ·)`` for ``x [B, …]``."""
        mean, scale = self.whitening(x)
        num_batches = len(self.data.batch_starts(self.batch_size))
        gradient_evals = self.num_directions * self.config.leapfrog_steps * num_batches  # per transition

        def path(chains: int, transitions: int) -> AnnealingPath:
            m, L, many = (value.repeat(chains, *[1] * (value.dim() - 1)) for value in (mean, scale, x))
            q = self.model.encode(many) if self.config.init == "encoder" else None
            num_evals = transitions * gradient_evals
            return AnnealingPath(
                m,
                L,
                partial(self.log_joint, many),
                q.log_prob if q else None,
                q.sample if q else None,
                lambda u: self._final(u, m, L, many, num_evals=num_evals),
            )

        return path

    def whitening(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``μ`` and ``L`` of the whitened coordinates."""
        return whitening(self.model, x, self.config.init)

    @property
    def betas(self) -> list[float]:
        """The temperatures."""
        return make_temperatures(self.config.temperatures, self.config.schedule)

    def run_forward(
        self,
        make_path: MakePath,
        batch: Batch,
        betas: Sequence[float] | None = None,
        trace: WeightTrace | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return log weights ``[chains, b]`` from the initial density, and each example's mean acceptance ``[b]``.

        ``betas``: the first of the temperatures, if not all.
        """
        return self._run(make_path, batch, None, betas, trace)

    def run_reverse(
        self, make_path: MakePath, z: Tensor, batch: Batch, betas: Sequence[float] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return log inverse weights ``[chains, b]`` from exact samples ``z [b, d]`` at the last of ``betas``."""
        return self._run(make_path, batch, z, betas)

    def _run(
        self,
        make_path: MakePath,
        batch: Batch,
        z: Tensor | None,
        betas: Sequence[float] | None = None,
        trace: WeightTrace | None = None,
    ) -> tuple[Tensor, Tensor]:
        c, betas = self.config, betas or self.betas
        path, pilot = make_path(c.chains, c.temperatures), make_path(PILOT_CHAINS, PILOT_TEMPERATURES)
        tuned = tune_step_sizes(pilot, len(batch.x), c.schedule, c.leapfrog_steps, batch.tick)
        step_size = make_step_size_fn(tuned, c.schedule, c.chains)
        u = path.sample_initial() if z is None else path.whiten(z.repeat(c.chains, 1))
        betas = betas if z is None else betas[::-1]
        log_w, accept = anneal(
            path,
            u,
            betas,
            step_size,
            c.leapfrog_steps,
            tick=batch.tick,
            partial_result=batch.partial,
            trace=trace,
        )
        return log_w.reshape(c.chains, -1), accept.reshape(c.chains, -1).mean(0)

    @property
    def batch_size(self) -> int:
        """How many examples are annealed together."""
        chains = CHAINS_PER_BATCH.get(self.model.device.type, CHAINS_PER_BATCH["cpu"])
        return max(1, min(CHUNK_SIZE, chains // self.config.chains))

    def map(
        self,
        compute: Callable[[Batch], Mapping[str, Tensor]],
        protocol: dict[str, Any],
        label: str,
        runner: Runner,
    ) -> dict[str, Tensor]:
        """Return ``compute`` of all batches; progress counts transitions, those of the pilot run included."""
        return self.data.map(
            self.model.device,
            torch.no_grad()(compute),
            size=self.batch_size,
            protocol=protocol,
            label=label,
            ticks=max(0, self.config.temperatures - 1) + PILOT_TEMPERATURES - 1,
            runner=runner,
        )

    def protocol(self, estimator: str) -> dict[str, Any]:
        """Return the protocol of the estimates."""
        likelihood = likelihood_description(self.discretize)
        return self.data.protocol(estimator=estimator, **asdict(self.config), likelihood=likelihood)


@torch.no_grad()
def whitening(model: LatentModel, x: Tensor, init: AISInit) -> tuple[Tensor, Tensor]:
    """Return ``μ [B, d]`` and ``L``, ``[B, d]`` or ``[B, d, d]``, of the whitened coordinates.

    Raises:
        NoDensityError: init "encoder", and the encoder is implicit.
    """
    if init == "prior":
        zeros = torch.zeros(len(x), model.latent_dim, device=x.device, dtype=x.dtype)
        return zeros, torch.ones_like(zeros)
    q = model.encode(x)
    if init == "encoder" and not q.has_log_prob:
        raise NoDensityError(
            "Annealing cannot begin from an implicit encoder: it has no density.",
            fix='begin from a normal fitted to it: init "full" or "diagonal"',
        )
    is_full = init == "full" and not isinstance(q, Normal)  # a Normal's covariance is diagonal
    return fit_gaussian(q, is_full)


def without_grad(model: LatentModel) -> LatentModel:
    """Return the model in evaluation mode, with the same weights but no gradients with respect to them."""
    with torch.inference_mode(False):
        tensors = [*model.parameters(), *model.buffers()]
        memo = {id(t): t.clone() if t.is_inference() else t.detach() for t in tensors}
        copied = copy.copy(model)
        copied._modules = copy.deepcopy(model._modules, memo)
        return copied.eval()


@dataclass(frozen=True)
class Annealing(LikelihoodEstimator):
    """What AIS and BDMC share."""

    requires = ("decoder density", "latents")
    annealing: AISConfig = field(default_factory=AISConfig)

    def check(self, model: LatentModel) -> None:
        if not model.has_encoder and self.annealing.init != "prior":
            raise UnsupportedError(
                "Annealing cannot begin from the encoder's samples: the model has no encoder.",
                given=f"init = {self.annealing.init}",
                fix="begin from the prior: init = prior",
            )
        example = torch.zeros(2, *model.x_shape, device=model.device, dtype=model.dtype)
        whitening(model, example, self.annealing.init)


@ESTIMATORS.register("ais")
@dataclass(frozen=True)
class AIS(Annealing):
    """Annealed importance sampling."""

    order = 40
    precedence = 2

    def estimate(self, model: LatentModel, data: EvalData, runner: Runner) -> EvaluationResult:
        return EvaluationResult([ais(model, data, self.annealing, runner=runner)])
