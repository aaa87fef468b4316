"""The parameters of a log joint density, and the unconstrained vector z that stands for all of them.

    θ = f(z)                              constrained values, by name; f a bijection of each parameter
    log p(z) = log p(θ) + log |det ∂f/∂z|

Constraints and their bijections are those of ``torch.distributions``: ``biject_to(constraint)``.

>>> space = Space({"mu": (), "tau": constraints.positive, "eta": (8,), "w": (constraints.simplex, (3,))})
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

EXPECTED = "a shape such as () or (8,), a constraint such as advae.positive, or both: (advae.positive, (8,))"


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes:
        name: the keyword that the log joint takes it by.
        shape: of one value.
        constraint: where its values lie.
        transform: from unconstrained numbers to there.
        free_shape: of its unconstrained numbers.
    """

    name: str
    shape: Size
    constraint: Constraint
    transform: Transform
    free_shape: Size

    @property
    def free(self) -> int:
        """How many unconstrained numbers stand for one value."""
        return self.free_shape.numel()

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Values ``[*S, *shape]`` of ``z [*S, free]``, and ``log |det|`` ``[*S]``."""
        batch = z.shape[:-1]
        free = z.reshape(*batch, *self.free_shape)
        value = self.transform(free)
        log_det = self.transform.log_abs_det_jacobian(free, value)
        log_det = log_det.expand(*batch, *log_det.shape[len(batch) :])
        return value, log_det.reshape(*batch, -1).sum(-1)

    def inverse(self, value: Tensor) -> Tensor:
        """``z [*S, free]`` of values ``[*S, *shape]``."""
        batch = value.shape[: value.dim() - len(self.shape)]
        return self.transform.inv(value).reshape(*batch, self.free)

    def labels(self) -> list[str]:
        """A name for each number of a value: ``eta[0]``, ``eta[1]``, …"""
        if not self.shape:
            return [self.name]
        places = torch.cartesian_prod(*(torch.arange(n) for n in self.shape)).reshape(-1, len(self.shape))
        return [f"{self.name}[{','.join(str(int(i)) for i in place)}]" for place in places]


class Space:
    """All parameters together, in the order they were given.

    Args:
        parameters: by name a shape, a constraint, or a constraint and a shape.

    Raises:
        ConfigError: none are given, a name cannot be a keyword, or a constraint has no bijection.
    """

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        if not isinstance(parameters, Mapping) or not parameters:
            raise ConfigError(
                "a posterior needs parameters",
                given=repr(parameters),
                expected='a mapping such as {"mu": (), "tau": advae.positive, "eta": (8,)}',
            )
        self.parameters = [_parameter(name, spec) for name, spec in parameters.items()]

    @property
    def names(self) -> list[str]:
        """Names, in their order."""
        return [parameter.name for parameter in self.parameters]

    @property
    def dim(self) -> int:
        """Length of the unconstrained vector, ``d``."""
        return sum(parameter.free for parameter in self.parameters)

    def constrained(self, z: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Values by name of ``z [*S, d]``, each ``[*S, *shape]``, and ``log |det ∂θ/∂z|`` ``[*S]``."""
        parts = z.split([parameter.free for parameter in self.parameters], dim=-1)
        values, log_det = {}, z.new_zeros(z.shape[:-1])
        for parameter, part in zip(self.parameters, parts, strict=True):
            values[parameter.name], change = parameter(part)
            log_det = log_det + change
        return values, log_det

    def unconstrained(self, values: Mapping[str, Tensor]) -> Tensor:
        """``z [*S, d]`` of values by name."""
        return torch.cat([parameter.inverse(values[parameter.name]) for parameter in self.parameters], -1)

    def owners(self) -> list[str]:
        """For each coordinate of z, the name of its parameter."""
        return [parameter.name for parameter in self.parameters for _ in range(parameter.free)]

    def labels(self) -> list[str]:
        """A name for each number of all values, flattened in their order."""
        return [label for parameter in self.parameters for label in parameter.labels()]

    def flat(self, values: Mapping[str, Tensor]) -> Tensor:
        """Constrained values as vectors ``[*S, n]``, in the order of :meth:`labels`."""
        batch = values[self.names[0]].dim() - len(self.parameters[0].shape)
        return torch.cat(
            [
                values[name].flatten(batch) if values[name].dim() > batch else values[name].unsqueeze(-1)
                for name in self.names
            ],
            -1,
        )

    def describe(self) -> dict[str, Any]:
        """As JSON values."""
        return {p.name: {"shape": list(p.shape), "constraint": str(p.constraint)} for p in self.parameters}


def _parameter(name: Any, spec: Any) -> Parameter:
    if not isinstance(name, str) or not name.isidentifier():
        raise ConfigError("a parameter is named by a Python identifier", given=repr(name))
    constraint, shape = _read(name, spec)
    try:
        transform = biject_to(constraint)
        free_shape = Size(transform.inverse_shape(shape))
        trial = torch.zeros(2, *free_shape)
        value = transform(trial)
        transform.log_abs_det_jacobian(trial, value)
    except (NotImplementedError, ValueError, RuntimeError, IndexError) as error:
        raise ConfigError(
            f"the parameter {name!r} has a constraint without a bijection to the real numbers",
            given=f"{constraint} of shape {tuple(shape)}: {error}",
            expected="a constraint that torch.distributions.biject_to knows, of a shape that it can have",
            remedy="positive, unit_interval, interval(a, b), greater_than(a), simplex and corr_cholesky are such;"
            " discrete parameters must be summed out",
        ) from None
    if tuple(value.shape[1:]) != tuple(shape) or not free_shape.numel():
        raise ConfigError(
            f"the parameter {name!r} cannot have this shape",
            given=f"{tuple(shape)} under {constraint}",
            expected=f"{tuple(value.shape[1:])}" if free_shape.numel() else "a value that is free to vary",
        )
    return Parameter(name, Size(shape), constraint, transform, free_shape)


def _read(name: str, spec: Any) -> tuple[Constraint, Size]:
    if isinstance(spec, Constraint):
        return spec, Size()
    if isinstance(spec, int) and not isinstance(spec, bool) and spec > 0:
        return constraints.real, Size([spec])
    if isinstance(spec, tuple | list):
        if len(spec) == 2 and isinstance(spec[0], Constraint):
            return spec[0], _read(name, spec[1])[1]
        if all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in spec):
            return constraints.real, Size(spec)
    raise ConfigError(
        f"the parameter {name!r} is described by something unknown", given=repr(spec), expected=EXPECTED
    )
