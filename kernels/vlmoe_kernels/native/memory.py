"""Memory for packed weights, outside torch: aligned, and on huge pages where the system gives them.

Reading weights is what a small batch waits for, and with pages of 4 KiB the processor looks up addresses half the time.
"""

import ctypes
import mmap

HUGE_PAGE = 1 << 21


class Memory:
    """Zeroed bytes that live as long as this object."""

    def __init__(self, num_bytes: int) -> None:
        # huge pages begin at multiples of their size
        spare = HUGE_PAGE if num_bytes >= HUGE_PAGE else 0
        self.num_bytes = num_bytes
        self._map = mmap.mmap(-1, max(num_bytes, 1) + spare, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self.address = start + (-start % HUGE_PAGE if spare else 0)
        if spare:
            self._map.madvise(mmap.MADV_HUGEPAGE)
