"""Requests to simulate: when they come, how much work each is, how urgent it is. The same for the same seed."""

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vlmoe_serve.batching.ticket import Priority, Ticket, Work


@dataclass(frozen=True, slots=True)
class Kind:
    """A sort of request. share: how often. low, high: its tokens, short ones more often. deadline_ms: 0 is none."""

    share: float
    low: int
    high: int
    priority: Priority = "normal"
    deadline_ms: float = 0.0

    def tokens(self, dice: random.Random) -> int:
        """The length of one such sequence."""
        return round(self.low * math.pow(self.high / self.low, dice.random()))


# Token counts: captions, questions about pictures of 384 pixels, pictures of 480 to be indexed.
RAGGED: Sequence[Kind] = (
    Kind(0.60, 8, 40, deadline_ms=250.0),
    Kind(0.30, 585, 620, deadline_ms=500.0),
    Kind(0.10, 901, 901, priority="batch"),
)
TEXTS: Sequence[Kind] = (Kind(1.0, 8, 40, deadline_ms=250.0),)


def tickets(arrivals: Iterable[float], kinds: Sequence[Kind], seed: int) -> list[Ticket]:
    """One ticket an arrival."""
    dice = random.Random(seed)
    made = []
    for number, arrival_s in enumerate(arrivals):
        kind = dice.choices(kinds, [each.share for each in kinds])[0]
        tokens = kind.tokens(dice)
        deadline_s = arrival_s + kind.deadline_ms / 1000 if kind.deadline_ms else None
        made.append(Ticket(number, (), Work(tokens, tokens * tokens), arrival_s, kind.priority, deadline_s))
    return made


def mean_work(kinds: Sequence[Kind], seed: int) -> Work:
    """Tokens and attention of a thousand of them."""
    return sum((ticket.work for ticket in tickets(range(1000), kinds, seed)), Work())
