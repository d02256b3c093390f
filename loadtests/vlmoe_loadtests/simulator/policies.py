"""Queues that a simulation can be run with: ours, as it is in the server, and what other servers do.

Read from their sources: fixed window (a number of items, or a time since the first: Mosec, LitServe, Triton's default),
first in first out up to a token budget, stopping at the first that does not fit (Text Embeddings Inference), and sorted
by length, a fixed number of items at a time (Infinity). None of these knows deadlines; they drop what waited longer
than `give_up_s`, as their callers would hang up, and refuse what comes when `capacity` wait.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from vlmoe_serve.batching.cost import CostModel, Estimator, Sample
from vlmoe_serve.batching.schedule import Departure, Schedule
from vlmoe_serve.batching.ticket import Ticket, Work

MAX_ITEMS = 32
MAX_TOKENS = 16384
WINDOW_S = 0.005
CAPACITY = 1024


@dataclass(frozen=True, slots=True)
class Sent:
    """A batch for the engine, and those that are dropped now. An empty batch only drops."""

    tickets: Sequence[Ticket]
    dropped: Sequence[Ticket] = ()
    departure: Departure | None = None


class Policy(Protocol):
    """A queue."""

    def admit(self, ticket: Ticket) -> bool:
        """Take it in, or refuse it."""
        ...

    def next(self, now_s: float, num_in_engine: int) -> Sent | float | None:
        """The next batch; or when to ask again; or None: not before something happens."""
        ...

    def landed(self, sent: Sent, now_s: float, took_ms: float) -> None:
        """A batch is done; the engine took so long over it."""
        ...


class Ours:
    """The server's own schedule, its admission, and its cost model, which has to learn like the server's."""

    def __init__(self, warm_up: Sequence[Sample], max_queue_ms: float = 2000.0) -> None:
        self._schedule = Schedule(100.0, 32768)
        self._schedule.estimator = Estimator(warm_up)
        self._max_queue_ms = max_queue_ms

    def admit(self, ticket: Ticket) -> bool:
        """By predicted wait, as `Batcher.check_admission` does."""
        _, _, excess_ms = self._schedule.excess_ms(
            ticket.arrival_s,
            ticket.priority,
            ticket.deadline_s,
            self._max_queue_ms,
            own_ms=self._schedule.estimator.model.batch_ms(ticket.work),
        )
        if excess_ms > 0:
            return False
        self._schedule.add(ticket)
        return True

    def next(self, now_s: float, num_in_engine: int) -> Sent | float | None:
        """One more than is being computed is prepared."""
        found = self._schedule.step(now_s)
        return Sent(found.cut.tickets, found.cut.expired, found) if isinstance(found, Departure) else found

    def landed(self, sent: Sent, now_s: float, took_ms: float) -> None:
        """Learn from it."""
        assert sent.departure is not None
        self._schedule.land(sent.departure, now_s)
        work = sum((ticket.work for ticket in sent.tickets), Work())
        self._schedule.estimator.observe(Sample(work, took_ms))


class _Line:
    """First in, first out, bounded by a number; the base of the others."""

    def __init__(self) -> None:
        self.waiting: deque[Ticket] = deque()

    def admit(self, ticket: Ticket) -> bool:
        """If there is room."""
        if len(self.waiting) >= CAPACITY:
            return False
        self.waiting.append(ticket)
        return True

    def landed(self, sent: Sent, now_s: float, took_ms: float) -> None:
        """They learn nothing."""


class FixedWindow(_Line):
    """So many items, or so long after the first of them."""

    def next(self, now_s: float, num_in_engine: int) -> Sent | float | None:
        """When the engine is free."""
        if num_in_engine or not self.waiting:
            return None
        due_s = self.waiting[0].arrival_s + WINDOW_S
        if len(self.waiting) < MAX_ITEMS and due_s > now_s:
            return due_s
        return Sent([self.waiting.popleft() for _ in range(min(MAX_ITEMS, len(self.waiting)))])


class TokenBudget(_Line):
    """As many tokens as fit, in order; the first that does not fit ends the batch."""

    def next(self, now_s: float, num_in_engine: int) -> Sent | float | None:
        """When the engine is free."""
        if num_in_engine or not self.waiting:
            return None
        taken: list[Ticket] = []
        tokens = 0
        while self.waiting and (not taken or tokens + self.waiting[0].work.tokens <= MAX_TOKENS):
            taken.append(self.waiting.popleft())
            tokens += taken[-1].work.tokens
        return Sent(taken)


class SortedByLength(_Line):
    """Up to four batches from the head of the line, sorted by length, and of these so many items at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._sorted: deque[Ticket] = deque()

    def next(self, now_s: float, num_in_engine: int) -> Sent | float | None:
        """When the engine is free."""
        if num_in_engine:
            return None
        if not self._sorted:
            head = [self.waiting.popleft() for _ in range(min(4 * MAX_ITEMS, len(self.waiting)))]
            self._sorted.extend(sorted(head, key=lambda ticket: ticket.work.tokens))
        if not self._sorted:
            return None
        return Sent([self._sorted.popleft() for _ in range(min(MAX_ITEMS, len(self._sorted)))])


def warm_up(engine: CostModel) -> list[Sample]:
    """What the engine would have measured before the first request."""
    shapes = [(1, 16), (16, 16), (1, 600), (4, 600), (4, 16)]
    works = [Work(count * length, count * length * length) for count, length in shapes]
    return [Sample(work, engine.batch_ms(work)) for work in works]


POLICIES: Mapping[str, Callable[[CostModel], Policy]] = {
    "vlmoe": lambda engine: Ours(warm_up(engine)),
    "fixed window": lambda engine: FixedWindow(),
    "token budget": lambda engine: TokenBudget(),
    "sorted by length": lambda engine: SortedByLength(),
}
