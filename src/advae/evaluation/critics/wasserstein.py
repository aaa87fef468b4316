"""What can be said of a critic that is no log ratio, such as WGAN's: how well it tells P from Q, and no more.

A potential f is known up to a constant. Its sign means nothing, σ(f) is no probability, and no KL comes of it: it has
neither saturation nor calibration. What remains is how often it puts P above Q, by how much, and how steep it is: of a
slope of 1, the difference of the means is an estimate of the Wasserstein distance, in the units of x.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from advae.evaluation.critics.verdict import learned_by_heart
from advae.evaluation.estimate import Estimate, EvaluationResult, Remark, from_per_example
from advae.formatting import format_percent
from advae.methods import Method

FIGURES = ("accuracy", "distance", "slope")


def potential(
    method: Method,
    role: str,
    seen: Mapping[str, Tensor],
    trained: Mapping[str, Tensor],
    protocol: Mapping[str, Any],
) -> EvaluationResult:
    """The figures of one critic, and a sentence on what they mean.

    Args:
        method: whose critic.
        role: of the critic.
        seen: the method's report on held-out images, ``[N, draws]`` by name.
        trained: the same on images that it was trained on; empty if there is nothing to compare.
        protocol: of the figures.
    """
    P, Q = method.sides.get(role, ("P", "Q"))
    said = {**protocol, "P": P, "Q": Q}

    def figure(name: str, found: Mapping[str, Tensor], **more: str) -> Estimate:
        of = f"{name}[{role}]{' on train' if more else ''}"
        return from_per_example(found[f"{role}/{name}"].mean(1), of, "diagnostic", "", {**said, **more}, "critics")

    held = {name: figure(name, seen) for name in FIGURES if f"{role}/{name}" in seen}
    heart = figure("accuracy", trained, split="train") if f"{role}/accuracy" in trained else None
    figures = [held.get("accuracy"), heart, held.get("distance"), held.get("slope")]
    return EvaluationResult([e for e in figures if e is not None], [sentence(method, role, held, heart)])


def sentence(method: Method, role: str, held: Mapping[str, Estimate], heart: Estimate | None) -> Remark:
    """What the figures mean; a warning where the critic knows its training images by heart."""
    name = "The critic" if role == "critic" else f"The critic {role}"
    text = f"{name} of {method.name} is no log ratio and is not judged as one: it is known up to a constant."
    if "accuracy" not in held:
        return Remark(role, text)
    P, Q = method.sides.get(role, ("P", "Q"))
    text += f" Of a draw of {P} and one of {Q} it puts the first higher in {format_percent(held['accuracy'].value)} of cases"
    if heart is None or not learned_by_heart(heart, held["accuracy"]):
        return Remark(role, f"{text}.")
    return Remark(
        role, f"{text}, and in {format_percent(heart.value)} on its training images, which it knows by heart.", True
    )
