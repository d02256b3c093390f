"""From the queue to the engine and back: cuts batches, runs them, hands out the answers.

    add(entry) -> Schedule -> Departure -> run_groups(supervisor) -> entry.answer

At most two batches are in flight: one is computed, one is prepared. All state belongs to the event loop.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from vlmoe_serve.batching.cost import Sample
from vlmoe_serve.batching.observer import BatchReport, Drop, Observer
from vlmoe_serve.batching.schedule import Departure, Schedule
from vlmoe_serve.batching.ticket import Outcome, Ticket
from vlmoe_serve.engine.failures import EngineDown, EngineFailure
from vlmoe_serve.engine.recovery import GroupDone, run_groups
from vlmoe_serve.engine.supervisor import Supervisor
from vlmoe_serve.errors import DeadlineExceeded, EngineUnavailable, RequestFailed, ServeError

_log = logging.getLogger(__name__)


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


class Dispatcher:
    """Runs what was added, in the queue's order."""

    def __init__(self, supervisor: Supervisor, schedule: Schedule, observer: Observer) -> None:
        self._supervisor = supervisor
        self._schedule = schedule
        self._observer = observer
        self._entries: dict[int, Entry] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._alarm: asyncio.Handle | None = None

    def add(self, entry: Entry) -> None:
        """Queue a ticket."""
        self._entries[entry.ticket.id] = entry
        if self._schedule.add(entry.ticket):
            self._look_soon()

    def discard(self, entry: Entry) -> bool:
        """Forget a ticket that nobody waits for; True if it had not been cut yet."""
        self._entries.pop(entry.ticket.id, None)
        return self._schedule.pending.discard(entry.ticket.id)

    async def close(self) -> None:
        """Stop cutting and wait for what is in flight. The supervisor must be stopped by then."""
        if self._alarm is not None:
            self._alarm.cancel()
        await asyncio.gather(*self._tasks)

    def _look_soon(self) -> None:
        # In the next turn of the loop, not now: requests that arrive in the same turn share a batch.
        self._set_alarm(asyncio.get_running_loop().call_soon(self._look))

    def _set_alarm(self, handle: asyncio.Handle) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = handle

    def _look(self) -> None:
        while isinstance(next_one := self._schedule.step(now_s := time.monotonic()), Departure):
            self._send(next_one)
        if next_one is not None:
            self._set_alarm(asyncio.get_running_loop().call_later(next_one - now_s, self._look))

    def _send(self, departure: Departure) -> None:
        for ticket in departure.cut.expired:
            if self._entries.pop(ticket.id).fail(
                DeadlineExceeded(
                    "the deadline passed, or could not be kept any more, while the request waited"
                )
            ):
                self._observer.on_drop("expired")
        if not departure.cut.tickets:
            return
        entries = tuple(self._entries.pop(ticket.id) for ticket in departure.cut.tickets)
        task = asyncio.get_running_loop().create_task(self._fly(departure, entries))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fly(self, departure: Departure, entries: Sequence[Entry]) -> None:
        num_restarts = self._supervisor.num_restarts
        try:
            results = await run_groups(
                self._supervisor,
                [entry.ticket.jobs for entry in entries],
                lambda index: not entries[index].answer.done(),
            )
        except Exception:
            _log.exception("a batch failed by our own fault")
            results = [EngineFailure("internal error")] * len(entries)
        now_s = time.monotonic()
        began_s = self._schedule.land(departure, now_s)
        self._look_soon()
        num_jobs = sum(len(entry.ticket.jobs) for entry in entries)
        for entry, result in zip(entries, results, strict=True):
            self._answer(entry, result, departure, num_jobs, began_s)
        done = [result for result in results if isinstance(result, GroupDone)]
        # Only an undisturbed batch says what a batch costs.
        if len(done) == len(results) and num_restarts == self._supervisor.num_restarts:
            # in the next turn: whoever waits for an answer goes first
            asyncio.get_running_loop().call_soon(self._report, departure, done[0].forward_ms, began_s, now_s)

    def _answer(
        self,
        entry: Entry,
        result: GroupDone | EngineFailure | None,
        departure: Departure,
        num_jobs: int,
        began_s: float,
    ) -> None:
        if result is None or entry.answer.done():
            return
        if isinstance(result, GroupDone):
            queue_ms = 1000 * (began_s - entry.ticket.arrival_s)
            work = entry.ticket.work if result.alone else departure.cut.work
            entry.answer.set_result(
                Outcome(
                    outputs=result.outputs,
                    queue_ms=queue_ms,
                    forward_ms=result.forward_ms,
                    batch_tokens=work.tokens,
                    batch_jobs=len(entry.ticket.jobs) if result.alone else num_jobs,
                    reason=departure.reason,
                )
            )
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

    def _report(self, departure: Departure, forward_ms: float, began_s: float, done_s: float) -> None:
        # Two answers that our loop reads in one turn came one after the other all the same.
        service_ms = max(forward_ms, 1000 * (done_s - began_s))
        cut = departure.cut
        self._schedule.estimator.observe(Sample(cut.work, service_ms))
        self._observer.on_batch(
            BatchReport(
                num_tickets=len(cut.tickets),
                num_jobs=sum(len(ticket.jobs) for ticket in cut.tickets),
                work=cut.work,
                reason=departure.reason,
                queue_ms=tuple(1000 * (began_s - ticket.arrival_s) for ticket in cut.tickets),
                forward_ms=forward_ms,
                service_ms=service_ms,
                predicted_ms=departure.predicted_ms,
            )
        )
