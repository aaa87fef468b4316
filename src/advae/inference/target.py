"""A user's log joint density as a function of the unconstrained vector z, and what is wrong with it, if anything.

    log p(z) = log p(data, θ(z)) + log |det ∂θ/∂z|                      [S]

With ``data`` the log joint is also given rows of it, by name, and ``scale``: the number by which the sum over the rows
that it is given must be multiplied to stand for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from advae.data import mix
from advae.errors import AdvaeError, ConfigError
from advae.inference.parameters import Space
from advae.model import seeded

LogJoint = Callable[..., Tensor]

TRIALS, SPREAD = (
    7,
    0.5,
)  # draws of z that the log joint is tried at: a prime, so that no broadcast can hide it
SAME = {torch.float32: 1e-3, torch.float64: 1e-8}  # relative: what rounding makes of one draw among others
EXPECTED = "a tensor [S]: one log density for each of S draws"


class Target:
    """``log p(z)`` up to the constant that the evidence is.

    Args:
        log_joint: takes every parameter by name, ``[S, *shape]`` each, to ``log p(data, θ) [S]``.
        space: the parameters.
        dtype, device: of z.
        data: tensors whose first axis are the rows, by name, passed to the log joint with ``scale``.
        rows: how many of them :meth:`estimate` uses; 0 for all.
    """

    def __init__(
        self,
        log_joint: LogJoint,
        space: Space,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        data: Mapping[str, Tensor] | None = None,
        rows: int = 0,
    ) -> None:
        if not callable(log_joint):
            raise ConfigError("log_joint is no function", given=repr(log_joint))
        self.log_joint, self.space, self.dtype, self.device = log_joint, space, dtype, torch.device(device)
        self.data = {name: torch.as_tensor(value).to(self.device) for name, value in (data or {}).items()}
        self.count, self.rows = _rows(self.data, rows, space), rows
        self.strict = False  # whether torch.distributions checks its arguments

    def __call__(self, z: Tensor) -> Tensor:
        """``log p(z) [S]`` of ``z [S, d]``, by all of the data."""
        return self._value(z, {**self.data, "scale": 1.0} if self.data else {})

    def estimate(self, z: Tensor) -> Tensor:
        """``log p(z) [S]`` by a random minibatch of rows, the same for all draws; unbiased if ``scale`` is used."""
        if not self.rows:
            return self(z)
        chosen = torch.randint(self.count, (self.rows,), device=self.device)
        some = {name: value[chosen] for name, value in self.data.items()}
        return self._value(z, {**some, "scale": self.count / self.rows})

    def _value(self, z: Tensor, more: Mapping[str, Any]) -> Tensor:
        values, log_det = self.space.constrained(z)
        with arguments_checked(self.strict):
            log_p = self.log_joint(**values, **more)
        if not isinstance(log_p, Tensor) or log_p.shape != z.shape[:1]:
            given = f"shape {tuple(log_p.shape)}" if isinstance(log_p, Tensor) else type(log_p).__name__
            raise ConfigError(
                "the log joint has the wrong shape",
                given=f"{given} for S = {len(z)} draws",
                expected=EXPECTED,
                remedy="sum over every axis but the first: parameters arrive as [S, *shape]",
            )
        return log_p.to(self.dtype) + log_det


def _rows(data: Mapping[str, Tensor], rows: int, space: Space) -> int:
    """How many rows the data have."""
    if not data:
        if rows:
            raise ConfigError(
                "a minibatch needs data to draw rows from",
                given=f"minibatch = {rows}",
                remedy='pass data={"x": x, "y": y}; the log joint is then given rows of x and y, and scale',
            )
        return 0
    counts = {name: (len(value) if value.dim() else 0) for name, value in data.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise ConfigError("the data have different numbers of rows", given=counts)
    for name in (*data, "scale"):
        if name in space.names:
            raise ConfigError(f"{name!r} is the name of a parameter and of data", remedy="rename one of them")
    count = next(iter(counts.values()))
    if rows > count:
        raise ConfigError("the minibatch is larger than the data", given=rows, expected=f"at most {count}")
    return count


@contextmanager
def arguments_checked(strict: bool) -> Iterator[None]:
    """Whether ``torch.distributions`` checks its arguments within.

    They are checked when the log joint is tried. Afterwards a chain may stray to where a scale is rounded to zero: it
    has no density there, which is no error.
    """
    before = torch.distributions.Distribution._validate_args
    try:
        torch.distributions.Distribution.set_default_validate_args(strict and before)
        yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(before)


# --- what may be wrong --------------------------------------------------------------------------------------


def check(target: Target, seed: int = 0) -> None:
    """Try the log joint at a few draws before anything is trained.

    Raises:
        ConfigError: it raises an error, has the wrong shape, is not finite, is constant, has no gradient, or is not
            batched.
    """
    with seeded(seed, target.device):
        z = SPREAD * torch.randn(TRIALS, target.space.dim, dtype=target.dtype, device=target.device)
    z.requires_grad_()
    value = _tried(target, z, seed)
    _finite(target, z, value)
    if not value.requires_grad:
        raise _no_gradient(target.space.names)
    (grad,) = torch.autograd.grad(value.sum(), z, allow_unused=True)
    log_p = value.detach() - target.space.constrained(z.detach())[1]
    _varies(target, z, log_p, seed)
    if grad is None or not bool(grad.isfinite().all()):
        raise ConfigError(
            "the log joint has a gradient that is not finite",
            given=_at(target, z, 0 if grad is None else int((~grad.isfinite()).any(1).nonzero()[0])),
            remedy="look for square roots and logarithms at 0, and for torch.where over such terms",
        )
    _batched(target, z.detach(), value.detach(), seed)


def _tried(target: Target, z: Tensor, seed: int) -> Tensor:
    target.strict = True
    try:
        with seeded(mix(seed, 1), target.device):
            return target(z)
    except AdvaeError:
        raise
    except Exception as error:
        text = str(error).splitlines() or [""]
        raise ConfigError(
            "the log joint raised an error",
            given=f"{type(error).__name__}: {text[0]}",
            expected=f"log_joint({', '.join(f'{n}=…' for n in _keywords(target))}) returns {EXPECTED}",
            remedy="ADVAE_DEBUG=1 shows where in the command; parameters arrive as [S, *shape]",
        ) from error
    finally:
        target.strict = False


def _keywords(target: Target) -> list[str]:
    return [*target.space.names, *target.data, *(["scale"] if target.data else [])]


def _finite(target: Target, z: Tensor, value: Tensor) -> None:
    bad = (~value.isfinite()).nonzero()
    if len(bad):
        row = int(bad[0])
        raise ConfigError(
            f"the log joint is {float(value[row])}",
            given=_at(target, z, row),
            expected="finite numbers wherever the constraints allow the parameters to be",
            remedy="declare where a parameter may lie by its constraint, and keep to log space",
        )


def _at(target: Target, z: Tensor, row: int) -> str:
    values = target.space.constrained(z.detach()[row : row + 1])[0]
    shown = [f"{n} = {[round(float(v), 4) for v in x.flatten()[:4]]}" for n, x in values.items()]
    return "at " + ", ".join(shown[:6])


def _no_gradient(names: list[str]) -> ConfigError:
    which = ", ".join(map(repr, names))
    return ConfigError(
        f"the log joint has no gradient with respect to {which}",
        expected="torch operations of the parameters, from end to end",
        remedy="look for .detach(), .item(), numpy, or tensors made anew from numbers",
    )


def _varies(target: Target, z: Tensor, log_p: Tensor, seed: int) -> None:
    """See that it depends on every parameter: by its value, and by its gradient without the Jacobian's."""
    values = {n: v.detach().requires_grad_() for n, v in target.space.constrained(z)[0].items()}
    with seeded(mix(seed, 1), target.device):
        more = {**target.data, "scale": 1.0} if target.data else {}
        plain = target.log_joint(**values, **more)
    constant = bool((log_p - log_p[0]).abs().max() <= 0)
    found = (
        torch.autograd.grad(plain.sum(), list(values.values()), allow_unused=True)
        if plain.requires_grad
        else [None] * len(values)
    )
    still = [n for n, g in zip(values, found, strict=True) if g is None or not bool((g != 0).any())]
    if constant:
        raise ConfigError(
            "the log joint is constant",
            given=f"{float(log_p[0]):.6g} at every draw",
            expected="a density of the parameters: prior and likelihood",
        )
    if still:
        raise _no_gradient(still)


def _batched(target: Target, z: Tensor, value: Tensor, seed: int) -> None:
    for row in range(2):
        with seeded(mix(seed, 1), target.device), torch.no_grad():
            alone = target(z[row : row + 1])[0]
        if not torch.isclose(alone, value[row], rtol=SAME[target.dtype], atol=SAME[target.dtype]):
            raise ConfigError(
                "the log joint is not batched: what it says of a draw depends on the other draws",
                given=f"{float(value[row]):.6g} among {len(z)} draws, {float(alone):.6g} alone",
                expected=EXPECTED,
                remedy="let every operation keep the first axis; random numbers inside must not depend on S",
            )
