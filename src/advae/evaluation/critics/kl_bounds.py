"""Floors: what a KL cannot lie below, found without believing the critic that claims it.

T is a critic's log ratio at pairs from P and from Q, log P/Q where it is right; E_P[T] is the KL(P‖Q) it claims.

    accuracy   KL(P‖Q) ≥ a log a/b + (1 − a) log (1 − a)/(1 − b),  a = P(T > 0), b = Q(T > 0): the sign of T is a
               coarser view of a pair, and no coarser view makes a divergence larger
    ratios     KL(P‖Q) ≥ E_P[T] − log E_Q[e^T] for every function T             (Donsker and Varadhan 1975)
    moments    KL(q‖p) ≥ KL(N(μ, Σ)‖p) where p is normal, for q of mean μ and covariance Σ: E_q[log p] depends on
               them alone, and 0 ≤ KL(q‖N(μ, Σ)) = H(N(μ, Σ)) − H(q): no density has more entropy than the normal
    evidence   KL(q(z|x)‖p(z)) ≥ E_q[log p(x|z)] − log p(x): no ELBO exceeds log p(x)

n pairs of Q hardly show one with P/Q above n, and no n pairs confirm a KL above log n (McAllester and Stratos 2020):
a sample's mean of e^T that lacks them is too small, and the floor by ratios would be too high.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from advae.evaluation.estimate import Estimate, Kind, mean_and_error

SURE = 3.0  # standard errors that a fault must be larger than: chance alone does so once in 700
NATS, PART = (
    0.5,
    0.1,
)  # a fault of a KL: half a nat, as methods differ by a nat or so (AVB table 3), or a tenth of it
UNSEEN = 3.0  # what n pairs never show has a probability below 3/n, with 95 % confidence
HELD = 30.0  # e^T is held below n/30, so that what they never show adds a tenth to a mean of one, at most
ADDED = 2.0  # successes and failures added to a proportion (Agresti and Coull 1998)

LEAST_VARIANCE = 1e-12  # of a code
PAIR_KL, PRIOR_KL = "KL(P‖Q)", "KL(q(z|x)‖p(z))"
OWN = "accuracy", "ratios"  # floors that a critic's own pairs give: a weak critic has low ones


@dataclass(frozen=True)
class Floor:
    """What a KL cannot lie below; of kind "unbiased", what it is; of kind "diagnostic", a floor if log p(x) is exact.

    Attributes:
        name: by what it is known.
        text: ends "the 12.3 nats that".
        short: by how much the claim lies below it.
        error: the standard error of that.
        of: which KL: of the critic's pairs, or of the codes to the prior.
    """

    name: str
    text: str
    value: float
    stderr: float
    short: float
    error: float
    of: str = PAIR_KL
    kind: Kind = "lower bound"

    @property
    def contradicts(self) -> bool:
        """Whether the claim and this cannot both be right."""
        off = abs(self.short) if self.kind == "unbiased" else self.short
        return off > max(min(NATS, PART * abs(self.value)), SURE * self.error)


def floor_of(
    values: Tensor, claims: Tensor, name: str, text: str, of: str = PAIR_KL, kind: Kind = "lower bound"
) -> Floor:
    """The floor that per-image ``values [N]`` amount to, under ``claims [N]``."""
    return Floor(name, text, *mean_and_error(values), *mean_and_error(values - claims), of, kind)


def accuracy_floor(p: Tensor, q: Tensor) -> Floor:
    """The floor by how often T > 0, for T at pairs from P and from Q, ``[N, D]``, D of every image.

    ADDED to the N images of each side: a side without any error would prove any KL.
    """
    n, sides = len(p), [(side > 0).double().mean(1) for side in (p, q)]
    a, b = [(float(side.sum()) + ADDED) / (n + 2 * ADDED) for side in sides]
    value = a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))
    slopes = math.log(a * (1 - b) / (b * (1 - a))), (b - a) / (b * (1 - b))
    error = math.hypot(*(slope * mean_and_error(side)[1] for slope, side in zip(slopes, sides, strict=True)))
    claim, claim_error = mean_and_error(p.double().mean(1))
    text = "its own accuracy proves"
    return Floor(OWN[0], text, value, error, value - claim, math.hypot(error, claim_error))


def ratio_floor(p: Tensor, q: Tensor) -> Floor:
    """The floor by T itself, ``[N, D]`` on each side, made safe against pairs that the sample lacks.

    To the mean of e^T over the n pairs of Q is added what pairs that they never show could make of it: UNSEEN/n
    times its largest value. Any function serves as T, so it is held below log(n/HELD).
    """
    n, p = q.numel(), p.double()
    held_p, held_q = p.clamp(max=math.log(n / HELD)), q.double().clamp(max=math.log(n / HELD))
    log_mean, mean_error = log_mean_ratio(held_q)
    unseen = torch.maximum(held_p.max(), held_q.max()) + math.log(UNSEEN / n)
    log_mean = float(torch.logaddexp(unseen, torch.tensor(log_mean).to(unseen)))
    value, error = mean_and_error(held_p.mean(1))
    short, short_error = mean_and_error((held_p - p).mean(1))
    return Floor(
        name=OWN[1],
        text="its own ratios prove",
        value=value - log_mean,
        stderr=math.hypot(error, mean_error),
        short=short - log_mean,
        error=math.hypot(short_error, mean_error),
    )


def log_mean_ratio(q: Tensor) -> tuple[float, float]:
    """``log E_Q[e^T]`` and its standard error, for ``T [N, D]`` at pairs from Q; 0 where T is log P/Q.

    The mean's logarithm is on average too small, and far too small where few pairs of Q are like those of P.
    """
    each = torch.logsumexp(q.double(), 1) - math.log(q.shape[1])
    value = float(torch.logsumexp(each, 0)) - math.log(len(q))
    return value, mean_and_error(torch.exp(each - value))[1]


def gaussian_kl(z: Tensor) -> Tensor:
    """``KL(N(μ, Σ) ‖ N(0, I))`` with the moments of what codes ``z [S, B, d]`` were drawn from, ``[B]``, in nats.

    Unbiased for normal codes: the mean of |z|² is so for tr Σ + |μ|², and the log determinant of a sample's
    covariance is too small by :func:`wishart_log_det` on average. For other codes what is left is their excess
    kurtosis over 4 S: below 0.1 nats for 32 dimensions of Laplace's law and S = 256.
    """
    count, _, d = z.shape
    z = z.double().transpose(0, 1)
    centred = z - z.mean(1, keepdim=True)
    log_det = torch.linalg.slogdet(centred.mT @ centred / (count - 1) + least(z)).logabsdet
    return 0.5 * (z.square().sum(-1).mean(1) - d - log_det + wishart_log_det(d, count - 1))


def least(z: Tensor) -> Tensor:
    """What is added to a covariance of codes ``z [..., d]``, so that a dimension that does not vary has a finite KL."""
    return LEAST_VARIANCE * torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)


def wishart_log_det(d: int, n: int) -> float:
    """``E log det W/n`` for ``W ~ Wishart_d(I, n)``: ``Σ_i ψ((n + 1 − i)/2) + d log 2/n``, below zero."""
    halves = (n + 1 - torch.arange(1, d + 1, dtype=torch.float64)) / 2
    return float(torch.digamma(halves).sum()) + d * math.log(2 / n)


def evidence_floor(scores: Tensor, claims: Tensor, log_prob: Estimate) -> Floor:
    """``E_q[log p(x|z)] − log p(x)``, as no ELBO exceeds log p(x), from ``scores [N]`` and an estimate of the latter.

    An estimate that lies below log p(x) gives too much: what a claim may lie below.
    """
    firm = log_prob.kind in ("exact", "upper bound")
    text = f"log p(x) by {log_prob.name} {'forces' if firm else 'would force'}"
    values = scores - log_prob.each["value"].double()
    return floor_of(values, claims, log_prob.name, text, PRIOR_KL, "lower bound" if firm else "diagnostic")


def aggregate_floor(z: Tensor, claims: Tensor) -> Floor:
    """The floor by the moments of all codes ``z [N, d]`` together, one of each image, under ``claims [N]``."""
    centred = z - z.mean(0)
    distance = (torch.linalg.solve(z.T.cov() + least(z), centred.T).T * centred).sum(1)
    value, (_, error) = (
        float(gaussian_kl(z.unsqueeze(1))),
        mean_and_error(0.5 * (z.square().sum(1) - distance)),
    )
    claim, claim_error = mean_and_error(claims)
    text = "the mean and covariance of all codes together force"
    return Floor("all codes", text, value, error, value - claim, math.hypot(error, claim_error))
