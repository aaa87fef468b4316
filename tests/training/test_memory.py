"""Memory that is freed within a step is kept for the next: by the account that glibc gives of its own heap."""

import json
import platform
import subprocess
import sys
from typing import Any

import pytest

MIB = 2**20
SIZE = 64 * MIB  # above 32 MiB every block is a mapping of its own unless the heap is told

# In a process of its own: what another test left free in the heap would serve for the blocks here.
PROGRAM = f"""
import ctypes, json
from advae.training.memory import freed_memory_kept

class Mallinfo(ctypes.Structure):  # in bytes but for a few counts of blocks
    _fields_ = [(name, ctypes.c_size_t) for name in (
        *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
        *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
    )]

heap = ctypes.CDLL(None)
heap.mallinfo2.restype = Mallinfo
heap.malloc.argtypes, heap.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
heap.free.argtypes = [ctypes.c_void_p]

def block():  # what mappings of their own grow by while a block is held, and the heap's free memory once it is freed
    before = heap.mallinfo2()
    place = heap.malloc({SIZE})
    held = heap.mallinfo2()
    heap.free(place)
    return held.hblkhd - before.hblkhd, heap.mallinfo2().fordblks - held.fordblks

with freed_memory_kept():
    mapped, kept = block()
left = heap.mallinfo2().keepcost
print(json.dumps(dict(mapped=mapped, kept=kept, left=left, after=block())))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    if platform.libc_ver()[0] != "glibc" or tuple(map(int, platform.libc_ver()[1].split("."))) < (2, 33):
        pytest.skip("only glibc's heap can be told, and only from 2.33 on does it say how large it is")
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def test_a_freed_block_stays_in_the_heap_while_asked_for(found: dict[str, Any]) -> None:
    assert found["mapped"] == 0
    assert found["kept"] >= SIZE


def test_afterwards_all_is_given_back(found: dict[str, Any]) -> None:
    assert found["left"] < SIZE
    mapped, kept = found["after"]
    assert mapped >= SIZE
    assert kept < SIZE
