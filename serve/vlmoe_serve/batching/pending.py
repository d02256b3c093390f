"""The queue: what waits, and the cut of the next batch. Pure: time is an argument.

    add -> (discard) -> cut(now, budget, start) -> Cut(tickets, expired)

Order: priority class, then the earliest due time, then arrival. A ticket is due at its deadline, or `PATIENCE_S` after
its arrival if that is sooner; one that has waited `AGEING_S` moves up a class. So nothing starves. A ticket too large
for what is left of a batch is passed over, not waited for; at the head of the order it goes first, alone if it must.

No batch grows past the deadline of a ticket in it, and a ticket that cannot be answered in time, even by a batch of its
own, is not computed at all: it is dropped with the expired ones. If that would leave nothing to do, the most urgent of
them is tried, since the prediction may be wrong. Where more waits than one batch holds, a ticket whose deadline would
force a batch so small that most of it is fixed cost is dropped too: saving it would cost the others theirs, and one
small batch after the other is how a queue by deadlines collapses under overload.
"""

import heapq
import math
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from vlmoe_serve.batching.cost import CostModel
from vlmoe_serve.batching.ticket import PRIORITIES, Priority, Ticket, Work
from vlmoe_serve.batching.work_by_due import WorkByDue

PATIENCE_S = 10.0
AGEING_S = 2.0
# How many tickets that do not fit a cut may pass over before it is content with what it has.
_MAX_PASSED = 32
# A batch of so many fixed costs is efficient enough: seven eighths of it are work.
_EFFICIENT = 8


@dataclass(frozen=True, slots=True)
class Budget:
    """What one batch may cost: predicted milliseconds, and tokens (memory).

    known_tokens: of the largest batch whose cost is known, by default any; of larger ones the prediction is a guess.
    """

    cost: CostModel
    max_ms: float
    max_tokens: int
    known_tokens: int = sys.maxsize

    @property
    def efficient_ms(self) -> float:
        """How long a batch must be to be worth its fixed cost."""
        return min(_EFFICIENT * self.cost.fixed_ms, self.max_ms)

    def allows(self, work: Work, within_ms: float = math.inf) -> bool:
        """Whether a batch of this work stays inside, and is done within so many milliseconds."""
        return work.tokens <= self.max_tokens and self.cost.batch_ms(work) <= min(self.max_ms, within_ms)

    def tries(self, pair: Work, within_ms: float = math.inf) -> bool:
        """Whether two tickets share a batch that is not allowed, to see what it costs.

        Where none but batches of one are allowed, they are all alike, and what a batch costs by itself cannot be told
        from what a ticket adds. If that is guessed too high, they stay alone for ever.
        """
        is_guess = self.known_tokens < pair.tokens <= self.max_tokens
        return is_guess and self.cost.batch_ms(pair) <= within_ms


@dataclass(frozen=True, slots=True)
class Cut:
    """One batch, its work, and the tickets whose deadline has passed or cannot be kept any more."""

    tickets: tuple[Ticket, ...]
    work: Work
    expired: tuple[Ticket, ...]


_Entry = tuple[float, float, int]


class Pending:
    """Tickets waiting for a batch."""

    def __init__(self) -> None:
        # In the order of arrival.
        self._waiting: dict[int, Ticket] = {}
        self._rank: dict[int, int] = {}
        self._work = [WorkByDue() for _ in PRIORITIES]
        # Entries whose ticket is gone, or has moved up, stay in heaps and lines until they surface.
        self._heaps: list[list[_Entry]] = [[] for _ in PRIORITIES]
        self._lines: list[deque[int]] = [deque() for _ in PRIORITIES]

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def work(self) -> Work:
        """Everything that waits."""
        return self.work_ahead_of("batch")

    def work_ahead_of(self, priority: Priority, due_s: float = math.inf) -> Work:
        """What a newcomer of this class, due then, queues behind."""
        rank = PRIORITIES.index(priority)
        return sum((line.total for line in self._work[:rank]), self._work[rank].before(due_s))

    def first(self) -> Ticket | None:
        """The one that has waited longest."""
        return next(iter(self._waiting.values()), None)

    def most_urgent(self) -> Iterator[Ticket]:
        """The first in the order of each class."""
        for rank, heap in enumerate(self._heaps):
            while heap and self._at(heap[0][-1], rank) is None:
                heapq.heappop(heap)
            if heap:
                yield self._waiting[heap[0][-1]]

    def add(self, ticket: Ticket) -> None:
        """Queue a ticket. Its id must not be waiting already."""
        if ticket.id in self._waiting:
            raise ValueError(f"ticket {ticket.id} is already waiting")
        self._waiting[ticket.id] = ticket
        self._enter(ticket, PRIORITIES.index(ticket.priority))

    def discard(self, ticket_id: int) -> bool:
        """Drop a ticket, whose caller is gone, before it costs anything; False if it is not waiting."""
        ticket = self._waiting.pop(ticket_id, None)
        if ticket is None:
            return False
        self._work[self._rank.pop(ticket_id)].subtract(due_s(ticket), ticket.work)
        return True

    def cut(self, now_s: float, budget: Budget, *, start_s: float | None = None) -> Cut:
        """Take the next batch: tickets in order as long as they fit; the first one always does.

        Args:
            now_s: the time.
            budget: what the batch may cost.
            start_s: when the engine will begin with it; now, if it is idle.
        """
        start_s = now_s if start_s is None else max(now_s, start_s)
        self._age(now_s)
        least_ms = 0.0 if budget.allows(self.work) else budget.efficient_ms
        taken: list[Ticket] = []
        expired: list[Ticket] = []
        late: list[tuple[list[_Entry], _Entry]] = []
        total, room_ms, num_passed = Work(), math.inf, 0
        for rank, heap in enumerate(self._heaps):
            passed: list[_Entry] = []
            while heap and num_passed < _MAX_PASSED:
                entry = heapq.heappop(heap)
                ticket = self._at(entry[-1], rank)
                if ticket is None:
                    continue
                left_ms = math.inf if ticket.deadline_s is None else 1000 * (ticket.deadline_s - start_s)
                within_ms = min(room_ms, left_ms)
                if ticket.deadline_s is not None and ticket.deadline_s <= now_s:
                    expired.append(ticket)
                elif max(budget.cost.batch_ms(ticket.work), least_ms) > left_ms:
                    late.append((heap, entry))
                    continue
                elif (
                    not taken
                    or budget.allows(total + ticket.work, within_ms)
                    or (len(taken) == 1 and budget.tries(total + ticket.work, within_ms))
                ):
                    taken.append(ticket)
                    total += ticket.work
                    room_ms = within_ms
                else:
                    passed.append(entry)
                    num_passed += 1
                    continue
                self.discard(ticket.id)
            for entry in passed:
                heapq.heappush(heap, entry)
        for heap, entry in late:
            ticket = self._waiting[entry[-1]]
            if taken:
                expired.append(ticket)
                self.discard(ticket.id)
            else:
                heapq.heappush(heap, entry)
        if late and not taken:
            tried = self._waiting[late[0][1][-1]]
            self.discard(tried.id)
            taken, total = [tried], tried.work
        return Cut(tuple(taken), total, tuple(expired))

    def _enter(self, ticket: Ticket, rank: int) -> None:
        self._rank[ticket.id] = rank
        self._work[rank].add(due_s(ticket), ticket.work)
        heapq.heappush(self._heaps[rank], (due_s(ticket), ticket.arrival_s, ticket.id))
        if rank > 0:
            self._lines[rank].append(ticket.id)

    def _at(self, ticket_id: int, rank: int) -> Ticket | None:
        return self._waiting[ticket_id] if self._rank.get(ticket_id) == rank else None

    def _age(self, now_s: float) -> None:
        for rank in range(len(PRIORITIES) - 1, 0, -1):
            line = self._lines[rank]
            while line:
                ticket = self._at(line[0], rank)
                if ticket is not None:
                    # Counted from its own class: each step up takes another AGEING_S.
                    steps = PRIORITIES.index(ticket.priority) - rank + 1
                    if ticket.arrival_s + steps * AGEING_S > now_s:
                        break
                    self._work[rank].subtract(due_s(ticket), ticket.work)
                    self._enter(ticket, rank - 1)
                line.popleft()


def due_s(ticket: Ticket) -> float:
    """When a ticket is due: a deadline far off does not let everybody else go first for ever."""
    patience_s = ticket.arrival_s + PATIENCE_S
    return patience_s if ticket.deadline_s is None else min(ticket.deadline_s, patience_s)
