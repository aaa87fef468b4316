"""Log joints that are wrong, each with an error that says how: before anything is trained, or as soon as it shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import advae
from advae.errors import AdvaeError, ConfigError, NotFiniteError

y = torch.tensor([1.0, 2.0, 3.0])


def dependent(a: Any, b: Any) -> Any:
    return -0.5 * (a - a.mean()).square() - b.square()


CASES: dict[str, tuple[Callable[..., Any], type[AdvaeError], str]] = {
    "too many axes": (lambda a, b: -(a[:, None] - y).square() - b[:, None], ConfigError, "wrong shape"),
    "a scalar": (lambda a, b: -(a.square() + b.square()).sum(), ConfigError, "wrong shape"),
    "no tensor": (lambda a, b: 0.0, ConfigError, "wrong shape"),
    "an error": (lambda a, b: torch.ones(2) @ torch.ones(3) - a - b, ConfigError, "raised an error"),
    "another name": (lambda a, c: -a.square(), ConfigError, "raised an error"),
    "NaN": (lambda a, b: -a.square() - b.square() + torch.log(-b.square()), ConfigError, "is nan"),
    "infinite": (lambda a, b: torch.where(a > 0, -b.square(), -torch.inf), ConfigError, "is -inf"),
    "constant": (lambda a, b: 0 * a + 0 * b + 3, ConfigError, "is constant"),
    "detached": (lambda a, b: -(a.detach() ** 2) - b.detach() ** 2, ConfigError, "no gradient"),
    "one is not used": (lambda a, b: -(a**2), ConfigError, "no gradient with respect to 'b'"),
    "not batched": (dependent, ConfigError, "not batched"),
    "NaN gradient": (
        lambda a, b: -(a**2) - b**2 + torch.where(a > 9, (b - b).sqrt(), 0 * b),
        ConfigError,
        "gradient that is not finite",
    ),
    "improper": (lambda a, b: -((a - b) ** 2), AdvaeError, "improper: nothing holds the draws back"),
    "growing": (lambda a, b: a**2 + b**2, AdvaeError, "improper"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_is_refused(case: str) -> None:
    log_joint, kind, words = CASES[case]
    with pytest.raises(kind, match=words):
        advae.infer(log_joint, {"a": (), "b": ()}, family="full-rank", steps=300, quiet=True)


def test_not_finite_later_is_said_with_the_place() -> None:
    """Finite about 0, where it is tried, and not where the posterior is."""
    with pytest.raises(NotFiniteError, match="not finite at step"):
        advae.infer(
            lambda a: torch.log(torch.relu(9 - a)) - (a - 10) ** 2, {"a": ()}, family="full-rank", quiet=True
        )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"family": "implict"}, "did you mean 'implicit'"),
        ({"stpes": 3}, "did you mean 'steps'"),
        ({"fits": 0}, "impossible value"),
        ({"dtype": "float16"}, "no dtype"),
        ({"minibatch": 2}, "needs data"),
        ({"data": {"x": torch.ones(3), "y": torch.ones(4)}}, "different numbers of rows"),
        ({"data": {"a": torch.ones(3)}}, "name of a parameter and of data"),
        ({"data": {"x": torch.ones(3)}, "minibatch": 5}, "larger than the data"),
        ({"reference": "nuts"}, "no reference"),
        ({"device": "tpu"}, "no such device"),
        ({"resume": True}, "nothing to go on with"),
    ],
)
def test_options_that_do_not_fit(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        advae.infer(lambda a, **more: -(a**2), {"a": ()}, quiet=True, **given)
