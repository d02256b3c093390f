"""One engine, one queue, simulated time.

Events: an arrival, the end of a batch, a time at which the policy wants to be asked again. A batch takes what the cost
model says, times noise. A policy may have one batch prepared while one runs; the engine goes from one to the next at
once.
"""

import heapq
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from vlmoe_loadtests.simulator.policies import Policy, Sent
from vlmoe_serve.batching.cost import CostModel
from vlmoe_serve.batching.ticket import Ticket, Work


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a ticket: answered at `done_s`, or `refused` or `dropped`."""

    ticket: Ticket
    outcome: str
    done_s: float

    @property
    def latency_ms(self) -> float:
        """From arrival to answer."""
        return 1000 * (self.done_s - self.ticket.arrival_s)

    @property
    def in_time(self) -> bool:
        """Answered, and before its deadline if it has one."""
        deadline_s = self.ticket.deadline_s
        return self.outcome == "answered" and (deadline_s is None or self.done_s <= deadline_s)


def simulate(
    policy: Policy, arriving: Sequence[Ticket], engine: CostModel, *, noise: float = 0.0, seed: int = 0
) -> list[Fate]:
    """The fate of every ticket, in the order of their ends.

    Args:
        policy: a new one.
        arriving: in the order of arrival.
        engine: what batches really take.
        noise: standard deviation of the logarithm of a batch's time.
        seed: of the noise.
    """
    dice = random.Random(seed)
    coming = deque(arriving)
    in_engine: deque[tuple[Sent, float]] = deque()
    ends_s = 0.0
    alarms: list[float] = []
    fates: list[Fate] = []
    now_s = 0.0

    def begin(sent: Sent) -> None:
        nonlocal ends_s
        work = sum((ticket.work for ticket in sent.tickets), Work())
        ends_s = now_s + engine.batch_ms(work) / 1000 * dice.lognormvariate(0.0, noise)

    while True:
        while (found := policy.next(now_s, len(in_engine))) is not None and not isinstance(found, float):
            fates += [Fate(ticket, "dropped", now_s) for ticket in found.dropped]
            if found.tickets:
                in_engine.append((found, now_s))
                if len(in_engine) == 1:
                    began_s = now_s
                    begin(found)
        if found is not None:
            heapq.heappush(alarms, found)
        while alarms and alarms[0] <= now_s:
            heapq.heappop(alarms)
        times = [ends_s] if in_engine else []
        times += [coming[0].arrival_s] if coming else []
        times += alarms[:1]
        if not times:
            return fates
        now_s = min(times)
        if in_engine and now_s == ends_s:
            sent, _ = in_engine.popleft()
            fates += [Fate(ticket, "answered", now_s) for ticket in sent.tickets]
            policy.landed(sent, now_s, 1000 * (now_s - began_s))
            if in_engine:
                began_s = now_s
                begin(in_engine[0][0])
        while coming and coming[0].arrival_s <= now_s:
            ticket = coming.popleft()
            if not policy.admit(ticket):
                fates.append(Fate(ticket, "refused", now_s))
