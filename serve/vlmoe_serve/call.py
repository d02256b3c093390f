"""One call to the server: who asks, how urgent it is, and where its time went."""

import time
from dataclasses import dataclass, field

from vlmoe_serve.lobby import Seat
from vlmoe_serve.pacing import Pacer
from vlmoe_serve.ticket import Priority


@dataclass(slots=True, eq=False)
class Timings:
    """The phases of a call; of several inputs the longest each.

    encode_ms: decoding and tokenising, with the wait for a thread. queue_ms: waiting for a batch.
    forward_ms: the batch in the engine. batch_tokens: size of the largest batch that an input shared.
    """

    model_id: str = ""
    encode_ms: float = 0.0
    queue_ms: float = 0.0
    forward_ms: float = 0.0
    batch_tokens: int = 0

    def add(self, encode_ms: float, queue_ms: float, forward_ms: float, batch_tokens: int) -> None:
        """Another input's phases."""
        self.encode_ms = max(self.encode_ms, encode_ms)
        self.queue_ms = max(self.queue_ms, queue_ms)
        self.forward_ms = max(self.forward_ms, forward_ms)
        self.batch_tokens = max(self.batch_tokens, batch_tokens)


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """What a door knows about a call.

    deadline_s: on the monotonic clock. seats: those that `Service.admit` took for it and that no input has used yet.
    """

    priority: Priority = "normal"
    deadline_s: float | None = None
    timings: Timings = field(default_factory=Timings)
    pacer: Pacer = field(default_factory=Pacer)
    seats: list[Seat] = field(default_factory=list)

    @classmethod
    def within(cls, timeout_s: float | None, priority: Priority = "normal") -> "Call":
        """A call that is to be answered within `timeout_s` from now."""
        return cls(priority, None if timeout_s is None else time.monotonic() + timeout_s)
