"""The door to an engine: admission, deadlines, cancellation, life and death.

    submit -> Dispatcher (Schedule -> batch -> engine) -> Outcome

There is no fixed wait: a batch leaves an idle engine's queue at once, unless waiting for one more pays (`release.py`).
While one batch runs, the next is cut as late as it can be without the engine waiting for it, so that late and urgent
requests still join it.
"""

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

from vlmoe_model.inputs import Job
from vlmoe_serve.batching.cost import Estimator
from vlmoe_serve.batching.dispatch import Dispatcher, Entry
from vlmoe_serve.batching.observer import Drop, Observer, SilentObserver
from vlmoe_serve.batching.schedule import Schedule
from vlmoe_serve.batching.ticket import Outcome, Priority, Ticket, Work
from vlmoe_serve.engine import ENGINES
from vlmoe_serve.engine.base import EngineOptions
from vlmoe_serve.engine.protocol import EngineInfo
from vlmoe_serve.engine.supervisor import Supervisor, SupervisorOptions
from vlmoe_serve.errors import DeadlineExceeded, EngineUnavailable, Overloaded, ServeError, ShuttingDown

# A retry sooner than this would meet the same queue.
_MIN_RETRY_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class BatcherOptions:
    """Limits of batches and of the queue.

    max_batch_ms: predicted forward time of one batch (more where its fixed cost alone is a large part of
    that). max_batch_tokens: its memory. One job alone may exceed both. max_queue_ms: predicted wait over
    which a newcomer is refused.
    """

    max_batch_ms: float = 100.0
    max_batch_tokens: int = 32768
    max_queue_ms: float = 2000.0

    def __post_init__(self) -> None:
        for name in ("max_batch_ms", "max_batch_tokens", "max_queue_ms"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


class Batcher:
    """Everything behind the doors that answers jobs: one per model. Use it from one event loop."""

    def __init__(
        self,
        engine: EngineOptions,
        options: BatcherOptions | None = None,
        *,
        supervisor: SupervisorOptions | None = None,
        observer: Observer | None = None,
        factory: str = ENGINES["torch"],
    ) -> None:
        options = options or BatcherOptions()
        self._max_queue_ms = options.max_queue_ms
        self._observer = observer or SilentObserver()
        self._supervisor = Supervisor(
            factory, engine, supervisor, self._observer.on_restart, self._observer.on_report
        )
        self._schedule = Schedule(options.max_batch_ms, options.max_batch_tokens)
        self._dispatcher = Dispatcher(self._supervisor, self._schedule, self._observer)
        self._ids = itertools.count()
        self._open: dict[int, Entry] = {}
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._stopping = False

    async def start(self) -> EngineInfo:
        """Start the engine; return when it has computed a real forward.

        Raises:
            EngineStartError: it cannot, with the reason in one line.
        """
        info = await self._supervisor.start()
        self._schedule.estimator = Estimator(info.samples)
        return info

    async def submit(
        self,
        jobs: Sequence[Job],
        *,
        priority: Priority = "normal",
        deadline_s: float | None = None,
        admitted: bool = False,
    ) -> Outcome:
        """Answer jobs. A caller that is cancelled drops them: what still waits in the queue costs nothing.

        Args:
            jobs: at least one, of any heads. More than one batch holds become several tickets.
            priority: its class.
            deadline_s: on the monotonic clock; None waits as long as it takes.
            admitted: the door has asked `check_admission` before it decoded them, and let them in.

        Raises:
            Overloaded: the predicted wait is too long. DeadlineExceeded: no answer in time.
            EngineUnavailable: the engine is down or was not started; RequestFailed: it failed on these jobs
            alone; ShuttingDown: nothing new is taken.
        """
        if not jobs:
            raise ValueError("a request needs at least one job")
        now_s = time.monotonic()
        self._check_open(now_s, deadline_s)
        parts = self._parts(jobs)
        if not admitted:
            self._check_wait(now_s, priority, deadline_s, own_ms=self.cost_ms(parts[0][1]))
        entries = [self._enter(part, now_s, priority, deadline_s) for part in parts]
        timer = None
        if deadline_s is not None:
            timer = asyncio.get_running_loop().call_later(deadline_s - now_s, self._expire, entries)
        try:
            return Outcome.merged([await entry.answer for entry in entries])
        finally:
            if timer is not None:
                timer.cancel()
            for entry in entries:
                self._leave(entry)

    async def drain(self, timeout_s: float) -> bool:
        """Take nothing new and wait for what is there; whether all of it was answered in time."""
        self._stopping = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._is_empty.wait()
        except TimeoutError:
            return False
        return True

    def leave(self, member: int) -> None:
        """See `Supervisor.leave`; nothing of that member waits or runs any more."""
        self._supervisor.leave(member)

    async def stop(self) -> None:
        """End the engine; whoever still waits is refused."""
        self._stopping = True
        for entry in self._open.values():
            self._fail(entry, ShuttingDown("the server is shutting down"), "unavailable")
        await self._supervisor.stop()
        await self._dispatcher.close()

    @property
    def info(self) -> EngineInfo:
        """What the engine serves. Only after `start`."""
        return self._supervisor.info

    @property
    def ready(self) -> bool:
        """A real forward has passed, the engine makes progress, and new requests are taken."""
        return self._supervisor.ready and not self._stopping

    @property
    def alive(self) -> bool:
        """Whether the engine process is up."""
        return self._supervisor.alive

    @property
    def engine_pid(self) -> int | None:
        """The engine process, while there is one."""
        return self._supervisor.pid

    @property
    def num_restarts(self) -> int:
        """How often the engine process had to be started again."""
        return self._supervisor.num_restarts

    @property
    def num_waiting(self) -> int:
        """Tickets in the queue, not counting those in a batch."""
        return len(self._schedule.pending)

    def wait_ms(self, priority: Priority = "normal", deadline_s: float | None = None) -> float:
        """Predicted wait of a newcomer of this class and deadline."""
        return self._schedule.wait_ms(time.monotonic(), priority, deadline_s)

    def cost_ms(self, work: Work) -> float:
        """Predicted time of a batch of this work."""
        return self._schedule.estimator.model.batch_ms(work)

    def share_ms(self, jobs: Sequence[Job]) -> float:
        """By how much jobs make the queue longer."""
        work = sum((Work.of(job, self.info.facts.patch_size) for job in jobs), Work())
        return self._schedule.estimator.model.marginal_ms(work)

    def check_admission(
        self,
        priority: Priority = "normal",
        deadline_s: float | None = None,
        *,
        ahead_ms: float = 0.0,
        upstream_ms: float = 0.0,
        own_ms: float = 0.0,
        margin_ms: float = 0.0,
    ) -> float:
        """What `submit` would raise now. A door asks before it reads and decodes a body it would only refuse.

        Returns:
            In how many milliseconds there will be an answer, as far as can be predicted.

        Args:
            priority: the newcomer's class.
            deadline_s: on the monotonic clock.
            ahead_ms: engine time of those who were let in before and have not been submitted yet.
            upstream_ms: how long it will take to get here at all; the queue gets shorter meanwhile.
            own_ms: how long its own batch will take, as far as it is known.
            margin_ms: by how much answers come later than predicted.

        Raises:
            Overloaded, DeadlineExceeded, EngineUnavailable, ShuttingDown: see `submit`.
        """
        now_s = time.monotonic()
        self._check_open(now_s, deadline_s)
        return self._check_wait(
            now_s,
            priority,
            deadline_s,
            ahead_ms=ahead_ms,
            upstream_ms=upstream_ms,
            own_ms=own_ms,
            margin_ms=margin_ms,
        )

    def _check_open(self, now_s: float, deadline_s: float | None) -> None:
        if self._stopping:
            raise ShuttingDown("the server is shutting down")
        if not self._supervisor.started:
            raise EngineUnavailable("the engine is starting")
        if deadline_s is not None and deadline_s <= now_s:
            self._observer.on_drop("expired")
            raise DeadlineExceeded("the deadline had passed before the request was queued")

    def _check_wait(
        self, now_s: float, priority: Priority, deadline_s: float | None, **known_ms: float
    ) -> float:
        wait_ms, answer_ms, excess_ms = self._schedule.excess_ms(
            now_s, priority, deadline_s, self._max_queue_ms, **known_ms
        )
        if excess_ms > 0:
            self._observer.on_drop("overloaded")
            raise Overloaded(
                f"the predicted wait is {wait_ms:.0f} ms, at most {wait_ms - excess_ms:.0f} ms are allowed",
                retry_after_s=max(_MIN_RETRY_S, excess_ms / 1000),
                closed_s=excess_ms / 1000,
            )
        return answer_ms

    def _parts(self, jobs: Sequence[Job]) -> list[tuple[tuple[Job, ...], Work]]:
        patch_size, budget = self.info.facts.patch_size, self._schedule.budget
        parts: list[tuple[tuple[Job, ...], Work]] = []
        start, total = 0, Work()
        for position, job in enumerate(jobs):
            work = Work.of(job, patch_size)
            if position > start and not budget.allows(total + work):
                parts.append((tuple(jobs[start:position]), total))
                start, total = position, Work()
            total += work
        return [*parts, (tuple(jobs[start:]), total)]

    def _enter(
        self, part: tuple[tuple[Job, ...], Work], now_s: float, priority: Priority, deadline_s: float | None
    ) -> Entry:
        jobs, work = part
        ticket = Ticket(next(self._ids), jobs, work, now_s, priority, deadline_s)
        entry = Entry(ticket, asyncio.get_running_loop().create_future())
        self._open[ticket.id] = entry
        self._is_empty.clear()
        self._dispatcher.add(entry)
        return entry

    def _leave(self, entry: Entry) -> None:
        entry.answer.cancel()
        if entry.answer.cancelled():
            self._observer.on_drop("cancelled")
        self._dispatcher.discard(entry)
        del self._open[entry.ticket.id]
        if not self._open:
            self._is_empty.set()

    def _expire(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if self._supervisor.alive:
                self._fail(
                    entry, DeadlineExceeded("the deadline passed before the answer was there"), "expired"
                )
            else:
                self._fail(entry, EngineUnavailable("the engine did not come back in time"), "unavailable")

    def _fail(self, entry: Entry, error: ServeError, why: Drop) -> None:
        if entry.fail(error):
            self._observer.on_drop(why)
