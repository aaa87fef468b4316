"""Training options that are out of range."""

from __future__ import annotations

import pytest

from advae.errors import ConfigError
from advae.training.train_options import TrainOptions

INVALID = [
    {"steps": 0},
    {"batch_size": 0},
    {"lr": 0.0},
    {"lr": float("nan")},
    {"ema_decay": 1.0},
    {"beta1": -0.1},
    {"grad_clip": -1.0},
]


@pytest.mark.parametrize("options", INVALID, ids=str)
def test_values_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        TrainOptions(**options)  # type: ignore[arg-type]


def test_chunks_must_have_one_size() -> None:
    with pytest.raises(ConfigError, match="accumulation_steps"):
        TrainOptions(batch_size=10, accumulation_steps=3)
