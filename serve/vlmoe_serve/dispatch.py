"""From the queue to the engine and back: cuts batches, runs them, hands out the answers.

    add(entry) -> Pending -> (release) -> cut -> run_groups(supervisor) -> entry.answer

At most two batches are in flight: one is computed, one is prepared. All state belongs to the event loop.
"""

import asyncio
import itertools
import logging
import math
import time
from collections import deque
from dataclasses import dataclass, field

from vlmoe_serve.cost import Estimator, Sample
from vlmoe_serve.engine.failures import EngineDown, EngineFailure
from vlmoe_serve.engine.recovery import GroupDone, run_groups
from vlmoe_serve.engine.supervisor import Supervisor
from vlmoe_serve.errors import DeadlineExceeded, EngineUnavailable, RequestFailed, ServeError
from vlmoe_serve.observer import BatchReport, Drop, Observer
from vlmoe_serve.pending import PATIENCE_S, Budget, Cut, Pending
from vlmoe_serve.release import Crowd, Reason, Running, next_release
from vlmoe_serve.ticket import Outcome, Priority, Ticket

_log = logging.getLogger(__name__)

# A batch may cost this many times its fixed part, whatever the limit in milliseconds: on a slow machine a
# short batch would spend its time on being a batch.
_MIN_FIXED_COSTS = 16
# How fast the usual time between arrivals, and the usual lateness of our timers, follow what is seen.
_SMOOTHING = 0.1
# Nothing is known of arrivals yet: nobody is waited for.
_NO_ARRIVALS_S = 1e9


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A ticket and whoever waits for it. Once the answer is done, or cancelled, nobody does."""

    ticket: Ticket
    answer: asyncio.Future[Outcome]

    def fail(self, error: ServeError) -> bool:
        """Answer with an error; False if it was answered already."""
        if self.answer.done():
            return False
        self.answer.set_exception(error)
        # Looked at here: a caller that leaves at this moment must not cause a report of a lost exception.
        self.answer.exception()
        return True


@dataclass(frozen=True, slots=True, eq=False)
class _Flight:
    cut: Cut
    entries: tuple[Entry, ...]
    reason: Reason
    predicted_ms: float
    sent_s: float = field(default_factory=time.monotonic)


class Dispatcher:
    """Runs what was added, in the queue's order."""

    def __init__(
        self, supervisor: Supervisor, max_batch_ms: float, max_batch_tokens: int, observer: Observer
    ) -> None:
        self.estimator = Estimator()
        self.pending = Pending()
        self._supervisor = supervisor
        self._max_batch_ms = max_batch_ms
        self._max_batch_tokens = max_batch_tokens
        self._observer = observer
        self._entries: dict[int, Entry] = {}
        self._flights: deque[_Flight] = deque()
        self._last_done_s = 0.0
        self._last_arrival_s = -_NO_ARRIVALS_S
        self._gap_s = _NO_ARRIVALS_S
        self._late_s = 0.0
        self._due_s: float | None = None
        self._holding = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._pump_handle: asyncio.Handle | None = None

    @property
    def budget(self) -> Budget:
        """What one batch may cost, by what is known now."""
        cost = self.estimator.model
        return Budget(cost, max(self._max_batch_ms, _MIN_FIXED_COSTS * cost.fixed_ms), self._max_batch_tokens)

    def wait_ms(self, priority: Priority, deadline_s: float | None = None) -> float:
        """Predicted wait of a newcomer of this class and deadline."""
        now_s = time.monotonic()
        due_s = now_s + PATIENCE_S if deadline_s is None else min(deadline_s, now_s + PATIENCE_S)
        ahead = self.pending.work_ahead_of(priority, due_s)
        queued_ms = self.estimator.model.drain_ms(ahead, self.budget.max_ms)
        return 1000 * (self._free_s(now_s) - now_s) + queued_ms

    def add(self, entry: Entry) -> None:
        """Queue a ticket."""
        now_s = entry.ticket.arrival_s
        # a pause of an hour says no more than one of a minute
        gap_s = min(now_s - self._last_arrival_s, 60.0)
        self._gap_s = gap_s if self._gap_s > 60.0 else self._gap_s + _SMOOTHING * (gap_s - self._gap_s)
        self._last_arrival_s = now_s
        self._entries[entry.ticket.id] = entry
        self.pending.add(entry.ticket)
        self._pump_soon()

    def discard(self, entry: Entry) -> bool:
        """Forget a ticket that nobody waits for; True if it had not been cut yet."""
        self._entries.pop(entry.ticket.id, None)
        return self.pending.discard(entry.ticket.id)

    async def close(self) -> None:
        """Stop cutting and wait for what is in flight. The supervisor must be stopped by then."""
        if self._pump_handle is not None:
            self._pump_handle.cancel()
        await asyncio.gather(*self._tasks)

    def _free_s(self, now_s: float) -> float:
        """When the engine is expected to be done with what it holds."""
        if not self._flights:
            return now_s
        prepared_ms = sum(flight.predicted_ms for flight in itertools.islice(self._flights, 1, None))
        return max(now_s, self._head_ends_s()) + prepared_ms / 1000

    def _head_ends_s(self) -> float:
        head = self._flights[0]
        return max(head.sent_s, self._last_done_s) + head.predicted_ms / 1000

    def _pump_soon(self) -> None:
        # In the next turn of the loop, not now: requests that arrive in the same turn share a batch.
        self._due_s = None
        self._schedule(asyncio.get_running_loop().call_soon(self._pump))

    def _schedule(self, handle: asyncio.Handle) -> None:
        if self._pump_handle is not None:
            self._pump_handle.cancel()
        self._pump_handle = handle

    def _pump(self) -> None:
        loop = asyncio.get_running_loop()
        if self._due_s is not None:
            self._late_s += _SMOOTHING * (max(0.0, time.monotonic() - self._due_s) - self._late_s)
            self._due_s = None
        while len(self.pending):
            now_s = time.monotonic()
            release = next_release(now_s, self._running(now_s), self._crowd())
            if release is None:
                return
            if release.at_s > now_s:
                self._holding = not self._flights
                self._due_s = release.at_s
                self._schedule(loop.call_later(release.at_s - now_s, self._pump))
                return
            self._holding = False
            start_s = self._free_s(now_s)
            self._send(self.pending.cut(now_s, self.budget, start_s=start_s), release.reason)

    def _running(self, now_s: float) -> Running:
        if not self._flights:
            return Running(0, now_s, 0.0)
        takes_s = self._flights[0].predicted_ms / 1000
        return Running(len(self._flights), self._head_ends_s(), takes_s, self._late_s)

    def _crowd(self) -> Crowd:
        cost, work = self.estimator.model, self.pending.work
        first = self.pending.first()
        assert first is not None, "only a crowd of somebody is asked about"
        return Crowd(
            num_waiting=len(self.pending),
            is_full=not self.budget.allows(work),
            first_s=first.arrival_s,
            last_s=self._last_arrival_s,
            start_by_s=min(
                math.inf
                if ticket.deadline_s is None
                else ticket.deadline_s - cost.batch_ms(ticket.work) / 1000
                for ticket in self.pending.most_urgent()
            ),
            gap_s=self._gap_s,
            fixed_s=cost.fixed_ms / 1000,
            ticket_s=cost.marginal_ms(work) / 1000 / len(self.pending),
            held=self._holding,
        )

    def _send(self, cut: Cut, reason: Reason) -> None:
        for ticket in cut.expired:
            if self._entries.pop(ticket.id).fail(
                DeadlineExceeded(
                    "the deadline passed, or could not be kept any more, while the request waited"
                )
            ):
                self._observer.on_drop("expired")
        if not cut.tickets:
            return
        entries = tuple(self._entries.pop(ticket.id) for ticket in cut.tickets)
        flight = _Flight(cut, entries, reason, self.estimator.model.batch_ms(cut.work))
        self._flights.append(flight)
        task = asyncio.get_running_loop().create_task(self._fly(flight))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fly(self, flight: _Flight) -> None:
        num_restarts = self._supervisor.num_restarts
        try:
            results = await run_groups(
                self._supervisor,
                [ticket.jobs for ticket in flight.cut.tickets],
                lambda index: not flight.entries[index].answer.done(),
            )
        except Exception:
            _log.exception("a batch failed by our own fault")
            results = [EngineFailure("internal error")] * len(flight.entries)
        began_s = max(flight.sent_s, self._last_done_s)
        self._last_done_s = time.monotonic()
        self._flights.remove(flight)
        self._pump_soon()
        for entry, result in zip(flight.entries, results, strict=True):
            self._answer(entry, result, flight, began_s)
        done = [result for result in results if isinstance(result, GroupDone)]
        # Only an undisturbed batch says what a batch costs.
        if len(done) == len(results) and num_restarts == self._supervisor.num_restarts:
            self._report(flight, done[0].forward_ms, began_s)

    def _answer(
        self, entry: Entry, result: GroupDone | EngineFailure | None, flight: _Flight, began_s: float
    ) -> None:
        if result is None or entry.answer.done():
            return
        if isinstance(result, GroupDone):
            work = entry.ticket.work if result.alone else flight.cut.work
            queue_ms = 1000 * (began_s - entry.ticket.arrival_s)
            entry.answer.set_result(Outcome(result.outputs, queue_ms, result.forward_ms, work.tokens))
        elif isinstance(result, EngineDown):
            self._fail(entry, EngineUnavailable(str(result)), "unavailable")
        else:
            _log.error("a request failed alone: %s", result)
            self._fail(
                entry, RequestFailed("the engine failed on this request, also when it ran alone"), "failed"
            )

    def _fail(self, entry: Entry, error: ServeError, why: Drop) -> None:
        if entry.fail(error):
            self._observer.on_drop(why)

    def _report(self, flight: _Flight, forward_ms: float, began_s: float) -> None:
        # Two answers that our loop reads in one turn came one after the other all the same.
        service_ms = max(forward_ms, 1000 * (self._last_done_s - began_s))
        self.estimator.observe(Sample(flight.cut.work, service_ms))
        self._observer.on_batch(
            BatchReport(
                num_tickets=len(flight.cut.tickets),
                num_jobs=sum(len(ticket.jobs) for ticket in flight.cut.tickets),
                work=flight.cut.work,
                reason=flight.reason,
                queue_ms=tuple(1000 * (began_s - ticket.arrival_s) for ticket in flight.cut.tickets),
                forward_ms=forward_ms,
                service_ms=service_ms,
                predicted_ms=flight.predicted_ms,
            )
        )
