"""Parameters of a log joint density and their unconstrained representation z.

    θ = f(z)                              constrained values by name; f has one bijection per parameter
    log p(z) = log p(θ) + log |det ∂f/∂z|

Constraints and bijections are those of ``torch.distributions``: ``biject_to(constraint)``.

>>> space = ParameterSpace({"mu": (), "tau": positive, "eta": (8,), "w": (constraints.simplex, (3,))})
>>> space.dim, space.names
(12, ['mu', 'tau', 'eta', 'w'])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import Transform

from advae.errors import ConfigError

positive = constraints.positive
unit_interval = constraints.unit_interval

SPEC_HELP = "a shape such as () or (8,), a constraint such as advae.positive, or both: (advae.positive, (8,))"


@dataclass(frozen=True)
class Parameter:
    """One parameter: its constraint is the set of its values, its transform maps unconstrained numbers there."""

    name: str
    shape: Size
    constraint: Constraint
    transform: Transform
    unconstrained_shape: Size

    @property
    def unconstrained_dim(self) -> int:
        """Number of unconstrained numbers per value."""
        return self.unconstrained_shape.numel()

    def constrain(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return values ``[*S, *shape]`` for ``z [*S, unconstrained_dim]``, and ``log |det| [*S]``."""
        batch = z.shape[:-1]
        unconstrained = z.reshape(*batch, *self.unconstrained_shape)
        value = self.transform(unconstrained)
        log_det = self.transform.log_abs_det_jacobian(unconstrained, value)
        log_det = log_det.expand(*batch, *log_det.shape[len(batch) :])
        return value, log_det.reshape(*batch, -1).sum(-1)

    def unconstrain(self, value: Tensor) -> Tensor:
        """Return ``z [*S, unconstrained_dim]`` for values ``[*S, *shape]``."""
        batch = value.shape[: value.dim() - len(self.shape)]
        return self.transform.inv(value).reshape(*batch, self.unconstrained_dim)

    def labels(self) -> list[str]:
        """Return a label per component of a value: ``eta[0]``, ``eta[1]``, …"""
        if not self.shape:
            return [self.name]
        indices = torch.cartesian_prod(*(torch.arange(n) for n in self.shape)).reshape(-1, len(self.shape))
        return [f"{self.name}[{','.join(str(int(i)) for i in index)}]" for index in indices]


class ParameterSpace:
    """All parameters, in the given order.

    Args:
        parameters: by name a shape, a constraint, or a constraint and a shape.

    Raises:
        ConfigError: there are none, a name is not an identifier, or a constraint has no bijection.
    """

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        if not isinstance(parameters, Mapping) or not parameters:
            raise ConfigError(
                "A posterior needs parameters.",
                given=repr(parameters),
                expected='a mapping such as {"mu": (), "tau": advae.positive, "eta": (8,)}',
            )
        self.parameters = [_make_parameter(name, spec) for name, spec in parameters.items()]

    @property
    def names(self) -> list[str]:
        return [parameter.name for parameter in self.parameters]

    @property
    def dim(self) -> int:
        """Length of z, ``d``."""
        return sum(parameter.unconstrained_dim for parameter in self.parameters)

    def constrain(self, z: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return values by name for ``z [*S, d]``, each ``[*S, *shape]``, and ``log |det ∂θ/∂z| [*S]``."""
        parts = z.split([parameter.unconstrained_dim for parameter in self.parameters], dim=-1)
        values, log_det = {}, z.new_zeros(z.shape[:-1])
        for parameter, part in zip(self.parameters, parts, strict=True):
            values[parameter.name], part_log_det = parameter.constrain(part)
            log_det = log_det + part_log_det
        return values, log_det

    def unconstrain(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return ``z [*S, d]`` for values by name."""
        return torch.cat([parameter.unconstrain(values[parameter.name]) for parameter in self.parameters], -1)

    def coordinate_names(self) -> list[str]:
        """Return for each coordinate of z the name of its parameter."""
        return [p.name for p in self.parameters for _ in range(p.unconstrained_dim)]

    def labels(self) -> list[str]:
        """Return a label per component of all values, flattened in order."""
        return [label for parameter in self.parameters for label in parameter.labels()]

    def flatten(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return constrained values as vectors ``[*S, n]``, in the order of :meth:`labels`."""
        batch = values[self.names[0]].shape[: values[self.names[0]].dim() - len(self.parameters[0].shape)]
        return torch.cat([values[name].reshape(*batch, -1) for name in self.names], -1)

    def to_dict(self) -> dict[str, Any]:
        """Return a description as JSON values."""
        return {p.name: {"shape": list(p.shape), "constraint": str(p.constraint)} for p in self.parameters}


def _make_parameter(name: Any, spec: Any) -> Parameter:
    if not isinstance(name, str) or not name.isidentifier():
        raise ConfigError("A parameter's name must be a Python identifier.", given=repr(name))
    constraint, shape = _parse_spec(name, spec)
    try:
        transform = biject_to(constraint)
        unconstrained_shape = Size(transform.inverse_shape(shape))
        zeros = torch.zeros(2, *unconstrained_shape)
        value = transform(zeros)
        transform.log_abs_det_jacobian(zeros, value)
    except (NotImplementedError, ValueError, RuntimeError, IndexError) as error:
        raise ConfigError(
            f"Parameter {name!r} has a constraint without a bijection to the real numbers.",
            given=f"{constraint} of shape {tuple(shape)}: {error}",
            expected="a constraint that torch.distributions.biject_to supports, with a shape that fits it",
            fix="use positive, unit_interval, interval(a, b), greater_than(a), simplex or corr_cholesky;"
            " discrete parameters must be summed out",
        ) from None
    if tuple(value.shape[1:]) != tuple(shape) or not unconstrained_shape.numel():
        raise ConfigError(
            f"Parameter {name!r} cannot have this shape.",
            given=f"{tuple(shape)} under {constraint}",
            expected=f"{tuple(value.shape[1:])}" if unconstrained_shape.numel() else "a value that can vary",
        )
    return Parameter(name, Size(shape), constraint, transform, unconstrained_shape)


def _parse_spec(name: str, spec: Any) -> tuple[Constraint, Size]:
    if isinstance(spec, Constraint):
        return spec, Size()
    if isinstance(spec, int) and not isinstance(spec, bool) and spec > 0:
        return constraints.real, Size([spec])
    if isinstance(spec, tuple | list):
        if len(spec) == 2 and isinstance(spec[0], Constraint):
            return spec[0], _parse_spec(name, spec[1])[1]
        if all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in spec):
            return constraints.real, Size(spec)
    raise ConfigError(
        f"Parameter {name!r} has an invalid specification.", given=repr(spec), expected=SPEC_HELP
    )
