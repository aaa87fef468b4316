"""Memory that is freed within a step is kept for the next."""

import ctypes
import platform

import pytest
import torch

from advae.training.memory import freed_memory_kept

MIB = 2**20
SIZE = 64 * MIB  # above 32 MiB every block is a mapping of its own unless the heap is told


class Mallinfo(ctypes.Structure):
    """glibc's own account of its heap, in bytes but for the first two counts of blocks (``mallinfo2``)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


@pytest.fixture(scope="module")
def heap():
    if platform.libc_ver()[0] != "glibc" or not hasattr(ctypes.CDLL(None), "mallinfo2"):
        pytest.skip("only glibc's heap can be told, and only from 2.33 on does it say how large it is")
    account = ctypes.CDLL(None).mallinfo2
    account.restype = Mallinfo
    return account


def mapped_while_held(heap) -> int:
    """How many bytes of mappings of their own a block of SIZE takes, until it is freed again."""
    before = heap().hblkhd
    block = torch.empty(SIZE, dtype=torch.uint8)
    return heap().hblkhd - before if block.numel() else 0


def test_a_freed_block_stays_in_the_heap_while_asked_for(heap):
    with freed_memory_kept():
        assert mapped_while_held(heap) == 0
        assert heap().fordblks >= SIZE


def test_afterwards_all_is_given_back(heap):
    with freed_memory_kept():
        mapped_while_held(heap)
    assert heap().keepcost < SIZE
    assert mapped_while_held(heap) >= SIZE
