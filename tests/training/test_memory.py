"""Memory that is freed within a step is kept for the next."""

import ctypes
import platform

import pytest

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
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = Mallinfo
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    return libc


def a_block(heap) -> tuple[int, int]:
    """Bytes in mappings of their own that a block of SIZE adds, and bytes of the heap that are free once it is."""
    before = heap.mallinfo2()
    block = heap.malloc(SIZE)
    held = heap.mallinfo2()
    heap.free(block)
    return held.hblkhd - before.hblkhd, heap.mallinfo2().fordblks - held.fordblks


def test_a_freed_block_stays_in_the_heap_while_asked_for(heap):
    with freed_memory_kept():
        mapped, kept = a_block(heap)
    assert mapped == 0
    assert kept >= SIZE


def test_afterwards_all_is_given_back(heap):
    with freed_memory_kept():
        a_block(heap)
    assert heap.mallinfo2().keepcost < SIZE
    mapped, kept = a_block(heap)
    assert mapped >= SIZE
    assert kept < SIZE
