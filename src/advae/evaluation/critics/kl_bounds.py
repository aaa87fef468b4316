"""Lower bounds on KL divergences, to check the KL that a critic claims.

T is a critic's log ratio at pairs from P and from Q; where T = log P/Q, E_P[T] is KL(P‖Q). Bounds from the critic's
own pairs, which a weak critic leaves low:

    accuracy             KL(P‖Q) ≥ a log a/b + (1 − a) log (1 − a)/(1 − b),  a = P(T > 0), b = Q(T > 0), by the data
                         processing inequality
    density ratio        KL(P‖Q) ≥ E_P[T] − log E_Q[e^T] for every function T             (Donsker and Varadhan 1975)

Bounds that do not depend on the critic:

    posterior KL         KL(P‖Q) = E KL(q(z|x)‖p(z)) + another KL
    z reconstruction     KL(P‖Q) = I_p(x; z) + other KLs,  I_p(x; z) ≥ E_p[log q(z|x) − log p(z)]
                         (Barber and Agakov 2003)
    aggregate posterior  KL(P‖Q) ≥ KL(q(z)‖p(z)) ≥ KL(N(μ, Σ)‖p(z)) for q(z) of mean μ and covariance Σ: E_q[log p]
                         depends on the moments only, and the normal has the largest entropy with these moments
    posterior moments    the same for q(z|x):  KL(q(z|x)‖p(z)) ≥ KL(N(μ, Σ)‖p(z))
    encoder density      KL(q(z|x)‖p(z)) = E_q[log q(z|x) − log p(z)], unbiased
    log p(x)             KL(q(z|x)‖p(z)) ≥ E_q[log p(x|z)] − log p(x), as no ELBO exceeds log p(x)

n pairs of Q rarely include one with P/Q above n, and no n pairs confirm a KL above log n (McAllester and Stratos 2020):
without such pairs the mean of e^T is too small, and the density-ratio bound would be too high.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from advae.distributions.base import LOG_2PI
from advae.evaluation.estimate import Criterion, Estimate, Kind, mean_and_stderr
from advae.methods import KLBound

NUM_SIGMAS = 3.0  # standard errors above which a deviation counts; exceeded by chance once in 700 times
ABS_TOL_NATS, REL_TOL = (
    0.5,
    0.1,
)  # tolerated error of a KL, the smaller: methods differ by a nat (AVB table 3)
RARE_EVENT_COUNT = 3.0  # what n pairs never show has a probability below 3/n, with 95 % confidence
CLIP_DIVISOR = 30.0  # e^T is clipped at n/30, so that unseen pairs add at most a tenth to a mean of one
PSEUDO_COUNT = 2.0  # successes and failures added to a proportion (Agresti and Coull 1998)
MIN_VARIANCE = 1e-12  # added to the variance of each latent dimension
MIN_EXAMPLES_PER_DIM = 8  # for a covariance

PAIR_KL, PRIOR_KL = "KL(P‖Q)", "KL(q(z|x)‖p(z))"
SELF_BOUNDS = "accuracy", "density ratio"


@dataclass(frozen=True)
class KLReference:
    """A lower bound or estimate of a KL, and by how much a critic's claim falls short of it.

    Attributes:
        name: of the bound.
        value, stderr: of the bound, in nats.
        shortfall, shortfall_stderr: the bound minus the claim.
        of: the KL in question, that of the critic's pairs or that of the posterior to the prior.
        kind: "lower bound"; "unbiased" for an estimate of the KL itself; "diagnostic" for a bound that is too high
            where it rests on a lower bound on log p(x).
    """

    name: str
    value: float
    stderr: float
    shortfall: float
    shortfall_stderr: float
    of: str = PAIR_KL
    kind: Kind = "lower bound"

    @property
    def criterion(self) -> Criterion:
        """Whether the claim is consistent with it."""
        deviation = abs(self.shortfall) if self.kind == "unbiased" else self.shortfall
        limit = max(min(ABS_TOL_NATS, REL_TOL * abs(self.value)), NUM_SIGMAS * self.shortfall_stderr)
        passed = deviation <= limit or self.value <= 0  # every KL exceeds a negative bound
        return Criterion(f"KL by {self.name}", deviation, limit, passed)


def reference_from_examples(
    values: Tensor, claims: Tensor, name: str, of: str = PAIR_KL, kind: Kind = "lower bound"
) -> KLReference:
    """Return the mean of per-example ``values [N]`` as a reference for ``claims [N]``."""
    return KLReference(name, *mean_and_stderr(values), *mean_and_stderr(values - claims), of, kind)


# --- from the critic's own pairs ----------------------------------------------------------------------------


def accuracy_bound(p: Tensor, q: Tensor) -> KLReference:
    """Return the bound by how often T > 0, for T at pairs from P and from Q, ``[N, S]``, S per example.

    PSEUDO_COUNT is added to the N examples of each side: a side without errors would give an infinite bound.
    """
    n, positive = len(p), [(t > 0).double().mean(1) for t in (p, q)]
    a, b = [(float(share.sum()) + PSEUDO_COUNT) / (n + 2 * PSEUDO_COUNT) for share in positive]
    value = a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))
    slopes = math.log(a * (1 - b) / (b * (1 - a))), (b - a) / (b * (1 - b))
    stderr = math.hypot(*(slope * mean_and_stderr(s)[1] for slope, s in zip(slopes, positive, strict=True)))
    claim, claim_stderr = mean_and_stderr(p.double().mean(1))
    return KLReference(SELF_BOUNDS[0], value, stderr, value - claim, math.hypot(stderr, claim_stderr))


def density_ratio_bound(p: Tensor, q: Tensor) -> KLReference:
    """Return Donsker and Varadhan's bound for T, ``[N, S]`` on each side, corrected for pairs that were not sampled.

    To the mean of e^T over the n pairs of Q is added what unseen pairs could contribute: RARE_EVENT_COUNT/n times its
    largest value. The bound holds for every function T, so T is clipped at log(n/CLIP_DIVISOR).
    """
    n, p = q.numel(), p.double()
    clipped_p, clipped_q = (t.clamp(max=math.log(n / CLIP_DIVISOR)) for t in (p, q.double()))
    log_mean, log_mean_stderr = log_mean_exp(clipped_q)
    unseen = torch.maximum(clipped_p.max(), clipped_q.max()) + math.log(RARE_EVENT_COUNT / n)
    log_mean = float(torch.logaddexp(unseen, torch.tensor(log_mean).to(unseen)))
    value, stderr = mean_and_stderr(clipped_p.mean(1))
    shortfall, shortfall_stderr = mean_and_stderr((clipped_p - p).mean(1))
    return KLReference(
        name=SELF_BOUNDS[1],
        value=value - log_mean,
        stderr=math.hypot(stderr, log_mean_stderr),
        shortfall=shortfall - log_mean,
        shortfall_stderr=math.hypot(shortfall_stderr, log_mean_stderr),
    )


def log_mean_exp(q: Tensor) -> tuple[float, float]:
    """Return ``log E_Q[e^T]`` and its standard error, for ``T [N, S]`` at pairs from Q; 0 where T = log P/Q.

    The logarithm of the mean is biased low, strongly so where few pairs of Q are likely under P.
    """
    per_example = torch.logsumexp(q.double(), 1) - math.log(q.shape[1])
    value = float(torch.logsumexp(per_example, 0)) - math.log(len(q))
    return value, mean_and_stderr(torch.exp(per_example - value))[1]


# --- independent of the critic ------------------------------------------------------------------------------


def posterior_kl_bound(values: Mapping[str, Tensor], claims: Tensor) -> KLReference | None:
    """Return the mean of ``KL(q(z|x)‖p(z))``, if the encoder has a density."""
    if "posterior_kl" not in values:
        return None
    return reference_from_examples(values["posterior_kl"], claims, KLBound.POSTERIOR_KL.value)


def z_reconstruction_bound(values: Mapping[str, Tensor], claims: Tensor) -> KLReference | None:
    """Return ``E_p[log q(z|x)] + H(p(z))``, if the method reports ``z_reconstruction``, −E_p[log q(z|x)]."""
    if not {"z", "z_reconstruction"} <= values.keys():
        return None
    prior_entropy = 0.5 * values["z"].shape[1] * (1 + LOG_2PI)
    bound = prior_entropy - values["z_reconstruction"].mean(1)
    return reference_from_examples(bound, claims, KLBound.Z_RECONSTRUCTION.value)


def aggregate_posterior_bound(values: Mapping[str, Tensor], claims: Tensor) -> KLReference | None:
    """Return the bound by the moments of the latent codes ``z [N, d]``, one per example, if they are enough."""
    z = values.get("z")
    if z is None or len(z) < MIN_EXAMPLES_PER_DIM * z.shape[1]:
        return None
    centered = z - z.mean(0)
    distance = (torch.linalg.solve(z.T.cov() + variance_floor(z), centered.T).T * centered).sum(1)
    value = float(gaussian_kl(z.unsqueeze(1)))
    _, stderr = mean_and_stderr(0.5 * (z.square().sum(1) - distance))
    claim, claim_stderr = mean_and_stderr(claims)
    name = KLBound.AGGREGATE_POSTERIOR.value
    return KLReference(name, value, stderr, value - claim, math.hypot(stderr, claim_stderr))


KL_BOUNDS: dict[KLBound, Callable[[Mapping[str, Tensor], Tensor], KLReference | None]] = {
    KLBound.POSTERIOR_KL: posterior_kl_bound,
    KLBound.Z_RECONSTRUCTION: z_reconstruction_bound,
    KLBound.AGGREGATE_POSTERIOR: aggregate_posterior_bound,
}
"""For each bound that a method can declare, its value from per-example values and the critic's claims ``[N]``.

The values are the method's diagnostics ``[N, S]``, latent codes ``z [N, d]`` and, where the encoder has a density,
``posterior_kl [N]``.
"""


def prior_kl_references(
    values: Mapping[str, Tensor], claims: Tensor, log_prob: Estimate | None
) -> list[KLReference]:
    """Return all references for ``KL(q(z|x)‖p(z))``: by the encoder's density or moments, and by log p(x)."""
    has_density = "posterior_kl" in values
    bound = values["posterior_kl" if has_density else "posterior_moment_kl"]
    name = "encoder density" if has_density else "posterior moments"
    kind: Kind = "unbiased" if has_density else "lower bound"
    references = [reference_from_examples(bound, claims, name, PRIOR_KL, kind)]
    if log_prob is not None:
        references.append(log_prob_bound(values["expected_log_likelihood"], claims, log_prob))
    return references


def log_prob_bound(expected_log_likelihood: Tensor, claims: Tensor, log_prob: Estimate) -> KLReference:
    """Return ``E_q[log p(x|z)] − log p(x)``, from per-example values ``[N]`` and an estimate of log p(x).

    With a lower bound on log p(x) it is too high, and claims may be below it.
    """
    is_bound = log_prob.kind in ("exact", "upper bound")
    values = expected_log_likelihood - log_prob.per_example["value"].double()
    return reference_from_examples(
        values, claims, log_prob.name, PRIOR_KL, "lower bound" if is_bound else "diagnostic"
    )


def gaussian_kl(z: Tensor) -> Tensor:
    """Return ``KL(N(μ, Σ) ‖ N(0, I)) [B]`` in nats, with μ and Σ estimated from samples ``z [S, B, d]``.

    Unbiased for normal samples: the mean of |z|² is unbiased for tr Σ + |μ|², and the expected log determinant of a
    sample covariance is too small by :func:`wishart_log_det`. For other samples the remaining bias is their excess
    kurtosis over 4 S: below 0.1 nats for 32 dimensions of a Laplace distribution and S = 256.
    """
    count, _, d = z.shape
    z = z.double().transpose(0, 1)
    centered = z - z.mean(1, keepdim=True)
    log_det = torch.linalg.slogdet(centered.mT @ centered / (count - 1) + variance_floor(z)).logabsdet
    return 0.5 * (z.square().sum(-1).mean(1) - d - log_det + wishart_log_det(d, count - 1))


def variance_floor(z: Tensor) -> Tensor:
    """Return what is added to a covariance of ``z [..., d]``: a constant dimension then has a finite KL."""
    return MIN_VARIANCE * torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)


def wishart_log_det(d: int, n: int) -> float:
    """Return ``E log det W/n`` for ``W ~ Wishart_d(I, n)``: ``Σ_i ψ((n + 1 − i)/2) + d log 2/n``, below zero."""
    halves = (n + 1 - torch.arange(1, d + 1, dtype=torch.float64)) / 2
    return float(torch.digamma(halves).sum()) + d * math.log(2 / n)
