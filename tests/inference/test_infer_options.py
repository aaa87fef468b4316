"""Options of inference that are unknown, out of range, or do not fit the data."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import advae
from advae.errors import ConfigError
from advae.inference.infer_options import InferOptions


@pytest.mark.parametrize(
    ("given", "key_word"),
    [
        ({"family": "implict"}, "implicit"),
        ({"stpes": 3}, "'steps'"),
        ({"batch": 32}, "'samples_per_step'"),
        ({"fits": 0}, "fits"),
        ({"steps": "many"}, "steps"),
        ({"fits": True}, "fits"),
        ({"lr": None}, "lr"),
        ({"hidden": {"a": 1}}, "hidden"),
        ({"dtype": "float16"}, "float16"),
        ({"initial_power": 1.5}, "initial_power"),
        ({"minibatch_size": 2}, "data"),
        ({"data": {"x": torch.ones(3), "y": torch.ones(4)}}, "rows"),
        ({"data": {"a": torch.ones(3)}}, "'a'"),
        ({"data": {"x": torch.ones(3)}, "minibatch_size": 5}, "at most 3"),
        ({"reference": "nuts"}, "nuts"),
        ({"device": "tpu"}, "tpu"),
        ({"resume": True}, "out=DIR"),
    ],
)
def test_invalid_options(given: dict[str, Any], key_word: str) -> None:
    with pytest.raises(ConfigError, match=key_word):
        advae.infer(lambda a, **data: -(a**2), {"a": ()}, quiet=True, **given)


def test_options_survive_a_round_trip() -> None:
    options = InferOptions(family="flow", hidden=(8, 4), dtype="float64")
    assert InferOptions.from_dict(options.to_dict()) == options
