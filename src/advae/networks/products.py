"""Matrix products of float32 on a CPU, by whichever of torch's two libraries is the faster there.

torch multiplies float32 matrices by MKL, which uses half the width of the registers on processors that are not Intel's.
oneDNN, which torch has for convolutions and bf16, uses all of it: on an AMD EPYC with AVX-512 it is twice as fast, and
gives the same numbers (docs/speed.md). Where a trial finds it much faster, products of some size go to it: those that
torch makes within :func:`faster_products`, and those of a graph that is recorded with :func:`recorded_products`.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch.library import Library

LARGE = 2_000_000  # multiplications from which on a product is worth the way there
MUCH, SIDE, TRIALS = 1.3, 256, 50  # how much faster it must be, at which size, to the best of so many

aten = torch.ops.aten


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x [B, n]``, ``weight [m, n]`` and ``bias [m]`` to ``[B, m]``, by oneDNN and without a gradient."""
    if not (weight.is_contiguous() or weight.t().is_contiguous()):
        weight = weight.contiguous()  # for rows with anything between them it has only a slow way
    if bias is not None:
        bias = bias.contiguous()  # it reads on from the first number, whatever the stride
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


_own = Library("advae", "DEF")  # as an operation of its own a recorded graph can hold it
_own.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
_own.impl("linear", linear, "CPU")
_own.impl("linear", lambda x, weight, bias: x.new_empty(len(x), len(weight)), "Meta")


@cache
def onednn_gain() -> float:
    """How many times as fast as torch's own way oneDNN is, found by a trial of some milliseconds; 0 without it."""
    a, b = (torch.ones(SIDE, SIDE, dtype=torch.float32, device="cpu") for _ in range(2))
    try:
        with torch.autocast("cpu", enabled=False):
            own, onednn = _best(lambda: torch.mm(a, b), lambda: linear(a, b))
    except (AttributeError, RuntimeError):  # torch was built without it
        return 0.0
    return own / onednn


def onednn_is_faster() -> bool:
    """Whether oneDNN is there and much faster than what torch takes."""
    return onednn_gain() > MUCH


def _best(*ways: Callable[[], object]) -> list[float]:
    """The least seconds that each took, in turns; by one thread, as several wait for each other on a busy machine."""
    found, threads = [float("inf") for _ in ways], torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(TRIALS):
            for i, way in enumerate(ways):
                began = time.perf_counter()
                way()
                found[i] = min(found[i], time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return found


def recorded_products() -> dict[Any, Callable[..., Any]]:
    """What ``make_fx`` is to record for a product, as its table of decompositions."""
    if not onednn_is_faster():
        return {}
    return {aten.mm.default: _product, aten.addmm.default: _sum_and_product}


@contextmanager
def faster_products() -> Iterator[None]:
    """Within, torch's own products of float32 matrices on a CPU take the faster library; then as it was before.

    It holds for the whole process. Nothing changes where MKL is as fast.
    """
    if not onednn_is_faster():
        yield
        return
    _kernels.enter()
    try:
        yield
    finally:
        _kernels.leave()


class _Kernels:
    """torch's kernels for products, replaced while somebody is within."""

    def __init__(self) -> None:
        self.lock, self.within = Lock(), 0
        self.library: Any = None

    def enter(self) -> None:
        with self.lock:
            self.within += 1
            if self.within > 1:
                return
            self.library = Library("aten", "IMPL")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's, that a kernel is replaced: that is what is wanted
                self.library.impl("mm", _mm, "CPU")
                self.library.impl("addmm", _addmm, "CPU")

    def leave(self) -> None:
        with self.lock:
            self.within -= 1
            if not self.within:
                self.library._destroy()
                self.library = None


_kernels = _Kernels()


def _mm(a: Tensor, b: Tensor) -> Any:
    found = _product(a, b)
    return aten.mm.out(a, b, out=_empty(a, b)) if found is NotImplemented else found


def _addmm(c: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Any:
    found = _sum_and_product(c, a, b, beta=beta, alpha=alpha)
    if found is NotImplemented:
        return aten.addmm.out(c, a, b, beta=beta, alpha=alpha, out=_empty(a, b))
    return found


def _product(a: Tensor, b: Tensor) -> Any:
    """``a @ b``; or NotImplemented, where torch's way is as good."""
    return torch.ops.advae.linear(a, b.t(), None) if _suits(a, b) else NotImplemented


def _sum_and_product(c: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """``c + a @ b``, likewise."""
    if beta != 1 or alpha != 1 or c.dtype is not torch.float32 or c.dim() > 2 or not _suits(a, b):
        return NotImplemented
    if c.shape == b.shape[1:]:
        return torch.ops.advae.linear(a, b.t(), c)
    return torch.ops.advae.linear(a, b.t(), None) + c


def _suits(a: Tensor, b: Tensor) -> bool:
    """Whether they are large matrices of float32 on a CPU; what cannot be multiplied is left to torch to refuse."""
    if a.dtype is not torch.float32 or b.dtype is not torch.float32 or a.device.type != "cpu":
        return False
    return a.dim() == b.dim() == 2 and a.shape[1] == len(b) and len(a) * b.numel() >= LARGE


def _empty(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(len(a), b.shape[1])
