"""When the next batch leaves the queue, and why. Pure.

idle    nothing runs: at once
lead    shortly before the running batch is expected to end, so that the engine never waits for us
full    the same moment, with more waiting than one batch holds

Never earlier: what is cut is committed, and an urgent request that arrives later could not join it any more.
"""

from dataclasses import dataclass
from typing import Literal

Reason = Literal["idle", "lead", "full"]

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


def next_release(
    now_s: float, *, num_in_flight: int, head_ends_s: float, head_s: float, is_full: bool
) -> Release | None:
    """When to cut the next batch; None: not before one of those in flight is answered.

    head_ends_s: when the batch being computed is expected to end. head_s: how long it is expected to take.
    is_full: more waits than one batch holds.
    """
    if num_in_flight == 0:
        return Release(now_s, "idle")
    if num_in_flight >= MAX_IN_FLIGHT:
        return None
    lead_s = max(MIN_LEAD_S, LEAD_SHARE * head_s)
    return Release(max(now_s, head_ends_s - lead_s), "full" if is_full else "lead")
