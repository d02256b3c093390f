"""How many threads compute: where nobody said all cores, or all but one, and those of idle ranks meanwhile.

The front decodes pictures and speaks HTTP; an engine on every core competes with it for each of them, and every
parallel region of a forward then waits for the thread that lost. The last core is worth it where the network is large.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

# The last core must bring this much: with it the engine is faster alone, but not beside a busy front.
_WORTH = 1.25
_REPEATS = 3
# A batch that takes as long as this keeps a core busy enough for any number of threads, and is not run six times.
_LONG_S = 0.3


@contextmanager
def lent_threads(num: int) -> Iterator[None]:
    """Compute with so many threads meanwhile; 0 for as many as ever."""
    own = torch.get_num_threads()
    torch.set_num_threads(num or own)
    try:
        yield
    finally:
        torch.set_num_threads(own)


def leave_a_core(run: Callable[[], object], threads: int) -> int:
    """Sets, and returns, the number of threads: `threads`, or one less where the last one brings little.

    Args:
        run: a forward such as traffic brings.
        threads: as many as there are cores.
    """
    if threads == 1:
        return 1
    all_s: list[float] = []
    less_s: list[float] = []
    run()
    for _ in range(_REPEATS):
        for num, seconds in ((threads, all_s), (threads - 1, less_s)):
            torch.set_num_threads(num)
            start_s = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start_s)
        if max(all_s) > _LONG_S:
            break
    worth = statistics.median(less_s) >= _WORTH * statistics.median(all_s)
    best = threads if worth else threads - 1
    torch.set_num_threads(best)
    return best
