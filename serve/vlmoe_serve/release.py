"""When the next batch leaves the queue, and why. Pure.

idle    nothing runs: at once
lead    shortly before the running batch is expected to end, so that the engine never waits for us
full    the same moment, with more waiting than one batch holds

Never earlier: what is cut is committed, and an urgent request that arrives later could not join it any more.
"""

from dataclasses import dataclass
from typing import Literal

Reason = Literal["idle", "lead", "full"]

# What a turn of a busy event loop takes: the next batch is in the engine's hands this long before it is
# needed.
LEAD_S = 0.002
# One runs, one is prepared.
MAX_IN_FLIGHT = 2


@dataclass(frozen=True, slots=True)
class Release:
    """When to cut, and why."""

    at_s: float
    reason: Reason


def next_release(now_s: float, *, num_in_flight: int, head_ends_s: float, is_full: bool) -> Release | None:
    """When to cut the next batch; None: not before one of those in flight is answered.

    head_ends_s: when the batch being computed is expected to end. is_full: more waits than one
    batch holds.
    """
    if num_in_flight == 0:
        return Release(now_s, "idle")
    if num_in_flight >= MAX_IN_FLIGHT:
        return None
    return Release(max(now_s, head_ends_s - LEAD_S), "full" if is_full else "lead")
