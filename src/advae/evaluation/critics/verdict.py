"""Reliability of a critic: calibration, a table of criteria, and a sentence made from it.

Thresholds are documented next to the constants. A critic that meets all criteria is reliable only as far as its
pairs reach: n pairs cannot confirm a KL above log n nats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advae.evaluation.critics.kl_bounds import ABS_TOL_NATS, NUM_SIGMAS, PRIOR_KL, SELF_BOUNDS, KLReference
from advae.evaluation.estimate import Criterion, Estimate, Remark
from advae.formatting import format_nats, format_percent

NUM_BINS = 20  # with equally many pairs
MAX_PROBABILITY_ERROR = 0.05  # of a probability or an accuracy: one pair in twenty
MAX_SATURATED_SHARE = 0.1  # where a tenth of the pairs are ten nats off, the KL is a nat off


@dataclass(frozen=True)
class Calibration:
    """How well σ(T) agrees with the share of P among pairs with this T.

    Attributes:
        error: mean absolute difference of the two over bins with equally many pairs.
        chance: the expected error of a calibrated critic on as many examples.
        stderr: its standard deviation.
        confidence: mean probability of the more probable side, E max(σ, 1 − σ).
        lean: mean of σ(T) minus one half, positive if the critic favors P.
    """

    error: float
    chance: float
    stderr: float
    confidence: float
    lean: float


def compute_calibration(p: Tensor, q: Tensor, bins: int = NUM_BINS) -> Calibration:
    """Return the calibration of log ratios at pairs from P and from Q, ``[N, S]`` each, S per example.

    A bin's sum of σ − [from P] varies over examples, whose pairs are not independent. With a mean of zero its
    absolute value has the mean √(2/π) s and the variance (1 − 2/π) s², for a standard deviation s.
    """
    # P and Q are interleaved, so that pairs with equal T are split evenly over the sides of a bin.
    t = torch.stack([p, q], -1).double()
    count, examples = t.numel(), len(t)
    probability = torch.sigmoid(t)
    residual = (probability - torch.tensor([1.0, 0.0], dtype=t.dtype)).flatten()
    bin_of = torch.empty(count, dtype=torch.long)
    bin_of[t.flatten().argsort(stable=True)] = torch.arange(count) * bins // count
    sums = torch.zeros(bins, examples, dtype=t.dtype)
    sums.index_put_((bin_of, torch.arange(count) * examples // count), residual, accumulate=True)
    variance = examples * sums.var(1)
    return Calibration(
        error=float(sums.sum(1).abs().sum()) / count,
        chance=math.sqrt(2 / math.pi) * float(variance.sqrt().sum()) / count,
        stderr=math.sqrt((1 - 2 / math.pi) * float(variance.sum())) / count,
        confidence=float(torch.maximum(probability, 1 - probability).mean()),
        lean=float(probability.mean()) - 0.5,
    )


@dataclass(frozen=True)
class CriticEvidence:
    """What was measured of one critic.

    Attributes:
        name: of the critic, for a sentence.
        accuracy, train_accuracy: on held-out and on training examples.
        saturation: share of the pairs from P beyond ±10 nats, of which E_P[T] mainly consists. A pair counts only if
            the learned part of T is beyond ±10 nats too: known terms need not be learned.
        log_mean_ratio: log E_Q[e^T] and its standard error.
        num_pairs: pairs of either side.
        pair_kl: the KL of its pairs that it claims.
        prior_kl: the KL of the posterior to the prior made from it, if there is one.
        references: bounds and estimates of either KL.
        has_elbo: whether an ELBO is made from it.
    """

    name: str
    accuracy: Estimate
    train_accuracy: Estimate | None
    saturation: Estimate
    calibration: Calibration
    log_mean_ratio: tuple[float, float]
    num_pairs: int
    pair_kl: Estimate
    prior_kl: Estimate | None = None
    references: Sequence[KLReference] = ()
    has_elbo: bool = False

    def claim(self, reference: KLReference) -> str:
        """Return the claim that a reference refers to, as text."""
        if reference.of == PRIOR_KL and self.prior_kl is not None:
            return f"claimed KL to the prior of {format_nats(self.prior_kl.value)}"
        return f"claimed KL of {format_nats(self.pair_kl.value)}"


@dataclass(frozen=True)
class Check:
    """A criterion, what to say if it fails, and whether failing makes the critic unreliable or only doubtful."""

    criterion: Criterion
    failure: str
    is_doubt: bool = False


def critic_remark(role: str, e: CriticEvidence) -> Remark:
    """Return the table of criteria, with the sentence made from it."""
    checks = [*basic_checks(e), *reference_checks(e), *resolution_checks(e)]
    criteria = tuple(check.criterion for check in checks)
    failed = [check for check in checks if not check.criterion.passed and check.failure]
    failures = "; ".join(check.failure for check in sorted(failed, key=lambda check: check.is_doubt))
    if not failed:
        return Remark(role, f"Reliable {e.name}: {summary(e)}.", False, criteria, "critics")
    label = "Possibly unreliable" if all(check.is_doubt for check in failed) else "Unreliable"
    return Remark(role, f"{label} {e.name}: {failures}.", True, criteria, "critics")


def basic_checks(e: CriticEvidence) -> list[Check]:
    """Check saturation, calibration, overfitting, normalization and sign, from the critic's pairs alone."""
    c, (log_mean, stderr) = e.calibration, e.log_mean_ratio
    limit = max(MAX_PROBABILITY_ERROR, NUM_SIGMAS * c.stderr)
    saturation = Criterion.at_most("saturation", e.saturation.value, MAX_SATURATED_SHARE)
    calibration = Criterion.at_most("calibration error above chance", c.error - c.chance, limit)
    normalization = Criterion.at_most("log E_Q[P/Q]", log_mean, max(ABS_TOL_NATS, NUM_SIGMAS * stderr))
    sign = Criterion.at_least("claimed KL", e.pair_kl.value, -NUM_SIGMAS * e.pair_kl.stderr)
    mean = f"{math.exp(log_mean):.3g}" if log_mean < 10 else f"e^{log_mean:.0f}"
    share = format_percent(e.saturation.value)
    return [
        Check(saturation, f"saturation ({share} of the pairs from P beyond ±10 nats)"),
        Check(calibration, miscalibration(c, e.accuracy.value)),
        *([] if e.train_accuracy is None else [overfitting_check(e.train_accuracy, e.accuracy)]),
        Check(normalization, f"ratios too large (the mean of P/Q over Q is {mean} instead of 1)"),
        Check(sign, f"negative claimed KL ({format_nats(e.pair_kl.value)})"),
    ]


def overfitting_check(train: Estimate, held_out: Estimate) -> Check:
    """Check that the accuracy on training pairs is not higher than on held-out pairs."""
    limit = max(MAX_PROBABILITY_ERROR, NUM_SIGMAS * math.hypot(train.stderr, held_out.stderr))
    shares = format_percent(train.value), format_percent(held_out.value)
    accuracies = f"{shares[0]} accuracy on training pairs, {shares[1]} on held-out pairs"
    criterion = Criterion.at_most("accuracy gap to training", train.value - held_out.value, limit)
    return Check(criterion, f"overfitting ({accuracies})")


def miscalibration(c: Calibration, accuracy: float) -> str:
    """Describe the largest miscalibration: a bias to one side, or too high or too low confidence."""
    size = f"calibration error {c.error:.2f}, {c.chance:.2f} by chance"
    if abs(c.lean) > abs(c.confidence - accuracy):
        side, share = "P" if c.lean > 0 else "Q", format_percent(0.5 + c.lean)
        return f"bias toward {side} (mean probability of P {share} instead of 50 %; {size})"
    kind = "overconfidence" if c.confidence > accuracy else "underconfidence"
    return f"{kind} (mean confidence {format_percent(c.confidence)}, accuracy {format_percent(accuracy)}; {size})"


def reference_checks(e: CriticEvidence) -> list[Check]:
    """Check the claims against each reference; the sentence names the reference that is violated most."""
    violated = [r for r in e.references if not r.criterion.passed]
    worst = max(violated, key=lambda r: (r.kind != "diagnostic", abs(r.shortfall)), default=None)
    return [
        Check(r.criterion, violation(e, r) if r is worst else "", r.kind == "diagnostic")
        for r in e.references
    ]


def violation(e: CriticEvidence, r: KLReference) -> str:
    """Describe by how much a claim violates a reference, and what that means for the ELBO."""
    side, way = ("below", "high") if r.shortfall > 0 else ("above", "low")
    kind = "KL" if r.kind == "unbiased" else "lower bound"
    text = f"{e.claim(r)} {side} the {kind} of {format_nats(r.value)} ({r.name})"
    amount = format_nats(abs(r.shortfall))
    if r.kind == "diagnostic":
        return f"{text}: either its ELBO is {amount} too high, or {r.name} is too low by as much"
    return (
        f"{text}, so its ELBO is {'' if kind == 'KL' else 'at least '}{amount} too {way}"
        if e.has_elbo
        else text
    )


def resolution_checks(e: CriticEvidence) -> list[Check]:
    """Check that the pairs are enough to detect miscalibration, and a KL as large as the claimed one."""
    chance = Criterion.at_most("calibration error by chance", e.calibration.chance, MAX_PROBABILITY_ERROR)
    few = f"too few examples to check calibration (error {e.calibration.chance:.2f} by chance)"
    checks = [Check(chance, few, is_doubt=True)]
    if not any(r.kind == "unbiased" for r in e.references):
        limit = math.log(e.num_pairs)
        text = (
            f"claimed KL of {format_nats(e.pair_kl.value)} above log n = {format_nats(limit)}, the most that"
            f" n = {e.num_pairs:,} pairs can confirm"
        )
        checks.append(Check(Criterion.at_most("claimed KL up to log n", e.pair_kl.value, limit), text, True))
    return checks


def summary(e: CriticEvidence) -> str:
    """Summarize a reliable critic: accuracy, calibration, and the sharpest reference for its claim."""
    c = e.calibration
    independent = [r for r in e.references if r.name not in SELF_BOUNDS]
    candidates = [r for r in independent if r.of == PRIOR_KL] or independent or e.references
    best = max(candidates, key=lambda r: (r.kind == "unbiased", r.value))
    relation = "agrees with the KL" if best.kind == "unbiased" else "is consistent with the lower bound"
    weak = "" if independent else "; without an independent bound, a better critic may find a larger KL"
    accuracy, confidence = format_percent(e.accuracy.value), format_percent(c.confidence)
    return (
        f"accuracy {accuracy}, mean confidence {confidence}, calibration error {c.error:.3f} ({c.chance:.3f} by"
        f" chance), {format_percent(e.saturation.value)} of the pairs from P saturated; {e.claim(best)} {relation}"
        f" of {format_nats(best.value)} ({best.name}){weak}"
    )
