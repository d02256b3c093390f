"""Messages between hosts. No pickle: what arrives can become one of the values listed here and nothing else.

    frame: length of the head, length of the rest | head: JSON | rest: the raw bytes of its arrays and blocks

In the head a value is itself, or an object with one key that says what it is: {"bytes": SIZE},
{"array": [DTYPE, SHAPE]}, {"map": {...}}, {"NAME OF A MESSAGE": {...}}.
"""

import dataclasses
import json
import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlmoe_model.inputs import Example, Job
from vlmoe_model.routing_mode import RoutingMode
from vlmoe_serve.engine.orders import LayerMove, MoveState, Orders
from vlmoe_serve.engine.protocol import Jobs, LoadFailed, Ping, Pong, RankDone
from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.placement import Placement
from vlmoe_serve.placement.rebalancing import RebalanceOptions
from vlmoe_serve.placement.trace_format import Rows

LENGTHS = struct.Struct("!IQ")
# a batch of images is some megabytes
MAX_BYTES = 1 << 31
_DTYPES = {
    name: np.dtype(name)
    for name in ("uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
}


class WireError(OSError):
    """What came is no message of ours."""


@dataclass(frozen=True, slots=True)
class NodeHello:
    """An agent's first message. terms: what has to be equal on all nodes (`terms.py`)."""

    node: int
    terms: dict[str, str]


@dataclass(frozen=True, slots=True)
class Welcome:
    """The node is taken in. admission: its ranks show it."""

    admission: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The connection ends after this. final: asking again is no use."""

    reason: str
    final: bool


@dataclass(frozen=True, slots=True)
class RankHello:
    """A rank's first message. how: the dtype and the kernels that it computes with."""

    rank: int
    admission: str
    how: str


@dataclass(frozen=True, slots=True)
class Begin:
    """All are there: join the group.

    address: what others reach this host by, where it cannot know. store_port: of node 0, where NCCL's ranks meet.
    placement: which rank is to hold which experts. mode: how jobs are routed that do not say. rebalance: how experts
    move. costs: of a step.
    """

    address: str
    store_port: int
    placement: Placement | None
    mode: RoutingMode
    rebalance: RebalanceOptions | None
    costs: Costs | None


@dataclass(frozen=True, slots=True)
class Put:
    """Remember a value for the others, while the group is joined."""

    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Ask:
    """Send that value, as soon as somebody has put it."""

    key: str


@dataclass(frozen=True, slots=True)
class Value:
    """The value that was asked for."""

    value: bytes


@dataclass(frozen=True, slots=True)
class Joined:
    """The rank has reached all others; no more values are needed."""


@dataclass(frozen=True, slots=True)
class GroupUp:
    """For agents: every rank has loaded."""


MESSAGES: dict[str, type[Any]] = {
    message.__name__: message
    for message in (
        *(NodeHello, Welcome, Refused, RankHello, Begin, Placement, RoutingMode, RebalanceOptions, Costs),
        *(Put, Ask, Value, Joined, LoadFailed, GroupUp, Ping, Pong),
        *(Jobs, Job, Example, Orders, LayerMove, RankDone, Rows, MoveState),
    )
}


def pack(message: object) -> list[bytes | memoryview]:
    """The parts of one frame, to be sent one behind the other."""
    rest: list[bytes | memoryview] = []
    head = json.dumps(_plain(message, rest)).encode()
    return [LENGTHS.pack(len(head), sum(len(part) for part in rest)), head, *rest]


def unpack(head: bytes, rest: bytearray) -> Any:
    """The message of a frame; its arrays are views of `rest`.

    Raises:
        WireError: it is none.
    """
    try:
        value, end = _value(json.loads(head), memoryview(rest), 0)
    # whatever it trips over, it is the sender who wrote it
    except Exception as error:
        raise WireError(f"this is no message: {type(error).__name__}: {error}") from None
    if end != len(rest) or type(value).__name__ not in MESSAGES:
        raise WireError("this is no message: it ends too early or too late")
    return value


def _plain(value: Any, rest: list[bytes | memoryview]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [_plain(item, rest) for item in value]
    if isinstance(value, dict):
        return {"map": {key: _plain(item, rest) for key, item in value.items()}}
    if isinstance(value, bytes):
        rest.append(value)
        return {"bytes": len(value)}
    if isinstance(value, np.ndarray):
        rest.append(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
        return {"array": [value.dtype.name, list(value.shape)]}
    fields = dataclasses.fields(value)
    return {type(value).__name__: {one.name: _plain(getattr(value, one.name), rest) for one in fields}}


def _value(plain: Any, rest: memoryview, place: int) -> tuple[Any, int]:
    """The value, and where the next one's bytes begin."""
    if isinstance(plain, list):
        items = []
        for item in plain:
            made, place = _value(item, rest, place)
            items.append(made)
        return tuple(items), place
    if not isinstance(plain, dict):
        return plain, place
    ((kind, content),) = plain.items()
    if kind == "bytes":
        return bytes(_cut(rest, place, content)), place + content
    if kind == "array":
        name, shape = content
        dtype = _DTYPES[name]
        size = math.prod(shape) * dtype.itemsize
        return np.frombuffer(_cut(rest, place, size), dtype).reshape(shape), place + size
    made = {}
    for key, item in content.items():
        made[key], place = _value(item, rest, place)
    return (made if kind == "map" else MESSAGES[kind](**made)), place


def _cut(rest: memoryview, place: int, size: int) -> memoryview:
    if not isinstance(size, int) or not 0 <= size <= len(rest) - place:
        raise ValueError("a length is wrong")
    return rest[place : place + size]
