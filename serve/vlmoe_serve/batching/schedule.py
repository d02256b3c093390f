"""What the engine gets next, and when. Pure: time is an argument, and nothing here runs anything.

    add -> step(now) -> Departure, or when to look again -> land(departure, now)

`batching/dispatch.py` runs it on the clock, the simulator in loadtests in simulated time.
"""

import itertools
import math
from collections import deque
from dataclasses import dataclass

from vlmoe_serve.batching.cost import Estimator
from vlmoe_serve.batching.pending import PATIENCE_S, Budget, Cut, Pending
from vlmoe_serve.batching.release import Crowd, Reason, Running, next_release
from vlmoe_serve.batching.ticket import Priority, Ticket

# A batch may cost this many times its fixed part, whatever the limit in milliseconds: on a slow machine a
# short batch would spend its time on being a batch.
_MIN_FIXED_COSTS = 16
# How fast the usual time between arrivals, and the usual lateness of our timers, follow what is seen.
_SMOOTHING = 0.1
# A pause of an hour says no more about arrivals than one of a minute, nor does no pause at all.
_MIN_GAP_S, _MAX_GAP_S = 1e-5, 60.0


@dataclass(frozen=True, slots=True, eq=False)
class Departure:
    """A batch on its way through the engine, or one without tickets if all that waited had expired."""

    cut: Cut
    reason: Reason
    predicted_ms: float
    sent_s: float


class Schedule:
    """The queue, the batches in flight, and what is known of costs and arrivals.

    estimator: replace it when the engine's own samples are known.
    """

    def __init__(self, max_batch_ms: float, max_batch_tokens: int) -> None:
        self.estimator = Estimator()
        self.pending = Pending()
        self._max_batch_ms = max_batch_ms
        self._max_batch_tokens = max_batch_tokens
        self._flights: deque[Departure] = deque()
        self._last_landed_s = -math.inf
        self._last_arrival_s = -math.inf
        self._gap_s = math.inf
        self._late_s = 0.0
        self._alarm_s: float | None = None
        self._holding = False
        self._budget: Budget | None = None

    @property
    def budget(self) -> Budget:
        """What one batch may cost, by what is known now."""
        cost, known_tokens = self.estimator.model, self.estimator.known_tokens
        kept = self._budget
        # asked for several times a request, and changed by few of them
        if kept is None or kept.cost is not cost or kept.known_tokens != known_tokens:
            max_ms = max(self._max_batch_ms, _MIN_FIXED_COSTS * cost.fixed_ms)
            kept = self._budget = Budget(cost, max_ms, self._max_batch_tokens, known_tokens)
        return kept

    def wait_ms(self, now_s: float, priority: Priority, deadline_s: float | None = None) -> float:
        """Predicted wait of a newcomer of this class and deadline."""
        due_s = now_s + PATIENCE_S if deadline_s is None else min(deadline_s, now_s + PATIENCE_S)
        ahead = self.pending.work_ahead_of(priority, due_s)
        queued_ms = self.estimator.model.drain_ms(ahead, self.budget.max_ms)
        return 1000 * (self._free_s(now_s) - now_s) + queued_ms

    def add(self, ticket: Ticket) -> bool:
        """Queue a ticket that has just arrived; whether it may leave sooner than at the moment last named by `step`.

        While a batch runs the next one leaves shortly before it ends, whatever arrives meanwhile.
        """
        gap_s = min(max(ticket.arrival_s - self._last_arrival_s, _MIN_GAP_S), _MAX_GAP_S)
        # The geometric mean: one pause between bursts does not hide how dense they are.
        known = math.isfinite(self._gap_s)
        self._gap_s = self._gap_s * (gap_s / self._gap_s) ** _SMOOTHING if known else gap_s
        self._last_arrival_s = ticket.arrival_s
        changes = not self._flights or not len(self.pending)
        self.pending.add(ticket)
        if changes:
            # whoever looks now was not woken by the alarm
            self._alarm_s = None
        return changes

    def excess_ms(
        self,
        now_s: float,
        priority: Priority,
        deadline_s: float | None,
        max_queue_ms: float,
        *,
        ahead_ms: float = 0.0,
        upstream_ms: float = 0.0,
        own_ms: float = 0.0,
        margin_ms: float = 0.0,
    ) -> tuple[float, float, float]:
        """A newcomer's predicted wait, when it will be answered, and by how much that is too late.

        The last is negative, or zero, if it may come in. Whoever need not wait may, whatever the margin.

        Args:
            now_s: the time.
            priority: its class.
            deadline_s: whoever cannot be answered by then is refused at once.
            max_queue_ms: the longest wait that anybody may have.
            ahead_ms: engine time of those who were let in before and are not in the queue yet.
            upstream_ms: how long it will take to get here at all; the queue gets shorter meanwhile.
            own_ms: how long its own work takes.
            margin_ms: how much earlier than its deadline it is to be answered; at most half of the time it has.
        """
        wait_ms = max(upstream_ms, self.wait_ms(now_s, priority, deadline_s) + ahead_ms)
        # Where there is a queue its batch will hold others too, and be no shorter than is efficient.
        batch_ms = max(own_ms, min(wait_ms, self.budget.efficient_ms))
        limit_ms = max_queue_ms
        if deadline_s is not None:
            left_ms = 1000 * (deadline_s - now_s)
            # Where even an idle engine would be too slow it is no matter of load.
            room_ms = max(0.0, left_ms - batch_ms - min(margin_ms, left_ms / 2))
            limit_ms = min(limit_ms, room_ms if left_ms > own_ms else left_ms)
        return wait_ms, wait_ms + batch_ms, wait_ms - limit_ms

    def step(self, now_s: float) -> Departure | float | None:
        """The next batch if its time has come; else when that will be, or None: not before something happens."""
        if self._alarm_s is not None:
            self._late_s += _SMOOTHING * (max(0.0, now_s - self._alarm_s) - self._late_s)
            self._alarm_s = None
        if not len(self.pending):
            return None
        release = next_release(now_s, self._running(now_s), self._crowd())
        if release is None:
            return None
        if release.at_s > now_s:
            self._holding = not self._flights
            self._alarm_s = release.at_s
            return release.at_s
        self._holding = False
        cut = self.pending.cut(now_s, self.budget, start_s=self._free_s(now_s))
        departure = Departure(cut, release.reason, self.estimator.model.batch_ms(cut.work), now_s)
        if cut.tickets:
            self._flights.append(departure)
        return departure

    def land(self, departure: Departure, now_s: float) -> float:
        """A batch has been answered; since when the engine had computed it."""
        began_s = max(departure.sent_s, self._last_landed_s)
        self._last_landed_s = now_s
        self._flights.remove(departure)
        self._alarm_s = None
        return began_s

    def _free_s(self, now_s: float) -> float:
        """When the engine is expected to be done with what it holds."""
        if not self._flights:
            return now_s
        prepared_ms = sum(flight.predicted_ms for flight in itertools.islice(self._flights, 1, None))
        return max(now_s, self._head_ends_s()) + prepared_ms / 1000

    def _head_ends_s(self) -> float:
        head = self._flights[0]
        return max(head.sent_s, self._last_landed_s) + head.predicted_ms / 1000

    def _running(self, now_s: float) -> Running:
        if not self._flights:
            return Running(0, now_s, 0.0)
        takes_s = self._flights[0].predicted_ms / 1000
        return Running(len(self._flights), self._head_ends_s(), takes_s, self._late_s)

    def _crowd(self) -> Crowd:
        cost, work = self.estimator.model, self.pending.work
        first = self.pending.first()
        assert first is not None, "only a crowd of somebody is asked about"
        urgent = [ticket for ticket in self.pending.most_urgent() if ticket.deadline_s is not None]
        return Crowd(
            num_waiting=len(self.pending),
            is_full=not self.budget.allows(work),
            first_s=first.arrival_s,
            last_s=self._last_arrival_s,
            start_by_s=min(
                ((one.deadline_s or 0.0) - cost.batch_ms(one.work) / 1000 for one in urgent), default=math.inf
            ),
            gap_s=self._gap_s,
            fixed_s=cost.fixed_ms / 1000,
            ticket_s=cost.marginal_ms(work) / 1000 / len(self.pending),
            held=self._holding,
        )
