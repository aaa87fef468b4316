"""Log joints that are invalid: each is reported before training, or as soon as it shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import advae
from advae.errors import AdvaeError, ConfigError, NotFiniteError

y = torch.tensor([1.0, 2.0, 3.0])


def not_batched(a: Any, b: Any) -> Any:
    return -0.5 * (a - a.mean()).square() - b.square()


CASES: dict[str, tuple[Callable[..., Any], type[AdvaeError], str]] = {
    "too many axes": (lambda a, b: -(a[:, None] - y).square() - b[:, None], ConfigError, "shape"),
    "a scalar": (lambda a, b: -(a.square() + b.square()).sum(), ConfigError, "shape"),
    "not a tensor": (lambda a, b: 0.0, ConfigError, "float"),
    "an error": (lambda a, b: torch.ones(2) @ torch.ones(3) - a - b, ConfigError, "RuntimeError"),
    "another name": (lambda a, c: -a.square(), ConfigError, "TypeError"),
    "NaN": (lambda a, b: -a.square() - b.square() + torch.log(-b.square()), ConfigError, "nan"),
    "infinite": (lambda a, b: torch.where(a > 0, -b.square(), -torch.inf), ConfigError, "-inf"),
    "constant": (lambda a, b: 0 * a + 0 * b + 3, ConfigError, "constant"),
    "detached": (lambda a, b: -(a.detach() ** 2) - b.detach() ** 2, ConfigError, "no gradient"),
    "unused parameter": (lambda a, b: -(a**2), ConfigError, "no gradient with respect to 'b'"),
    "not batched": (not_batched, ConfigError, "not batched"),
    "NaN gradient": (
        lambda a, b: -(a**2) - b**2 + torch.where(a > 9, (b - b).sqrt(), 0 * b),
        ConfigError,
        "gradient",
    ),
    "improper along one direction": (lambda a, b: -((a - b) ** 2), AdvaeError, "improper"),
    "unbounded": (lambda a, b: a**2 + b**2, AdvaeError, "improper"),
}


@pytest.mark.parametrize("case", CASES)
def test_invalid_log_joints(case: str) -> None:
    log_joint, error_type, key_word = CASES[case]
    with pytest.raises(error_type, match=key_word):
        advae.infer(
            log_joint, {"a": (), "b": ()}, family="full-rank", steps=300, samples_per_step=32, quiet=True
        )


def test_a_log_joint_that_is_not_a_function() -> None:
    with pytest.raises(ConfigError):
        advae.infer(3, {"a": ()}, quiet=True)  # type: ignore[arg-type]


def test_non_finite_values_far_from_the_start() -> None:
    """Finite near 0, where it is tried, but not at the posterior: the error names the step and the place."""
    with pytest.raises(NotFiniteError, match=r"step \d+") as info:
        advae.infer(
            lambda a: torch.log(torch.relu(9 - a)) - (a - 10) ** 2, {"a": ()}, family="full-rank", quiet=True
        )
    assert "a = " in str(info.value.given)
