"""The C library's heap while training: what a step frees, the next step needs again.

glibc gives large blocks back to the system as soon as they are freed, and the next step gets them as new pages, each
of which costs a fault. On the CPU that is most of the time of operations that only move memory: with adaptive contrast
on MNIST (``avb-ac-mnist-fc32``, bf16) a step takes 25 ms so, and 18 ms where the heap keeps its blocks.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

# mallopt's parameters, from malloc.h, with what they are unless set
TRIM_THRESHOLD, DEFAULT_TRIM = -1, 128 * 1024  # bytes free at the heap's end from which they are given back
MMAP_MAX, DEFAULT_MMAPS = -4, 65536  # how many blocks may be mappings of their own
LARGEST = 2**31 - 1


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let the heap keep what is freed within, and give it back at the end. Does nothing without glibc."""
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(TRIM_THRESHOLD, LARGEST)
    libc.mallopt(MMAP_MAX, 0)
    try:
        yield
    finally:
        libc.mallopt(MMAP_MAX, DEFAULT_MMAPS)
        libc.mallopt(TRIM_THRESHOLD, DEFAULT_TRIM)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None)
        return libc if all(hasattr(libc, name) for name in ("mallopt", "malloc_trim")) else None
    except (OSError, TypeError):
        return None
