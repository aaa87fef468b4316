"""Whether a critic can be trusted: its calibration, and the sentence that says so.

What is a fault, and why, stands with the constants. A critic without one is trusted only as far as its pairs reach.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advae.evaluation.critics.kl_bounds import NATS, OWN, PRIOR_KL, SURE, Floor
from advae.evaluation.estimate import Estimate, Remark
from advae.formatting import format_nats, format_percent

BINS = 20  # of equally many pairs
SHARE = 0.05  # a fault of a probability, or of an accuracy: one pair in twenty
SATURATED_SHARE = 0.1  # a fault: where a tenth of the pairs are ten nats off, the KL is a nat off


@dataclass(frozen=True)
class Calibration:
    """How well σ(T) is the share of P among pairs with this T.

    Attributes:
        error: how far the two lie apart, on average over bins of equally many pairs.
        chance: what a calibrated critic would have of it on so many images.
        stderr: its standard deviation then.
        confidence: how sure the critic is of being right, on average: E max(σ, 1 − σ).
        lean: the mean of σ(T), less the half that it should be.
    """

    error: float
    chance: float
    stderr: float
    confidence: float
    lean: float

    @property
    def faulty(self) -> bool:
        """Whether it is worse than chance would make it, by what matters."""
        return self.error - self.chance > max(SHARE, SURE * self.stderr)


def calibration(p: Tensor, q: Tensor, bins: int = BINS) -> Calibration:
    """The calibration of log ratios at pairs from P and from Q, ``[N, D]`` each, D of every image.

    A bin's sum of σ − [from P] varies over images, whose pairs are not independent. With a mean of zero its
    absolute value has the mean √(2/π) s and the variance (1 − 2/π) s², for a standard deviation s.
    """
    # Side by side: of pairs with one and the same T every bin has as many from either side.
    t = torch.stack([p, q], -1).double()
    count, images = t.numel(), len(t)
    sure = torch.sigmoid(t)
    residual = (sure - torch.tensor([1.0, 0.0], dtype=t.dtype)).flatten()
    place = torch.empty(count, dtype=torch.long)
    place[t.flatten().argsort(stable=True)] = torch.arange(count) * bins // count
    sums = torch.zeros(bins, images, dtype=t.dtype)
    sums.index_put_((place, torch.arange(count) * images // count), residual, accumulate=True)
    variance = images * sums.var(1)
    return Calibration(
        error=float(sums.sum(1).abs().sum()) / count,
        chance=math.sqrt(2 / math.pi) * float(variance.sqrt().sum()) / count,
        stderr=math.sqrt((1 - 2 / math.pi) * float(variance.sum())) / count,
        confidence=float(torch.maximum(sure, 1 - sure).mean()),
        lean=float(sure.mean()) - 0.5,
    )


@dataclass(frozen=True)
class Evidence:
    """What is known of one critic.

    Attributes:
        name: what it is called at the beginning of a sentence.
        accuracy, trained: on held-out images, and on images that it was trained on.
        saturation: share of the pairs from P beyond ±10 nats: E_P[T] is made of them.
        calibration: of its log ratios.
        mean_ratio: log E_Q[e^T] and its standard error.
        pairs: how many it was shown of either side.
        claim: the KL of its pairs that it claims.
        kl: the KL to the prior that is made of it, if one is.
        floors: what is known of either.
        bound: whether an ELBO is made of it.
    """

    name: str
    accuracy: Estimate
    trained: Estimate | None
    saturation: Estimate
    calibration: Calibration
    mean_ratio: tuple[float, float]
    pairs: int
    claim: Estimate
    kl: Estimate | None
    floors: Sequence[Floor]
    bound: bool

    def said(self, floor: Floor) -> str:
        """The claim that a floor is of."""
        if floor.of == PRIOR_KL and self.kl is not None:
            return f"KL to the prior of {format_nats(self.kl.value)}"
        return f"KL of {format_nats(self.claim.value)}"


def verdict(about: str, e: Evidence) -> Remark:
    """The sentence."""
    if faults := found_faults(e):
        more = [] if contradiction(e) else unsure_contradictions(e)
        return Remark(about, f"{e.name} must not be trusted: {'; '.join([*faults, *more])}.", warning=True)
    if doubts := found_doubts(e):
        return Remark(about, f"{e.name} is in doubt: {'; '.join(doubts)}.", warning=True)
    c = e.calibration
    return Remark(
        about,
        f"{e.name} can be trusted here: it is right for {format_percent(e.accuracy.value)} of the pairs and"
        f" {format_percent(c.confidence)} sure on average (calibration error {c.error:.3f}, by chance {c.chance:.3f}),"
        f" {format_percent(e.saturation.value)} of its pairs from P are saturated, and its {agreement(e)}.",
    )


def found_faults(e: Evidence) -> list[str]:
    """Why it must not be trusted."""
    found = []
    if e.saturation.value > SATURATED_SHARE:
        share = f"{format_percent(e.saturation.value)} of its pairs from P are saturated (beyond ±10 nats)"
        found.append(f"{share}, where a log ratio can hardly be learned or checked")
    if e.calibration.faulty:
        found.append(miscalibration(e.calibration, e.accuracy.value))
    if e.trained is not None and learned_by_heart(e.trained, e.accuracy):
        seen, unseen = format_percent(e.trained.value), format_percent(e.accuracy.value)
        found.append(
            f"it knows its training images by heart: right for {seen} of their pairs, and {unseen} of others"
        )
    log_mean, error = e.mean_ratio
    if log_mean > max(NATS, SURE * error):
        average = f"{math.exp(log_mean):.3g}" if log_mean < 10 else f"e^{log_mean:.0f}"
        found.append(f"its ratios P/Q are too large: over Q they average {average} instead of 1")
    return found + contradiction(e)


def learned_by_heart(trained: Estimate, held_out: Estimate) -> bool:
    """Whether it is better on training images, by what matters and by more than chance."""
    chance = SURE * math.hypot(trained.stderr, held_out.stderr)
    return trained.value - held_out.value > max(SHARE, chance)


def miscalibration(c: Calibration, accuracy: float) -> str:
    """In which way it misjudges itself."""
    size = f"(calibration error {c.error:.2f}, by chance {c.chance:.2f})"
    if abs(c.lean) > abs(c.confidence - accuracy):
        side = "P" if c.lean > 0 else "Q"
        return f"it leans to {side}: it takes {format_percent(0.5 + c.lean)} of the pairs to be from P, where half are {size}"
    way, sure = "surer" if c.confidence > accuracy else "less sure", format_percent(c.confidence)
    return f"it is {way} than it should be: {sure} sure on average, right for {format_percent(accuracy)} {size}"


def contradiction(e: Evidence) -> list[str]:
    """What the claim contradicts most."""
    against = [f for f in e.floors if f.contradicts and f.value > 0 and f.kind != "diagnostic"]
    if not against:
        negative = e.claim.value < -SURE * e.claim.stderr
        return [f"its KL of {format_nats(e.claim.value)} is below zero, which no KL is"] if negative else []
    floor = max(against, key=lambda f: abs(f.short))
    side, way = ("below", "high") if floor.short > 0 else ("above", "low")
    text = f"its {e.said(floor)} is {side} the {format_nats(floor.value)} that {floor.text}"
    least = "" if floor.kind == "unbiased" else "at least "
    wrong = f", so the ELBO it claims is {least}{format_nats(abs(floor.short))} too {way}"
    return [text + wrong if e.bound else text]


def unsure_contradictions(e: Evidence) -> list[str]:
    """What the claim contradicts, if that is not itself too low."""
    return [
        f"its {e.said(f)} is below the {format_nats(f.value)} that {f.text}, so either the ELBO it claims is"
        f" {format_nats(f.short)} too high or {f.name} as much too low"
        for f in e.floors
        if f.kind == "diagnostic" and f.contradicts
    ]


def found_doubts(e: Evidence) -> list[str]:
    """Why it may not be trusted as far as is known."""
    found, chance, most = unsure_contradictions(e), e.calibration.chance, math.log(e.pairs)
    if chance > SHARE:
        found.append(
            f"so few images cannot show whether it is calibrated (its error by chance is {chance:.2f})"
        )
    if e.claim.value > most and not any(floor.kind == "unbiased" for floor in e.floors):
        found.append(
            f"its KL of {format_nats(e.claim.value)} is more than the {format_nats(most)} that {e.pairs:,} pairs can show"
        )
    return found


def agreement(e: Evidence) -> str:
    """What its claim stands beside."""
    others = [floor for floor in e.floors if floor.name not in OWN]
    floors = [floor for floor in others if floor.of == PRIOR_KL] or others or e.floors
    floor = max(floors, key=lambda f: (f.kind == "unbiased", f.value))
    if floor.kind == "unbiased":
        relation = "agrees with"
    else:
        relation = "is not contradicted by" if floor.short <= 0 else f"lies only {format_nats(floor.short)} below"
    alone = "" if others else "; a better critic may find more, as nothing else is known of it"
    return f"{e.said(floor)} {relation} the {format_nats(floor.value)} that {floor.text}{alone}"
