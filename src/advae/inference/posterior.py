"""Fitted posterior: samples, densities, bounds, evidence, summary and diagnostics."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from advae.errors import ConfigError
from advae.evaluation.estimate import Estimate, EvaluationResult, mean_and_stderr
from advae.evaluation.eval_config import AISConfig
from advae.evaluation.resumable import no_progress
from advae.inference.certified_bounds import DEFAULT_CONFIG, certify_elbo
from advae.inference.diagnostics import diagnose_elbo, run_diagnostics
from advae.inference.evidence import DEFAULT_AIS, estimate_log_evidence, num_transitions
from advae.inference.export import make_groups, to_arviz
from advae.inference.fit import VariationalFit
from advae.metrics.mcmc_diagnostics import split_rhat
from advae.progress import StageProgress
from advae.random import mix_seeds, seeded

if TYPE_CHECKING:
    from advae.inference.hmc_reference import HMCDraws

BATCH_SIZE = 4096  # samples of each fit, or evaluations of the log joint, at a time
NUM_ELBO_SAMPLES = 4000  # per fit
NUM_AIS_START_SAMPLES = 2000  # per fit, for the normal that annealing starts from
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

LogLikelihood = Callable[..., Tensor]


class Posterior:
    """``F`` independent fits of q to one target, kept apart like chains.

    Attributes:
        log_likelihood: maps constrained parameters by name to ``log p(y_i | θ) [S, N]``, for ArviZ; or None.
        history: ELBO of every fit during training, as ``(step, [F] nats)``.
        seconds: training time.
        reference: samples by Hamiltonian Monte Carlo for comparison, if any.
        baselines: normals fitted to the same target, by family.
    """

    def __init__(self, fit: VariationalFit, log_likelihood: LogLikelihood | None = None) -> None:
        self._fit, self.log_likelihood = fit, log_likelihood
        self.target, self.options, self.seed, self.fits = fit.target, fit.options, fit.seed, fit.options.fits
        self.history: list[tuple[int, list[float]]] = []
        self.seconds = 0.0
        self.reference: HMCDraws | None = None
        self.baselines: dict[str, Posterior] = {}
        self._evidence: Estimate | None = None
        self._certified: EvaluationResult | None = None
        self._diagnostics: EvaluationResult | None = None

    def __repr__(self) -> str:
        names = ", ".join(self.target.space.names)
        return f"Posterior({names}; family={self.options.family!r}, fits={self.fits}, seed={self.seed})"

    def sample(self, n: int = 1000, *, chains: bool = False, seed: int | None = None) -> dict[str, Tensor]:
        """Sample parameters by name, ``[n, *shape]``: fit by fit, with (nearly) equal numbers of each.

        Args:
            n: number of samples in all.
            chains: keep the fits apart, ``[F, n / F, *shape]``; n is then rounded up.
            seed: of the samples; by default that of the fit, so that the same call returns the same samples.

        Raises:
            ConfigError: n is not positive.
        """
        if n < 1:
            raise ConfigError("The number of samples must be positive.", given=n, expected="at least 1")
        z = self.sample_unconstrained(-(-n // self.fits), seed=seed)
        if not chains:
            order = torch.arange(z.shape[0] * z.shape[1]).reshape(z.shape[:2])
            indices = order.T.flatten()[:n].sort().values  # the first n / F samples of every fit
            z = z.flatten(0, 1)[indices.to(z.device)]
        return self.target.space.constrain(z)[0]

    def sample_unconstrained(self, n: int, *, seed: int | None = None) -> Tensor:
        """Return ``z [F, n, d]``, n samples of every fit."""
        return self.sample_with_log_prob(n, seed=seed)[0]

    @torch.no_grad()
    def sample_with_log_prob(self, n: int, *, seed: int | None = None) -> tuple[Tensor, Tensor]:
        """Return ``z [F, n, d]`` and ``log q(z) [F, n]``: the density, or the critic's estimate of it.

        Raises:
            NoDensityError: the family has no density, and its critic was not trained to the end.
        """
        fit, batches = self._fit, []
        with seeded(mix_seeds(self.seed if seed is None else seed, 3), self.target.device):
            for start in range(0, n, BATCH_SIZE):
                u, *log_q = fit.q(n=min(BATCH_SIZE, n - start), weights=fit.ema_weights)
                batches.append((fit.affine(u), log_q[0] if log_q else self._critic_log_prob(u)))
        z, log_q_u = (torch.cat(parts, 1) for parts in zip(*batches, strict=True))
        return z, log_q_u - fit.affine.log_volume.unsqueeze(1)

    def _critic_log_prob(self, u: Tensor) -> Tensor:
        """Return the critic's ``log q(u) = T(u) + log r(u)``, ``[F, n]``."""
        assert self._fit.critic_trainer is not None
        T, log_r = self._fit.critic_trainer.final_log_ratios(self._fit.affine, u)
        return T + log_r

    @torch.no_grad()
    def critic_log_ratios(self, n: int, *, seed: int | None = None) -> tuple[Tensor, Tensor] | None:
        """Return the critic's log ratio at n samples of q and of r, ``[F, n]`` each; None without a critic."""
        fit, trainer = self._fit, self._fit.critic_trainer
        if trainer is None or trainer.contrast is None:
            return None
        with seeded(mix_seeds(self.seed if seed is None else seed, 4), self.target.device):
            (u_q,) = fit.q(n=n, weights=fit.ema_weights)
            u_r = trainer.contrast(torch.randn_like(u_q))
            return trainer.final_log_ratios(fit.affine, u_q)[0], trainer.final_log_ratios(fit.affine, u_r)[0]

    @torch.no_grad()
    def log_prob(self, z: Tensor) -> Tensor:
        """Return the unnormalized log target density at unconstrained ``z [*S, d]``, from all data, ``[*S]``."""
        parts = [self.target(part) for part in z.reshape(-1, z.shape[-1]).split(BATCH_SIZE)]
        return torch.cat(parts).reshape(z.shape[:-1])

    @torch.inference_mode(False)
    def score(self, z: Tensor) -> Tensor:
        """Return ``∇ log p(z) [N, d]`` at unconstrained ``z [N, d]``, from all data."""
        z = z.detach().clone().requires_grad_()
        with torch.enable_grad():
            (grad,) = torch.autograd.grad(self.target(z).sum(), z)
        return grad

    def log_weights(self, n: int, *, seed: int | None = None) -> Tensor:
        """Return ``log p(z) − log q(z) [F, n]`` at samples of q, from all data."""
        z, log_q = self.sample_with_log_prob(n, seed=seed)
        return self.log_prob(z) - log_q

    def elbo(self) -> EvaluationResult:
        """Estimate each fit's ELBO in nats; with a critic it is an adversarial estimate, not a bound."""
        result = EvaluationResult()
        for i, weights in enumerate(self.log_weights(NUM_ELBO_SAMPLES)):
            value, stderr = mean_and_stderr(weights.cpu())
            result.append(
                Estimate(
                    f"elbo[fit {i}]",
                    value,
                    stderr,
                    "adversarial estimate" if self.options.has_critic else "lower bound",
                    "nats",
                    NUM_ELBO_SAMPLES,
                    {"family": self.options.family, "fit": i, "samples": NUM_ELBO_SAMPLES, "seed": self.seed},
                    metric="elbo",
                    variant=f"fit {i}",
                    higher_is_better=True,
                )
            )
        return result

    def certified_elbo(self, *, stage: StageProgress = no_progress) -> EvaluationResult:
        """Bound each fit's ELBO from both sides without its critic, in nats; empty for families with a density.

        The lower bound holds for the evidence too. A remark compares the critic's estimates with both.
        """
        if not self.options.has_critic:
            return EvaluationResult()
        if self._certified is None:
            with stage("certifying the ELBO", 2 * num_transitions(DEFAULT_CONFIG)) as tick:
                bounds = certify_elbo(self._fit, seed=mix_seeds(self.seed, 17) % 2**31, tick=tick)
            self._certified = diagnose_elbo(self, bounds)
        return self._certified

    def log_evidence(
        self, config: AISConfig | None = None, *, stage: StageProgress = no_progress
    ) -> Estimate:
        """Estimate ``log p(data)`` in nats by annealed importance sampling: a lower bound in expectation.

        Args:
            config: by default :data:`~advae.inference.evidence.DEFAULT_AIS`; the default result is kept.
            stage: shows progress.
        """
        if self._evidence is None or config is not None:
            config = config or DEFAULT_AIS
            z, seed = self.sample_unconstrained(NUM_AIS_START_SAMPLES).flatten(0, 1), mix_seeds(self.seed, 5)
            with stage("annealing", num_transitions(config)) as tick:
                self._evidence = estimate_log_evidence(self.target, z, config, seed % 2**31, tick)
        return self._evidence

    def check(self, *, stage: StageProgress = no_progress) -> EvaluationResult:
        """Run all diagnostics once: estimates, and remarks with criteria, the verdict first."""
        if self._diagnostics is None:
            self._diagnostics = run_diagnostics(self, stage=stage)
        return self._diagnostics

    def summary(self, n: int = 4000) -> dict[str, dict[str, float]]:
        """Return mean, sd, quantiles and R-hat between fits of every component of every parameter, by label."""
        space = self.target.space
        z = self.sample_unconstrained(-(-n // self.fits), seed=mix_seeds(self.seed, 16))
        return summarize(space.flatten(space.constrain(z)[0]).cpu(), space.labels())

    def to_arviz(self, n: int = 4000) -> Any:
        """Return samples for ArviZ: ``InferenceData`` before ArviZ 1, otherwise a ``DataTree``.

        Raises:
            ConfigError: ArviZ is not installed.
        """
        return to_arviz(make_groups(self, n))


def summarize(samples: Tensor, labels: list[str]) -> dict[str, dict[str, float]]:
    """Return ``{label: {"mean": …, "sd": …, "5%": …, "rhat": …}}`` of ``samples [F, S, n]``."""
    samples = samples.double()
    num_fits, _, num_components = samples.shape
    rhat = split_rhat(samples) if num_fits > 1 else torch.full((num_components,), torch.nan)
    pooled = samples.flatten(0, 1)
    quantiles = torch.quantile(pooled, torch.tensor(QUANTILES, dtype=torch.float64), dim=0)
    table = {}
    for j, label in enumerate(labels):
        row = {"mean": float(pooled[:, j].mean()), "sd": float(pooled[:, j].std())}
        row |= {f"{100 * p:.0f}%": float(q) for p, q in zip(QUANTILES, quantiles[:, j], strict=True)}
        table[label] = {**row, "rhat": float(rhat[j])}
    return table
