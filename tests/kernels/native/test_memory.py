import ctypes
import gc
import weakref

import pytest

from vlmoe_kernels.native.memory import HUGE_PAGE, Memory


@pytest.mark.parametrize("num_bytes", [0, 1, 4097, HUGE_PAGE, 3 * HUGE_PAGE + 5])
def test_it_is_zeroed_aligned_and_whole(num_bytes: int) -> None:
    memory = Memory(num_bytes)
    assert memory.num_bytes == num_bytes
    assert memory.address % (HUGE_PAGE if num_bytes >= HUGE_PAGE else 64) == 0
    assert ctypes.string_at(memory.address, num_bytes) == bytes(num_bytes)
    # the last byte is ours to write
    if num_bytes:
        ctypes.memset(memory.address + num_bytes - 1, 7, 1)
        assert ctypes.string_at(memory.address + num_bytes - 1, 1) == b"\7"


def test_it_goes_with_its_owner() -> None:
    memory = Memory(HUGE_PAGE)
    mapped = weakref.ref(memory._map)
    del memory
    gc.collect()
    assert mapped() is None
