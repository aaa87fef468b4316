"""The kinds of estimates, in words: how a figure stands to the truth, and whether it judges the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ADVERSARIAL, YARDSTICK = "adversarial estimate", "baseline"
MEANINGS = {
    "lower bound": "in expectation not above the true figure",
    "upper bound": "in expectation not below the true figure (bits/dim are those of −log p(x))",
    "unbiased": "its expectation is the quantity itself",
    "exact": "computed in closed form",
    "error": "a distance to the data; lower is better",
    "score": "a merit; higher is better",
    YARDSTICK: "the same figure for something other than the model, to measure the model's by",
    "diagnostic": "neither good nor bad by itself: it tells how the model, or another figure, works",
    ADVERSARIAL: "holds a critic's own estimate of a log ratio, which errs low when the critic is weak: it"
    " can exceed log p(x), is not a bound, and is not to be compared with bounds",
}


def kind_text(kind: object) -> str:
    """The kind of an estimate; an adversarial one says what it is not."""
    return f"{kind}: not a bound" if kind == ADVERSARIAL else str(kind or "unknown kind")


def meanings(estimates: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What the kinds that occur mean."""
    kinds = {estimate.get("kind") for estimate in estimates}
    return [(kind, text) for kind, text in MEANINGS.items() if kind in kinds]
