"""Seeds and random states.

Every random number comes from a seed that is mixed from the run's seed and what the numbers are for, so that a result
does not depend on the order of the work.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

SPLITMIX_INCREMENT = 0x9E3779B97F4A7C15  # 2⁶⁴ / golden ratio (splitmix64; Steele, Lea and Flood 2014)
SPLITMIX_MULTIPLIERS = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # of splitmix64's output function
_MASK_64_BITS = (1 << 64) - 1


def mix_seeds(*values: int) -> int:
    """Hash several integers into one 63-bit seed by splitmix64; the order of the integers matters.

    >>> mix_seeds(0, 1) == mix_seeds(0, 1), mix_seeds(0, 1) == mix_seeds(1, 0)
    (True, False)
    """
    state = 0
    for value in values:
        state = ((state ^ (value & _MASK_64_BITS)) + SPLITMIX_INCREMENT) & _MASK_64_BITS
        state = ((state ^ (state >> 30)) * SPLITMIX_MULTIPLIERS[0]) & _MASK_64_BITS
        state = ((state ^ (state >> 27)) * SPLITMIX_MULTIPLIERS[1]) & _MASK_64_BITS
        state ^= state >> 31
    return state >> 1


@contextmanager
def preserve_rng_state(device: torch.device | str = "cpu") -> Iterator[None]:
    """Restore the global random state of the CPU, and of ``device``, at the end of the block."""
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextmanager
def seeded(seed: int | None, device: torch.device | str = "cpu") -> Iterator[None]:
    """Run a block from a seed, then restore the global random state; None leaves the random state alone."""
    if seed is None:
        yield
        return
    with preserve_rng_state(device):
        torch.manual_seed(seed)
        yield


def reseed(seed: int, device: torch.device) -> None:
    """Set the global random state of the CPU, and of a GPU if ``device`` is one, without restoring it."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def get_rng_state(device: torch.device) -> Tensor:
    """Return the state of the device's random generator."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def set_rng_state(device: torch.device, state: Tensor) -> None:
    """Restore a state that :func:`get_rng_state` returned."""
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
