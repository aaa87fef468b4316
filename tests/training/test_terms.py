"""The watch over a step's terms, read long after it was raised."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch

from advae.errors import NotFiniteError
from advae.training.metric_accumulator import MetricAccumulator

MOVES = (("critic",), ("model",))
STEPS = 7


def taken(
    terms: MetricAccumulator, bad: set[tuple[int, str]], value: float = math.nan
) -> Iterator[tuple[int, str, bool]]:
    """Steps of two moves, of which some have one bad term; which of them the flag would have let through."""
    for step in range(STEPS):
        for move in MOVES:
            name = move[0]
            wrong = (step, name) in bad
            terms.add(
                move, {f"{name}:loss": torch.tensor(1.0), f"{name}:kl": torch.tensor(value if wrong else 2.0)}
            )
            yield step, name, not terms.halt.item()
        for move in MOVES:
            terms.count(move)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("step", "name"), [(0, "critic"), (3, "critic"), (3, "model"), (STEPS - 1, "model")])
def test_the_first_bad_term_is_known_at_the_end(step: int, name: str, value: float) -> None:
    terms = MetricAccumulator(torch.device("cpu"))
    later = {(step + 2, "critic"), (step + 2, "model")}  # of another player too: not what is named
    moved = [key for *key, let in taken(terms, {(step, name)} | later, value) if let]
    place = 2 * step + (name == "model")
    assert len(moved) == place, "none from that one on"
    with pytest.raises(NotFiniteError, match=f"kl of player '{name}' is not finite at step {step}\n"):
        terms.raise_if_over(STEPS - 1, len(MOVES))


def test_moves_that_may_be_left_out_are_and_are_no_part_of_the_means() -> None:
    terms, bad = MetricAccumulator(torch.device("cpu"), skip=2), {(1, "critic"), (4, "model")}
    left_out = {(step, name) for step, name, let in taken(terms, bad) if not let}
    assert left_out == bad
    terms.raise_if_over(STEPS - 1, len(MOVES))
    assert terms.means() == {"loss/critic": 6 / 7, "loss/model": 6 / 7, "kl": 2 * 6 / 7}
    moved = [(step, name) for step, name, let in taken(terms, {(2, "model"), (3, "critic")}) if let]
    assert moved == [(0, "critic"), (0, "model"), (1, "critic"), (1, "model"), (2, "critic")]
    with pytest.raises(NotFiniteError, match="kl of player 'model' is not finite at step 2\n"):
        terms.raise_if_over(STEPS - 1, len(MOVES))


def test_sound_terms_raise_nothing_and_are_read_once() -> None:
    terms = MetricAccumulator(torch.device("cpu"))
    assert all(let for *_, let in taken(terms, set()))
    terms.raise_if_over(STEPS - 1, len(MOVES))
    assert terms.means() == {"loss/critic": 1.0, "loss/model": 1.0, "kl": 2.0}
    assert terms.means() == {}
