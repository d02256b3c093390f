"""The metadata of a call, read as HTTP reads its headers."""

import math
from collections.abc import Iterable

from vlmoe_serve.call import Call, read_priority
from vlmoe_serve.grpc_door.types import Context

Metadata = Iterable[tuple[str, str | bytes]] | None


def value_of(metadata: Metadata, key: str) -> str | None:
    """The first value of a key, if there is one."""
    for name, value in metadata or ():
        if name == key:
            return value if isinstance(value, str) else value.decode("latin-1")
    return None


def call_from(context: Context) -> Call:
    """The caller's deadline and priority.

    Raises:
        BadRequest: a value out of range.
    """
    left_s = context.time_remaining()
    bounded = left_s is not None and math.isfinite(left_s)
    return Call.within(
        left_s if bounded else None, read_priority(value_of(context.invocation_metadata(), "x-priority"))
    )


def timing_metadata(call: Call) -> tuple[tuple[str, str], ...]:
    """Where the time of a call went."""
    return tuple(call.timings.headers().items())
