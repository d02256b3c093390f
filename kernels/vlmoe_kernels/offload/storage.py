"""All routed experts of a model in one mapped file, under a budget of memory."""

# L = mixtures of a model in the order in which they run, X = experts of one of them

import resource
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vlmoe_kernels.offload.mapped import Mapped, whole_pages
from vlmoe_kernels.offload.residency import Key, Residency
from vlmoe_kernels.ops import GroupedOp
from vlmoe_kernels.plan import RoutePlan

# how many rounds over all mixtures lie between two looks at what to lock
_LOCK_EVERY = 16


@dataclass(frozen=True, slots=True)
class ExpertMemory:
    """What became of the uses of experts. One use: one expert that has rows, in one mixture of one batch.

    budget_bytes, resident_bytes, locked_bytes: now. in_memory, ahead, missed: uses whose expert lay in memory, was
    there because it had been predicted, or had to be waited for. read_bytes: from the file. wait_s: for them.
    """

    budget_bytes: int
    resident_bytes: int
    locked_bytes: int
    in_memory: int = 0
    ahead: int = 0
    missed: int = 0
    read_bytes: int = 0
    wait_s: float = 0.0

    def plus(self, later: "ExpertMemory") -> "ExpertMemory":
        """The counts of both, and the later state."""
        return ExpertMemory(
            later.budget_bytes,
            later.resident_bytes,
            later.locked_bytes,
            self.in_memory + later.in_memory,
            self.ahead + later.ahead,
            self.missed + later.missed,
            self.read_bytes + later.read_bytes,
            self.wait_s + later.wait_s,
        )


class Place:
    """Memory for the matrices of one expert, given out piece by piece."""

    def __init__(self, owner: Mapped, begin: int, end: int) -> None:
        self._owner = owner
        self._next, self._end = owner.address + begin, owner.address + end

    def __call__(self, num_bytes: int) -> "Piece":
        """The next piece."""
        piece = Piece(self._next, self._owner)
        self._next += num_bytes
        assert self._next <= self._end, "an expert is larger than its place"
        return piece


@dataclass(frozen=True, slots=True)
class Piece:
    """Where it begins, and what keeps it alive."""

    address: int
    owner: Mapped


class ExpertStorage:
    """Places for experts at load; then who is in memory, told by `need` and `expect`. One batch at a time."""

    def __init__(
        self,
        num_layers: int,
        num_experts: int,
        expert_bytes: int,
        budget_bytes: int,
        folder: Path | None = None,
    ) -> None:
        """num_experts: of one mixture. expert_bytes: of one expert.

        Raises:
            ValueError: the budget does not hold the experts of one mixture, or the file cannot be made.
        """
        self.expert_bytes = whole_pages(expert_bytes)
        least = num_experts * self.expert_bytes
        if budget_bytes < least:
            raise ValueError(
                f"a memory of {budget_bytes / 1e6:g} MB does not hold the {num_experts} experts of one block: "
                f"at least {-(-least // 10**6)} MB, and {num_layers * least / 1e6:.0f} MB hold those of all"
            )
        self._num_experts = num_experts
        self._budget_bytes = budget_bytes
        room = min(budget_bytes // self.expert_bytes, num_layers * num_experts)
        self._residency = Residency(num_layers, num_experts, room)
        self._mapped = Mapped(num_layers * least, folder)
        self._reader = ThreadPoolExecutor(1, "expert-reader")
        self._coming: Future[None] | None = None
        self._expected: tuple[int, Sequence[int]] | None = None
        self._locked: set[Key] = set()
        self._lock_room = _lockable_bytes(budget_bytes) // self.expert_bytes
        self._turns_to_lock = num_layers * _LOCK_EVERY
        self._turns = 0
        self._counts = self._nothing()

    def place(self, layer: int, expert: int) -> Place:
        """Where the matrices of an expert are to be written."""
        return Place(self._mapped, *self._bounds((layer, expert)))

    def written(self, layer: int, first: int, last: int) -> None:
        """Experts `first` to `last` have been written, and leave memory until they are needed."""
        begin, end = self._bounds((layer, first))[0], self._bounds((layer, last))[1]
        self._mapped.write_out(begin, end)
        self._mapped.let_go(begin, end)

    def expect(self, layer: int, experts: Sequence[int], *, at_once: bool) -> None:
        """A mixture will probably need these at its next turn: read ahead, beside what runs.

        at_once: now, since no mixture is about to run; else behind the next `need`, whose own experts come first.
        """
        self._expected = layer, experts
        if at_once:
            self._read_ahead(is_idle=True)

    def need(self, layer: int, experts: Sequence[int]) -> None:
        """Have a mixture's experts in memory when it returns; then begin with what is expected."""
        start_s = time.perf_counter()
        if self._coming is not None:
            self._coming.result()
            self._coming = None
        moves = self._residency.need(layer, experts)
        self._move(moves.evict, moves.fetch)
        wait_s = time.perf_counter() - start_s
        self._count(
            in_memory=moves.hits - moves.ahead, ahead=moves.ahead, missed=len(moves.fetch), wait_s=wait_s
        )
        self._turns += 1
        if self._turns % self._turns_to_lock == 0:
            self._lock_hottest()
        self._read_ahead()

    def take(self) -> ExpertMemory:
        """Everything since the last time."""
        taken, self._counts = self._counts.plus(self._nothing()), self._nothing()
        return taken

    def _read_ahead(self, *, is_idle: bool = False) -> None:
        expected, self._expected = self._expected, None
        if expected is None:
            return
        moves = self._residency.expect(*expected, is_idle=is_idle)
        if moves.fetch or moves.evict:
            self._unlock(moves.evict)
            self._coming = self._reader.submit(self._read, moves.evict, moves.fetch)
            self._count(read_bytes=len(moves.fetch) * self.expert_bytes)

    def _move(self, evict: Sequence[Key], fetch: Sequence[Key]) -> None:
        self._unlock(evict)
        self._read(evict, fetch)
        self._count(read_bytes=len(fetch) * self.expert_bytes)

    def _read(self, evict: Sequence[Key], fetch: Sequence[Key]) -> None:
        """In either thread, never in both at a time."""
        for key in evict:
            self._mapped.let_go(*self._bounds(key))
        for key in fetch:
            self._mapped.read_soon(*self._bounds(key))
        for key in fetch:
            self._mapped.read(*self._bounds(key))

    def _lock_hottest(self) -> None:
        wanted = set(self._residency.hottest(self._lock_room))
        self._unlock(self._locked - wanted)
        for key in wanted - self._locked:
            if not self._mapped.lock(*self._bounds(key)):
                # refused once, refused for good: a limit of a container, say
                self._lock_room = len(self._locked)
                return
            self._locked.add(key)

    def _unlock(self, keys: "Sequence[Key] | set[Key]") -> None:
        for key in self._locked.intersection(keys):
            self._mapped.unlock(*self._bounds(key))
            self._locked.discard(key)

    def _bounds(self, key: Key) -> tuple[int, int]:
        layer, expert = key
        begin = (layer * self._num_experts + expert) * self.expert_bytes
        return begin, begin + self.expert_bytes

    def _nothing(self) -> ExpertMemory:
        resident, locked = self._residency.num_resident, len(self._locked)
        return ExpertMemory(self._budget_bytes, resident * self.expert_bytes, locked * self.expert_bytes)

    def _count(
        self, *, in_memory: int = 0, ahead: int = 0, missed: int = 0, read_bytes: int = 0, wait_s: float = 0.0
    ) -> None:
        self._counts = self._counts.plus(
            ExpertMemory(self._budget_bytes, 0, 0, in_memory, ahead, missed, read_bytes, wait_s)
        )


def offloaded(op: GroupedOp, storage: ExpertStorage, layer: int, num_routed: int) -> GroupedOp:
    """The operation of a mixture whose first groups lie in a storage: it has those there that get rows."""

    def run(x_TD: Tensor, plan: RoutePlan) -> Tensor:
        storage.need(layer, [group for group, rows in enumerate(plan.sizes[:num_routed]) if rows])
        return op(x_TD, plan)

    return run


def _lockable_bytes(budget_bytes: int) -> int:
    """As far as the system allows; never more than half, so that most can still come and go."""
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    half = budget_bytes // 2
    return half if limit == resource.RLIM_INFINITY else min(limit, half)
