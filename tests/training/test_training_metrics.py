"""Detection of non-finite metrics on the device, read by the host many steps later."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch

from advae.errors import NotFiniteError
from advae.training.training_metrics import MetricAccumulator

UPDATES = (("critic",), ("model",))
STEPS = 7
CPU = torch.device("cpu")


def accumulate(
    metrics: MetricAccumulator, bad_updates: set[tuple[int, str]], value: float = math.nan
) -> Iterator[tuple[int, str, bool]]:
    """Add steps of two updates, some with one bad metric; yield whether the flag lets each update pass."""
    for step in range(STEPS):
        for players in UPDATES:
            (name,) = players
            kl = value if (step, name) in bad_updates else 2.0
            metrics.add(players, {f"{name}:loss": torch.tensor(1.0), f"{name}:kl": torch.tensor(kl)})
            yield step, name, not metrics.nonfinite_flag.item()
        for players in UPDATES:
            metrics.count(players)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("step", "name"), [(0, "critic"), (3, "critic"), (3, "model"), (STEPS - 1, "model")])
def test_first_nonfinite_metric_is_identified_at_the_end(step: int, name: str, value: float) -> None:
    metrics = MetricAccumulator(CPU)
    later = {(step + 2, "critic"), (step + 2, "model")}
    passed = [key for *key, is_let in accumulate(metrics, {(step, name)} | later, value) if is_let]
    assert len(passed) == 2 * step + (name == "model"), "no update passes from the first bad one on"
    with pytest.raises(NotFiniteError, match=f"kl of player '{name}' .* step {step}\\."):
        metrics.raise_if_halted(STEPS - 1, len(UPDATES))


def test_skipped_updates_are_excluded_from_the_means() -> None:
    metrics, bad = MetricAccumulator(CPU, max_skipped=2), {(1, "critic"), (4, "model")}
    assert {(step, name) for step, name, is_let in accumulate(metrics, bad) if not is_let} == bad
    assert metrics.num_skipped.item() == 2
    metrics.raise_if_halted(STEPS - 1, len(UPDATES))
    assert metrics.pop_means() == {"loss/critic": 6 / 7, "loss/model": 6 / 7, "kl": 2 * 6 / 7}
    passed = [key for *key, is_let in accumulate(metrics, {(2, "model"), (3, "critic")}) if is_let]
    assert passed == [[0, "critic"], [0, "model"], [1, "critic"], [1, "model"], [2, "critic"]]
    with pytest.raises(NotFiniteError, match=r"kl of player 'model' .* step 2\."):
        metrics.raise_if_halted(STEPS - 1, len(UPDATES))


def test_finite_metrics_are_averaged_and_reset() -> None:
    metrics = MetricAccumulator(CPU)
    assert all(is_let for *_, is_let in accumulate(metrics, set()))
    metrics.raise_if_halted(STEPS - 1, len(UPDATES))
    assert metrics.pop_means() == {"loss/critic": 1.0, "loss/model": 1.0, "kl": 2.0}
    assert metrics.pop_means() == {}


def test_default_dtype_does_not_matter(double: None) -> None:
    """Networks are float32 whatever the default, so metrics must be too."""
    metrics = MetricAccumulator(CPU, max_skipped=1)
    for value in (1.0, math.nan, 3.0):
        metrics.add(("model",), {"model:loss": torch.tensor(value, dtype=torch.float32)})
    metrics.count(("model",))
    assert metrics.nonfinite_flag.dtype is torch.float32
    assert metrics.pop_means() == {"loss/model": 4.0}
