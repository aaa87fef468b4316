"""Parameters and their bijections: shapes, names, and Jacobians against automatic differentiation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.distributions import constraints

import advae
from advae.errors import ConfigError
from advae.inference.parameters import Space

SPECS: dict[str, Any] = {
    "real": (),
    "vector": (3,),
    "number": 2,
    "positive": advae.positive,
    "matrix": (constraints.positive, (2, 2)),
    "unit": advae.unit_interval,
    "interval": (constraints.interval(-1, 4), (2,)),
    "above": constraints.greater_than(3.0),
    "simplex": (constraints.simplex, (4,)),
    "correlation": (constraints.corr_cholesky, (3, 3)),
}


@pytest.mark.parametrize("name", SPECS)
def test_the_jacobian_is_that_of_automatic_differentiation(name: str, double: None) -> None:
    space = Space({name: SPECS[name]})
    z = torch.randn(space.dim)
    values, log_det = space.constrained(z.unsqueeze(0))
    assert values[name].shape == (1, *space.parameters[0].shape)
    assert bool(space.parameters[0].constraint.check(values[name]).all())
    whole = torch.autograd.functional.jacobian(
        lambda z: space.constrained(z.unsqueeze(0))[0][name].flatten(), z
    )
    # A simplex and a correlation matrix have more numbers than are free. torch's densities on them are with respect to
    # all but the last number of a simplex, and to what is strictly below the diagonal of a Cholesky factor.
    if name == "simplex":
        whole = whole[:-1]
    if name == "correlation":
        whole = whole[[3, 6, 7]]
    torch.testing.assert_close(log_det[0], torch.linalg.slogdet(whole).logabsdet, atol=1e-9, rtol=1e-9)


def test_there_and_back() -> None:
    space = Space(SPECS)
    z = torch.randn(5, space.dim)
    torch.testing.assert_close(space.unconstrained(space.constrained(z)[0]), z, atol=2e-4, rtol=1e-3)


def test_names_of_numbers_follow_their_order() -> None:
    space = Space({"a": (), "b": (2,), "c": (constraints.positive, (2, 2))})
    assert space.labels() == ["a", "b[0]", "b[1]", "c[0,0]", "c[0,1]", "c[1,0]", "c[1,1]"]
    values = space.constrained(torch.randn(3, 4, space.dim))[0]
    flat = space.flat(values)
    assert flat.shape == (3, 4, 7)
    torch.testing.assert_close(flat[..., 5], values["c"][..., 1, 0])


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, "needs parameters"),
        ({"a b": ()}, "Python identifier"),
        ({"a": "real"}, "something unknown"),
        ({"a": (0,)}, "something unknown"),
        ({"a": constraints.boolean}, "without a bijection"),
        ({"a": constraints.nonnegative_integer}, "without a bijection"),
        ({"a": (constraints.positive_definite, (2, 2))}, "without a bijection"),
        ({"a": constraints.simplex}, "'a'"),
        ({"a": (constraints.simplex, (1,))}, "'a'"),
    ],
)
def test_what_cannot_be_a_parameter(parameters: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Space(parameters)
