"""How many steps fit into a budget of time, decided once: the same command finds them again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from advae.errors import ConfigError
from advae.io import read_json, write_json
from advae.reproduce.probe import Speed
from advae.training.train_options import TrainOptions


def within(
    budget: float, speeds: Mapping[str, Speed], rows: Mapping[str, TrainOptions], seeds: int
) -> dict[str, int]:
    """Steps of each row so that training all of them takes about ``budget`` seconds.

    All rows get the same time; what a row does not need for all of its recipe's steps goes to the others. The recipes
    of one table may differ a hundredfold in length, so that the same share of steps would leave some with none.

    Args:
        budget: in seconds.
        speeds: of the rows, by name; one without a speed cannot be set up, and keeps its steps.
        rows: how each is trained by its recipe.
        seeds: how often each is trained.

    Raises:
        ConfigError: not even the validation at the end of every run fits.
    """
    once = sum(speed.validation for speed in speeds.values())  # at the end of each run
    left, steps = budget / seeds - once, {name: options.steps for name, options in rows.items()}
    if left <= 0:
        raise ConfigError(
            "the budget is too short for the validation at the end of every run",
            given=f"{budget:g} s",
            expected=f"more than {once * seeds:.0f} s, by a probe just now",
            remedy="a longer --budget, or fewer --rows",
        )
    needs = {name: speed.training(rows[name]) - speed.validation for name, speed in speeds.items()}
    for place, (name, need) in enumerate(sorted(needs.items(), key=lambda item: item[1])):
        time = min(need, left / (len(needs) - place))
        left -= time
        if time < need:
            steps[name] = min(steps[name], two_digits(steps[name] * time / need))
    return steps


def two_digits(number: float) -> int:
    """A count rounded to two significant digits, at least 1.

    >>> two_digits(12345.6), two_digits(0.2), two_digits(98)
    (12000, 1, 98)
    """
    return max(1, int(float(f"{number:.2g}")))


def steps_file(
    runs: Path, table: str, budget: float | None, seeds: Sequence[int], recipes: Mapping[str, int]
) -> Path:
    """Where the steps are kept, under all that they depend on: ``recipes`` are the rows with their whole steps."""
    key = json.dumps([table, budget, list(seeds), dict(recipes)], sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()[:8]
    return runs / "plans" / f"{table}-{budget or 0:g}s-{digest}.json"


def kept_steps(file: Path) -> dict[str, int] | None:
    """The steps of each row, if they were decided before."""
    return dict(read_json(file)) if file.exists() else None


def write_steps(file: Path, steps: Mapping[str, int]) -> None:
    """Keep what was decided."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, dict(steps))
