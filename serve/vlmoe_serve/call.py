"""One call to the server: who asks, how urgent it is, and where its time went."""

import random
import re
import time
from dataclasses import dataclass, field

from vlmoe_serve.batching.pacing import Pacer
from vlmoe_serve.batching.ticket import PRIORITIES, Priority
from vlmoe_serve.errors import BadRequest
from vlmoe_serve.lobby import Seat
from vlmoe_serve.telemetry.trace import Trace, current_trace
from vlmoe_serve.validation import shown

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass(slots=True, eq=False)
class Timings:
    """The phases of a call; of several inputs the longest each.

    encode_ms: decoding and tokenising, with the wait for a thread. queue_ms: waiting for a batch.
    forward_ms: the batch in the engine. batch_tokens: size of the largest batch that an input shared.
    routing_mode: in which one of the inputs was answered at least; "" if all were routed as usual.
    """

    model_id: str = ""
    encode_ms: float = 0.0
    queue_ms: float = 0.0
    forward_ms: float = 0.0
    batch_tokens: int = 0
    routing_mode: str = ""

    def add(
        self,
        encode_ms: float,
        queue_ms: float,
        forward_ms: float,
        batch_tokens: int,
        routing_mode: str = "",
    ) -> None:
        """Another input's phases."""
        self.routing_mode = self.routing_mode or routing_mode
        self.encode_ms = max(self.encode_ms, encode_ms)
        self.queue_ms = max(self.queue_ms, queue_ms)
        self.forward_ms = max(self.forward_ms, forward_ms)
        self.batch_tokens = max(self.batch_tokens, batch_tokens)

    def headers(self) -> dict[str, str]:
        """As the doors send them, beside the answer."""
        if not self.model_id:
            # nothing of the call reached an engine
            return {}
        mode = {"x-routing-mode": self.routing_mode} if self.routing_mode else {}
        return {
            "x-model-id": self.model_id,
            "x-encode-ms": f"{self.encode_ms:.3f}",
            "x-queue-ms": f"{self.queue_ms:.3f}",
            "x-forward-ms": f"{self.forward_ms:.3f}",
            "x-batch-tokens": str(self.batch_tokens),
            **mode,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """What a door knows about a call.

    deadline_s: on the monotonic clock. seats: those that `Service.admit` took for it and that no input has used yet.
    trace: the one that its door began; None where nothing is traced.
    """

    priority: Priority = "normal"
    deadline_s: float | None = None
    timings: Timings = field(default_factory=Timings)
    pacer: Pacer = field(default_factory=Pacer)
    seats: list[Seat] = field(default_factory=list)
    trace: Trace | None = field(default_factory=current_trace)

    @classmethod
    def within(cls, timeout_s: float | None, priority: Priority = "normal") -> "Call":
        """A call that is to be answered within `timeout_s` from now."""
        return cls(priority, None if timeout_s is None else time.monotonic() + timeout_s)


def read_priority(text: str | None) -> Priority:
    """The class that a caller names.

    Raises:
        BadRequest: there is no such class.
    """
    if text is None:
        return "normal"
    for priority in PRIORITIES:
        if text == priority:
            return priority
    raise BadRequest(
        f"x-priority must be one of {', '.join(PRIORITIES)}, got {shown(text)}", param="x-priority"
    )


def read_request_id(given: str | None) -> str:
    """The caller's id, or a new one: one that could not be a header or would break a log line is replaced."""
    return given if given is not None and _REQUEST_ID.fullmatch(given) else new_request_id()


def new_request_id() -> str:
    """128 random bits: a name, not a secret, so without the system call that a secret takes."""
    return f"{random.getrandbits(128):032x}"
