"""CPU ranks that need all the cores between them stay each on its own.

Ranks wait for each other asleep, several times a layer. Linux likes to wake a process on the core of who wakes it, if
the one that it slept on has anything else to do by then, however unimportant; two ranks then share one core for
milliseconds. Where ranks leave cores over, or share them by quota, the system's choice is the better one.
"""

import os
from collections.abc import Collection

from vlmoe_model.precision import choose_device
from vlmoe_serve.engine.base import EngineOptions


def own_cores(rank: int, num_ranks: int, threads: int, cores: Collection[int]) -> set[int] | None:
    """Which of the cores a rank is to run on; None for any.

    Args:
        rank: among those of this host.
        num_ranks: of this host.
        threads: of each.
        cores: that there are for all.
    """
    if num_ranks == 1 or num_ranks * threads != len(cores):
        return None
    return set(sorted(cores)[rank * threads : (rank + 1) * threads])


def stay_on_own_cores(rank: int, options: EngineOptions) -> None:
    """For the calling thread, and all that it starts from now on; before it loads. rank: of the whole group."""
    if not hasattr(os, "sched_setaffinity") or choose_device(options.device) != "cpu":
        return
    here = rank % options.local_ranks
    cores = own_cores(here, options.local_ranks, options.threads, os.sched_getaffinity(0))
    if cores is not None:
        os.sched_setaffinity(0, cores)
