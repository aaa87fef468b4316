"""Memory that is freed within a step is there for the next without new pages."""

import platform
import resource

import pytest
import torch

from advae.training.memory import freed_memory_kept

MIB = 2**20


def faults(rounds: int, size: int) -> int:
    """Page faults of filling and freeing a block of ``size`` bytes again and again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.zeros(size // 4).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's heap can be told")
def test_a_block_is_paged_in_once_and_not_every_round():
    size, rounds = 64 * MIB, 10  # above 32 MiB every block is a mapping of its own unless the heap is told
    pages = size // resource.getpagesize()
    with freed_memory_kept():
        faults(rounds, size)  # until the heap has found its size
        assert faults(rounds, size) < pages  # not even once
    # Outside every round faults again, be it in huge pages of 2 MiB.
    assert faults(rounds, size) > rounds * size // (2 * MIB) / 2
