"""Target density: a log joint density as a function of unconstrained parameters.

    log p(z) = log p(data, θ(z)) + log |det ∂θ/∂z|                      [S]

With ``data``, the log joint also receives rows of it, by name, and ``scale``: the factor by which a sum over these rows
must be multiplied to estimate the sum over all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from advae.errors import AdvaeError, ConfigError
from advae.inference.parameters import ParameterSpace
from advae.random import mix_seeds, seeded

LogJoint = Callable[..., Tensor]

NUM_TRIAL_SAMPLES = 7  # at which a log joint is tried: a prime, so that no broadcast goes unnoticed
TRIAL_SD = 0.5  # of these samples, in unconstrained coordinates
BATCHING_TOLERANCE = {
    torch.float32: 1e-3,
    torch.float64: 1e-8,
}  # relative: rounding depends on the batch size
RETURN_VALUE = "a tensor [S]: one log density for each of S samples"


class Target:
    """``log p(z)`` up to its unknown normalizer, the evidence, for z of this dtype and device.

    ``minibatch_size`` is the number of rows that :meth:`estimate` uses; 0 for all.
    """

    def __init__(
        self,
        log_joint: LogJoint,
        space: ParameterSpace,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        data: Mapping[str, Tensor] | None = None,
        minibatch_size: int = 0,
    ) -> None:
        if not callable(log_joint):
            raise ConfigError("The log joint is not a function.", given=repr(log_joint))
        self.log_joint, self.space, self.dtype, self.device = log_joint, space, dtype, torch.device(device)
        self.data = {name: torch.as_tensor(value).to(self.device) for name, value in (data or {}).items()}
        self.num_rows, self.minibatch_size = _count_rows(self.data, minibatch_size, space), minibatch_size
        self.validate_args = False  # of distributions in the log joint

    def __call__(self, z: Tensor) -> Tensor:
        """Return ``log p(z) [S]`` for ``z [S, d]``, from all data."""
        return self._log_prob(z, self.all_data())

    def estimate(self, z: Tensor) -> Tensor:
        """Return ``log p(z) [S]`` from one random minibatch, unbiased if the log joint uses ``scale``."""
        if not self.minibatch_size:
            return self(z)
        indices = torch.randint(self.num_rows, (self.minibatch_size,), device=self.device)
        rows = {name: value[indices] for name, value in self.data.items()}
        return self._log_prob(z, {**rows, "scale": self.num_rows / self.minibatch_size})

    def all_data(self) -> dict[str, Any]:
        """Return the keyword arguments for the data, besides the parameters."""
        return {**self.data, "scale": 1.0} if self.data else {}

    def _log_prob(self, z: Tensor, data: Mapping[str, Any]) -> Tensor:
        values, log_det = self.space.constrain(z)
        with distribution_validation(self.validate_args):
            log_p = self.log_joint(**values, **data)
        if not isinstance(log_p, Tensor) or log_p.shape != z.shape[:1]:
            given = f"shape {tuple(log_p.shape)}" if isinstance(log_p, Tensor) else type(log_p).__name__
            raise ConfigError(
                "The log joint returned a wrong shape.",
                given=f"{given} for S = {len(z)} samples",
                expected=RETURN_VALUE,
                fix="sum over every axis but the first: parameters arrive as [S, *shape]",
            )
        return log_p.to(self.dtype) + log_det


def _count_rows(data: Mapping[str, Tensor], minibatch_size: int, space: ParameterSpace) -> int:
    if not data:
        if minibatch_size:
            raise ConfigError(
                "A minibatch needs data.",
                given=f"minibatch_size = {minibatch_size}",
                fix='pass data={"x": x, "y": y}; the log joint then receives rows of x and y, and scale',
            )
        return 0
    counts = {name: (len(value) if value.dim() else 0) for name, value in data.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise ConfigError("The data tensors have different numbers of rows.", given=counts)
    for name in (*data, "scale"):
        if name in space.names:
            raise ConfigError(f"{name!r} names both a parameter and data.", fix="rename one of them")
    num_rows = next(iter(counts.values()))
    if minibatch_size > num_rows:
        raise ConfigError(
            "The minibatch is larger than the data.",
            given=f"minibatch_size = {minibatch_size}",
            expected=f"at most {num_rows}",
        )
    return num_rows


@contextmanager
def distribution_validation(enabled: bool) -> Iterator[None]:
    """Set whether ``torch.distributions`` validates arguments in this block.

    Arguments are validated when the log joint is tried. Later a chain may visit a place where a scale is rounded to
    zero: the density is zero there, which is not an error.
    """
    before = torch.distributions.Distribution._validate_args
    try:
        torch.distributions.Distribution.set_default_validate_args(enabled and before)
        yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(before)


def check_target(target: Target, seed: int = 0) -> None:
    """Evaluate the log joint at a few samples before anything is trained.

    Raises:
        ConfigError: it fails, has the wrong shape, is not finite or constant, has no gradient, or is not batched.
    """
    shape = NUM_TRIAL_SAMPLES, target.space.dim
    with seeded(seed, target.device):
        z = TRIAL_SD * torch.randn(shape, dtype=target.dtype, device=target.device)
    z.requires_grad_()
    log_p = _evaluate(target, z, seed)
    if not bool(log_p.isfinite().all()):
        row = int((~log_p.isfinite()).nonzero()[0])
        raise ConfigError(
            f"The log joint is {float(log_p[row])}.",
            given=describe_sample(target, z, row),
            expected="finite numbers for all values that the constraints allow",
            fix="declare the set of allowed values as a constraint, and compute in log space",
        )
    if not log_p.requires_grad:
        raise _no_gradient_error(target.space.names)
    (grad,) = torch.autograd.grad(log_p.sum(), z, allow_unused=True)
    _check_depends_on_parameters(target, z, log_p.detach(), seed)
    if grad is None or not bool(grad.isfinite().all()):
        row = 0 if grad is None else int((~grad.isfinite()).any(1).nonzero()[0])
        raise ConfigError(
            "The gradient of the log joint is not finite.",
            given=describe_sample(target, z, row),
            fix="look for square roots and logarithms at 0, and for torch.where over such terms",
        )
    _check_batched(target, z.detach(), log_p.detach(), seed)


def _evaluate(target: Target, z: Tensor, seed: int) -> Tensor:
    target.validate_args = True
    try:
        with seeded(mix_seeds(seed, 1), target.device):
            return target(z)
    except AdvaeError:
        raise
    except Exception as error:
        arguments = ", ".join(f"{name}=…" for name in (*target.space.names, *target.all_data()))
        raise ConfigError(
            "The log joint raised an error.",
            given=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}",
            expected=f"log_joint({arguments}) returns {RETURN_VALUE}",
            fix="advae infer --debug shows the traceback; parameters arrive as [S, *shape]",
        ) from error
    finally:
        target.validate_args = False


def describe_sample(target: Target, z: Tensor, row: int) -> str:
    """Return the parameters at one row of ``z [S, d]``, for error messages."""
    values = target.space.constrain(z.detach()[row : row + 1])[0]
    texts = [f"{n} = {[round(float(v), 4) for v in x.flatten()[:4]]}" for n, x in values.items()]
    return "at " + ", ".join(texts[:6])


def _no_gradient_error(names: list[str]) -> ConfigError:
    return ConfigError(
        f"The log joint has no gradient with respect to {', '.join(map(repr, names))}.",
        expected="torch operations on the parameters throughout",
        fix="look for .detach(), .item(), numpy, or tensors that are created from numbers",
    )


def _check_depends_on_parameters(target: Target, z: Tensor, log_p_z: Tensor, seed: int) -> None:
    """Check values and gradients of the log joint itself, without the Jacobian's contribution."""
    log_p = log_p_z - target.space.constrain(z.detach())[1]
    if bool((log_p - log_p[0]).abs().max() <= 0):
        raise ConfigError(
            "The log joint is constant.",
            given=f"{float(log_p[0]):.6g} at every sample",
            expected="a density of the parameters: prior and likelihood",
        )
    values = {n: v.detach().requires_grad_() for n, v in target.space.constrain(z)[0].items()}
    with seeded(mix_seeds(seed, 1), target.device):
        value = target.log_joint(**values, **target.all_data())
    grads: tuple[Tensor | None, ...] = (None,) * len(values)
    if value.requires_grad:
        grads = torch.autograd.grad(value.sum(), list(values.values()), allow_unused=True)
    unused = [n for n, g in zip(values, grads, strict=True) if g is None or not bool((g != 0).any())]
    if unused:
        raise _no_gradient_error(unused)


def _check_batched(target: Target, z: Tensor, log_p: Tensor, seed: int) -> None:
    tolerance = BATCHING_TOLERANCE[target.dtype]
    for row in range(2):
        with seeded(mix_seeds(seed, 1), target.device), torch.no_grad():
            alone = target(z[row : row + 1])[0]
        if not torch.isclose(alone, log_p[row], rtol=tolerance, atol=tolerance):
            raise ConfigError(
                "The log joint is not batched: its value for one sample depends on the other samples.",
                given=f"{float(log_p[row]):.6g} in a batch of {len(z)}, {float(alone):.6g} alone",
                expected=RETURN_VALUE,
                fix="keep the first axis in every operation; random numbers inside must not depend on S",
            )
