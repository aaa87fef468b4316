"""Parameters and their bijections: shapes, labels, and Jacobians against automatic differentiation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.distributions import constraints

import advae
from advae.errors import ConfigError
from advae.inference.parameters import ParameterSpace

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
def test_jacobians_match_automatic_differentiation(name: str, double: None) -> None:
    space = ParameterSpace({name: SPECS[name]})
    z = torch.randn(space.dim)
    values, log_det = space.constrain(z.unsqueeze(0))
    assert values[name].shape == (1, *space.parameters[0].shape)
    assert bool(space.parameters[0].constraint.check(values[name]).all())
    jacobian = torch.autograd.functional.jacobian(
        lambda z: space.constrain(z.unsqueeze(0))[0][name].flatten(), z
    )
    # A simplex and a correlation matrix have more components than degrees of freedom. torch's densities on them are
    # with respect to all but the last component of a simplex, and to the strict lower triangle of a Cholesky factor.
    if name == "simplex":
        jacobian = jacobian[:-1]
    if name == "correlation":
        jacobian = jacobian[[3, 6, 7]]
    torch.testing.assert_close(log_det[0], torch.linalg.slogdet(jacobian).logabsdet, atol=1e-9, rtol=1e-9)


def test_unconstrain_inverts_constrain() -> None:
    space = ParameterSpace(SPECS)
    z = torch.randn(5, space.dim)
    torch.testing.assert_close(space.unconstrain(space.constrain(z)[0]), z, atol=2e-4, rtol=1e-3)


def test_labels_follow_the_order_of_components() -> None:
    space = ParameterSpace({"a": (), "b": (2,), "c": (constraints.positive, (2, 2))})
    assert space.labels() == ["a", "b[0]", "b[1]", "c[0,0]", "c[0,1]", "c[1,0]", "c[1,1]"]
    assert space.coordinate_names() == ["a", "b", "b", "c", "c", "c", "c"]
    values = space.constrain(torch.randn(3, 4, space.dim))[0]
    flat = space.flatten(values)
    assert flat.shape == (3, 4, 7)
    torch.testing.assert_close(flat[..., 5], values["c"][..., 1, 0])


@pytest.mark.parametrize(
    ("parameters", "key_word"),
    [
        ({}, "parameters"),
        ({"a b": ()}, "identifier"),
        ({"a": "real"}, "'a'"),
        ({"a": (0,)}, "'a'"),
        ({"a": constraints.boolean}, "bijection"),
        ({"a": constraints.nonnegative_integer}, "bijection"),
        ({"a": (constraints.positive_definite, (2, 2))}, "bijection"),
        ({"a": constraints.simplex}, "'a'"),
        ({"a": (constraints.simplex, (1,))}, "'a'"),
    ],
)
def test_invalid_parameters(parameters: Any, key_word: str) -> None:
    with pytest.raises(ConfigError, match=key_word):
        ParameterSpace(parameters)
