"""What the doors and the service know of traces. Imports nothing of OpenTelemetry.

    door (server span, parent from `traceparent`) -> encode | queue | forward, told when they are over

A door puts its call's trace into the context; `Call` takes it from there, whatever the path from one to the other.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

Attributes = Mapping[str, str | int | float]


class Trace(Protocol):
    """One call's trace."""

    @property
    def traceparent(self) -> str:
        """The door's span as W3C's Trace Context writes it, for the caller."""
        ...

    def phase(self, name: str, start_s: float, end_s: float, attributes: Attributes) -> None:
        """A part of the call that is over; times on the monotonic clock."""
        ...

    def end(self, name: str, attributes: Attributes, *, failed: bool) -> None:
        """The call is over. name: of the door's span. failed: by our own fault."""
        ...


class Traces(Protocol):
    """Where traces go."""

    def begin(self, name: str, header: Callable[[str], str | None]) -> Trace:
        """A call has come. header: reads its headers, or metadata, by lower-case names."""
        ...

    def close(self) -> None:
        """Send what is left; blocks for a few seconds at most."""
        ...


_CURRENT: ContextVar[Trace | None] = ContextVar("vlmoe_trace", default=None)


def current_trace() -> Trace | None:
    """Of the call that is being answered; None where nothing is traced."""
    return _CURRENT.get()


@contextmanager
def traced(trace: Trace | None) -> Iterator[None]:
    """Calls that are made inside belong to this trace."""
    if trace is None:
        yield
        return
    token = _CURRENT.set(trace)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def open_traces(endpoint: str) -> Traces | None:
    """What sends traces to a collector; None for no endpoint.

    Raises:
        ImportError: the packages of the extra `otel` are not installed.
        ValueError: the environment asks for a protocol that is not spoken.
    """
    if not endpoint:
        return None
    from vlmoe_serve.telemetry.otlp import OtlpTraces

    return OtlpTraces(endpoint)
