"""When the next batch leaves the queue, and why. Pure.

idle    nothing runs, and waiting for one more would not pay: at once
waited  nothing runs, and the wait for one more has paid or is over
lead    shortly before the running batch is expected to end, so that the engine never waits for us
full    the same moment, with more waiting than one batch holds

Never earlier: what is cut is committed, and an urgent request that arrives later could not join it any more.

Does waiting pay? Let k tickets wait at an idle engine, the next one be expected in g seconds, a batch cost a fixed part
of f seconds and every ticket c more. Sent now, the k are answered after f + k c, and the next one, which finds the
engine busy, after 2 f + (k + 1) c. Held back for it, all k + 1 are answered after g + f + (k + 1) c. In the sum over
all of them waiting wins f and loses (1 + k) g + k c.
"""

from dataclasses import dataclass
from typing import Literal

Reason = Literal["idle", "waited", "lead", "full"]

# The next batch is in the engine's hands this long before it is needed: a turn of a busy event loop, or, of a
# long batch, the share by which its prediction may be wrong.
MIN_LEAD_S = 0.002
LEAD_SHARE = 0.1
# One runs, one is prepared.
MAX_IN_FLIGHT = 2


@dataclass(frozen=True, slots=True)
class Release:
    """When to cut, and why."""

    at_s: float
    reason: Reason


@dataclass(frozen=True, slots=True)
class Running:
    """What the engine holds.

    num_in_flight: batches computed or prepared. ends_s: when the one being computed is expected to end.
    takes_s: how long it is expected to take. late_s: by how much our own timers are late these days.
    """

    num_in_flight: int
    ends_s: float
    takes_s: float
    late_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Crowd:
    """What waits, and what is known of the next to come.

    num_waiting: at least one. is_full: more waits than one batch holds. first_s, last_s: arrivals of the one that
    waits longest and of the last to come. start_by_s: when the most urgent one must be started.
    gap_s: usual time between arrivals. fixed_s, ticket_s: what a batch and another ticket in it cost.
    held: whether they have been held back already.
    """

    num_waiting: int
    is_full: bool
    first_s: float
    last_s: float
    start_by_s: float
    gap_s: float
    fixed_s: float
    ticket_s: float
    held: bool = False

    def patience_s(self) -> float:
        """For how long after the last arrival waiting for one more pays; 0 or less: not at all."""
        if self.is_full:
            return 0.0
        patience_s = (self.fixed_s - self.num_waiting * self.ticket_s) / (1 + self.num_waiting)
        # nobody is expected in time: do not even begin
        return patience_s if self.gap_s < patience_s else 0.0


def next_release(now_s: float, running: Running, crowd: Crowd) -> Release | None:
    """When to cut the next batch; None: not before one of those in flight is answered."""
    if running.num_in_flight == 0:
        # in all nobody waits longer than the batch that is saved would have taken
        until_s = min(crowd.last_s + crowd.patience_s(), crowd.first_s + crowd.fixed_s, crowd.start_by_s)
        if until_s > now_s:
            return Release(until_s, "waited")
        return Release(now_s, "waited" if crowd.held else "idle")
    if running.num_in_flight >= MAX_IN_FLIGHT:
        return None
    lead_s = max(MIN_LEAD_S, LEAD_SHARE * running.takes_s, 2 * running.late_s)
    return Release(max(now_s, running.ends_s - lead_s), "full" if crowd.is_full else "lead")
