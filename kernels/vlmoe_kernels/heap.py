"""Keep the memory of tensors that are gone, for those of the next batch.

The C library hands large blocks back to the system when they are freed. A forward pass asks for the same blocks again a
moment later, and every page of theirs is zeroed and mapped anew: with batches of some thousand tokens, a fifth of the
time. This is a setting of the process, so it is for programs to make, at their start.
"""

import ctypes

# of glibc's malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
# the largest that glibc takes: blocks beyond it are the system's in any case
_LARGEST_KEPT = 32 << 20
# free memory at the end of the heap that stays with the process
_MOST_KEPT = 512 << 20


def give_back_freed_memory() -> None:
    """Hand to the system what is free now, all the same: for when much was let go that will not be asked for again."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))


def keep_freed_memory() -> bool:
    """Whether the C library can be told (glibc can), and was."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_M_MMAP_THRESHOLD, _LARGEST_KEPT), (_M_TRIM_THRESHOLD, _MOST_KEPT))
    return all(mallopt(name, value) == 1 for name, value in settings)
