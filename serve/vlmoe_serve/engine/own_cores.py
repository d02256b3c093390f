"""Ranks of a host keep off each other's cores, as long as nobody else is on them.

    cores of the host --shares_of_cores--> a share for each rank --keep_apart--> Cores, around every batch
    time that a batch ran and waited for a core --Crowding--> keep to the share, or run anywhere for a while

Ranks wait for each other several times in every mixture. Linux likes to wake a process on the core of who wakes it
when the one that it slept on has anything else to do by then, however unimportant; two ranks then share one core for
many milliseconds, and all others wait for them. So every rank gets its share of all cores, not of as many as it has
threads: inside of it Linux is free, and another server's ranks on the same host find room there too. Whoever may not
leave its core starves beside a neighbour that is more important, so a rank that has to wait for its own cores leaves
them for a while, and longer every time.
"""

import itertools
import os
import time
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from pathlib import Path

from vlmoe_serve.engine.base import EngineOptions
from vlmoe_serve.engine.threads import lent_threads

_TOPOLOGY = Path("/sys/devices/system/cpu")
# nanoseconds that a thread ran, and that it could have run and had no core
_TIMES = Path("/proc/thread-self/schedstat")
# a share is crowded where a rank waited for a core this much of the time that it ran
_CROWDED = 0.5
# of running and waiting, before that is judged
_JUDGED_S = 0.1
_FIRST_S = 1.0
_LONGEST_S = 60.0


class Crowding:
    """Whether to keep to one's own cores: pure, with the time as an argument."""

    def __init__(self) -> None:
        self.is_apart = True
        self._ran_s = self._waited_s = 0.0
        self._pause_s = _FIRST_S
        self._until_s = 0.0

    def saw(self, ran_s: float, waited_s: float, now_s: float) -> bool:
        """A batch has run; whether the next one keeps to its own cores."""
        if not self.is_apart:
            self.is_apart = now_s >= self._until_s
            return self.is_apart
        self._ran_s += ran_s
        self._waited_s += waited_s
        if self._ran_s + self._waited_s < _JUDGED_S:
            return True
        if self._waited_s > _CROWDED * self._ran_s:
            self.is_apart = False
            self._until_s = now_s + self._pause_s
            self._pause_s = min(2 * self._pause_s, _LONGEST_S)
        else:
            self._pause_s = max(self._pause_s / 2, _FIRST_S)
        self._ran_s = self._waited_s = 0.0
        return self.is_apart


class Cores:
    """Of one rank. host: all that it may run on. own: its share; the same where it has none. Used by one thread."""

    def __init__(self, host: Set[int], own: Set[int]) -> None:
        self.host, self.own = frozenset(host), frozenset(own)
        self._crowding = Crowding()
        self._mine = _threads() if own != host else set()
        self._stay(self.own)

    @contextmanager
    def batch(self, lent: int = 0) -> Iterator[None]:
        """Around a batch. lent: threads to compute with, on the cores that they are from; 0 for one's own."""
        if self.own == self.host:
            with lent_threads(lent):
                yield
            return
        ran_s, waited_s = _times()
        was_apart = self._crowding.is_apart
        with lent_threads(lent):
            if lent and os.sched_getaffinity(0) == self.own:
                # the borrowed threads began where this one is, in an earlier batch
                for thread in _threads() - self._mine:
                    _stay(thread, self.host - self.own)
            yield
        ran_now_s, waited_now_s = _times()
        is_apart = self._crowding.saw(ran_now_s - ran_s, waited_now_s - waited_s, time.monotonic())
        if is_apart != was_apart:
            self._stay(self.own if is_apart else self.host)

    def _stay(self, cores: Set[int]) -> None:
        """All threads that there are; later ones begin where their makers are."""
        if self.own != self.host:
            for thread in _threads():
                _stay(thread, cores)


def keep_apart(rank: int, num_ranks: int, threads: int, topology: Path = _TOPOLOGY) -> Cores:
    """Have this process keep to its share of the cores, where there are enough for all ranks; elsewhere it stays free.

    Args:
        rank: on this host.
        num_ranks: on this host.
        threads: of a rank.
        topology: where Linux says which cores are neighbours.
    """
    host = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()
    if num_ranks == 1 or len(host) < num_ranks * threads or not _TIMES.exists():
        return Cores(host, host)
    cores = sorted(host, key=lambda core: _place(core, topology))
    return Cores(host, shares_of_cores(cores, num_ranks)[rank])


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


def _threads() -> set[int]:
    return {int(thread) for thread in os.listdir("/proc/self/task")}


def _times() -> tuple[float, float]:
    """Seconds that this thread ran, and that it waited for a core."""
    ran, waited, *_ = _TIMES.read_text().split()
    return int(ran) / 1e9, int(waited) / 1e9


def _place(core: int, topology: Path) -> tuple[int, int, int]:
    """Socket, core of the socket, thread of the core: by these neighbours share caches, and memory that is near."""
    found = []
    for name in ("physical_package_id", "core_id"):
        try:
            found.append(int((topology / f"cpu{core}" / "topology" / name).read_text()))
        except (OSError, ValueError):
            found.append(0)
    return found[0], found[1], core
