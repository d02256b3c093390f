"""Ranks of a host keep off each other's cores.

    cores of the host --shares_of_cores--> a share for each rank --keep_apart--> Cores, which a rank keeps

Ranks wait for each other several times in every mixture. Linux likes to wake a process on the core of who wakes it
when the one that it slept on has anything else to do by then, however unimportant; two ranks then share one core for
many milliseconds, and all others wait for them. So every rank gets its share of all cores, not of as many as it has
threads: inside of it Linux is free, and another server's ranks on the same host find room there too.
"""

import itertools
import os
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from vlmoe_serve.engine.base import EngineOptions
from vlmoe_serve.engine.threads import lent_threads

_TOPOLOGY = Path("/sys/devices/system/cpu")


@dataclass(frozen=True, slots=True)
class Cores:
    """host: what this rank may run on while it computes with others' threads. own: what it keeps to otherwise."""

    host: frozenset[int]
    own: frozenset[int]

    @contextmanager
    def lent(self, num: int) -> Iterator[None]:
        """Compute with so many threads meanwhile, on the cores that they are from; 0 for as many as ever."""
        with lent_threads(num):
            if not num or self.own == self.host:
                yield
                return
            before = os.sched_getaffinity(0)
            # this thread; those that it starts are where it is
            _stay(0, self.host)
            try:
                yield
            finally:
                _stay(0, before)


def keep_apart(rank: int, num_ranks: int, threads: int, topology: Path = _TOPOLOGY) -> Cores:
    """Have this process keep to its share of the cores, where there are enough for all ranks; elsewhere it stays free.

    Args:
        rank: on this host.
        num_ranks: on this host.
        threads: of a rank.
        topology: where Linux says which cores are neighbours.
    """
    if not hasattr(os, "sched_setaffinity"):
        return Cores(frozenset(), frozenset())
    host = frozenset(os.sched_getaffinity(0))
    if num_ranks == 1 or len(host) < num_ranks * threads:
        return Cores(host, host)
    own = shares_of_cores(sorted(host, key=lambda core: _place(core, topology)), num_ranks)[rank]
    # all threads that there are; later ones begin where their makers are
    for thread in os.listdir("/proc/self/task"):
        _stay(int(thread), own)
    return Cores(host, own)


def cores_of(options: EngineOptions, rank: int, device: str) -> Cores:
    """As `keep_apart`, of a rank of all hosts; on a GPU cores matter little, and ranks stay free."""
    num_ranks = options.local_ranks if device == "cpu" else 1
    return keep_apart(rank % num_ranks, num_ranks, options.threads)


def shares_of_cores(cores: Sequence[int], num_ranks: int) -> list[frozenset[int]]:
    """Neighbours for each rank, as many as there are for all alike; the first ones get what is left over."""
    each, more = divmod(len(cores), num_ranks)
    ends = [0]
    for rank in range(num_ranks):
        ends.append(ends[-1] + each + (rank < more))
    return [frozenset(cores[first:last]) for first, last in itertools.pairwise(ends)]


def _stay(thread: int, cores: Set[int]) -> None:
    """Where this is forbidden, or the thread has just ended, nothing is lost but time."""
    with suppress(OSError):
        os.sched_setaffinity(thread, cores)


def _place(core: int, topology: Path) -> tuple[int, int, int]:
    """Socket, core of the socket, thread of the core: by these neighbours share caches, and memory that is near."""
    found = []
    for name in ("physical_package_id", "core_id"):
        try:
            found.append(int((topology / f"cpu{core}" / "topology" / name).read_text()))
        except (OSError, ValueError):
            found.append(0)
    return found[0], found[1], core
