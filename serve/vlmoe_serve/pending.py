"""The queue: what waits, and the cut of the next batch. Pure: time is an argument.

    add -> (discard) -> cut(now, budget) -> Cut(tickets, expired)

Order: priority class, then the earliest deadline, then arrival. Two rules keep everything moving:
a ticket without a deadline is ordered as if it had one `PATIENCE_S` after its arrival, and a ticket that has
waited `AGEING_S` moves up a class. A ticket too large for what is left of a batch is passed over, not waited
for; at the head of the order it goes first, alone if it must.
"""

import heapq
from collections import deque
from dataclasses import dataclass

from vlmoe_serve.cost import CostModel
from vlmoe_serve.ticket import PRIORITIES, Priority, Ticket, Work

PATIENCE_S = 10.0
AGEING_S = 2.0
# How many tickets that do not fit a cut may pass over before it is content with what it has.
_MAX_PASSED = 32


@dataclass(frozen=True, slots=True)
class Budget:
    """What one batch may cost: predicted milliseconds, and tokens (memory)."""

    cost: CostModel
    max_ms: float
    max_tokens: int

    def allows(self, work: Work) -> bool:
        """Whether a batch of this work stays inside."""
        return work.tokens <= self.max_tokens and self.cost.batch_ms(work) <= self.max_ms


@dataclass(frozen=True, slots=True)
class Cut:
    """One batch, its work, and the tickets whose deadline had passed."""

    tickets: tuple[Ticket, ...]
    work: Work
    expired: tuple[Ticket, ...]


class Pending:
    """Tickets waiting for a batch."""

    def __init__(self) -> None:
        self._waiting: dict[int, Ticket] = {}
        self._rank: dict[int, int] = {}
        self._work = [Work() for _ in PRIORITIES]
        # Entries whose ticket is gone, or has moved up, stay in heaps and lines until they surface.
        self._heaps: list[list[tuple[float, float, int]]] = [[] for _ in PRIORITIES]
        self._lines: list[deque[int]] = [deque() for _ in PRIORITIES]

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def work(self) -> Work:
        """Everything that waits."""
        return self.work_ahead_of("batch")

    def work_ahead_of(self, priority: Priority) -> Work:
        """What waits in this class and the classes above: what a newcomer of this class queues behind."""
        return sum(self._work[: PRIORITIES.index(priority) + 1], Work())

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
        rank = self._rank.pop(ticket_id)
        self._work[rank] -= ticket.work
        return True

    def cut(self, now_s: float, budget: Budget) -> Cut:
        """Take the next batch: tickets in order as long as they fit; the first one always does."""
        self._age(now_s)
        taken: list[Ticket] = []
        expired: list[Ticket] = []
        total = Work()
        num_passed = 0
        for rank, heap in enumerate(self._heaps):
            passed = []
            while heap and num_passed < _MAX_PASSED:
                entry = heapq.heappop(heap)
                ticket = self._at(entry[-1], rank)
                if ticket is None:
                    continue
                if ticket.deadline_s is not None and ticket.deadline_s <= now_s:
                    expired.append(ticket)
                elif not taken or budget.allows(total + ticket.work):
                    taken.append(ticket)
                    total += ticket.work
                else:
                    passed.append(entry)
                    num_passed += 1
                    continue
                self.discard(ticket.id)
            for entry in passed:
                heapq.heappush(heap, entry)
        return Cut(tuple(taken), total, tuple(expired))

    def _enter(self, ticket: Ticket, rank: int) -> None:
        due_s = ticket.arrival_s + PATIENCE_S if ticket.deadline_s is None else ticket.deadline_s
        self._rank[ticket.id] = rank
        self._work[rank] += ticket.work
        heapq.heappush(self._heaps[rank], (due_s, ticket.arrival_s, ticket.id))
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
                    self._work[rank] -= ticket.work
                    self._enter(ticket, rank - 1)
                line.popleft()
