"""What the front and its engine process say to each other.

    front:   Load             Batch            Batch ...   Ping       (end of stream: stop)
    engine:         Ready | LoadFailed   BatchDone | BatchRaised ...   Pong

Frames over a socket pair: eight bytes of length, then the pickled message. Pickle is safe here because both
ends are our own processes and the pair is anonymous: it is made by the front and inherited by the child it
starts, so nobody else can write to it. Nothing a client sends is ever unpickled: images and tokens travel as
raw numbers in shared memory (`transport.py`), a message only says where they lie. What goes with every batch is made of
tuples, which pickle in half the time of other objects.
"""

import pickle
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from vlmoe_model.inputs import Job
from vlmoe_serve.batching.cost import Sample
from vlmoe_serve.engine.base import EngineFacts, EngineOptions
from vlmoe_serve.engine.orders import MoveState, Orders
from vlmoe_serve.engine.report import EngineReport
from vlmoe_serve.engine.transport import JobRef
from vlmoe_serve.placement.trace_format import Rows

_LENGTH = struct.Struct("!Q")


@dataclass(frozen=True, slots=True)
class Load:
    """First message: load this. factory: `module:function` that makes the engine."""

    factory: str
    options: EngineOptions


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What the front knows about a running engine.

    load_s: from the start of the process until the warm-up had passed. samples: timed warm-up forwards.
    """

    facts: EngineFacts
    load_s: float
    samples: tuple[Sample, ...]

    @property
    def model_id(self) -> str:
        """Fingerprint of weights and config."""
        return self.facts.model_id

    @property
    def space_id(self) -> str | None:
        """Fingerprint of what an embedding depends on; None without a contrastive head."""
        return self.facts.space_id

    @property
    def logit_scale(self) -> float:
        """Temperature of the contrastive head; 1.0 without one."""
        return self.facts.logit_scale

    @property
    def dtype(self) -> str:
        """What it computes in."""
        return self.facts.dtype

    @property
    def device(self) -> str:
        """What it computes on."""
        return self.facts.device

    @property
    def backend(self) -> str:
        """The kernels that run."""
        return self.facts.backend

    @property
    def num_parameters(self) -> int:
        """All parameters, experts included."""
        return self.facts.num_parameters


@dataclass(frozen=True, slots=True)
class Ready:
    """Loaded, and a real forward has passed."""

    facts: EngineFacts
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The engine will not come up; the process ends after this."""

    reason: str


class Batch(NamedTuple):
    """Run these jobs, whose arrays lie in arena number `arena`, of which `arena_bytes` are in use.

    Between ranks: traced: whether to tell what the routers chose. orders: what to do with experts first. threads: to
    compute with where no other rank does; 0 for its own.
    """

    id: int
    arena: int
    arena_bytes: int
    jobs: tuple[JobRef, ...]
    traced: bool = False
    orders: Orders | None = None
    threads: int = 0


@dataclass(frozen=True, slots=True)
class Jobs:
    """For a rank, from wherever its arrays came: run these.

    traced: whether to tell what the routers chose. orders: what to do with experts first. threads: to compute with
    where no other rank does; 0 for its own.
    """

    jobs: tuple[Job, ...]
    traced: bool = False
    orders: Orders | None = None
    threads: int = 0


class BatchDone(NamedTuple):
    """One block of float32 values a job, in order. report: now and then, what the engine has done."""

    id: int
    outputs: tuple[bytes, ...]
    forward_ms: float
    report: EngineReport | None = None


@dataclass(frozen=True, slots=True)
class RankDone:
    """What another rank tells rank 0 of its part: the outputs, and if asked what its routers chose.

    memory_bytes: resident memory of its process. rows: step and time are 0, a request is the number of its job in the
    part. moves: how far it is with its orders, where experts move.
    """

    outputs: tuple[bytes, ...]
    memory_bytes: int = 0
    rows: Rows | None = None
    moves: MoveState | None = None


@dataclass(frozen=True, slots=True)
class BatchRaised:
    """This batch raised; the engine lives on."""

    id: int
    reason: str


@dataclass(frozen=True, slots=True)
class Ping:
    """Say that you live; sent to an idle engine. left: of several checkpoints, the places of those served no more."""

    id: int
    left: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Pong:
    """It lives. report: as in `BatchDone`."""

    id: int
    report: EngineReport | None = None


ToEngine = Load | Batch | Ping
FromEngine = Ready | LoadFailed | BatchDone | BatchRaised | Pong
ToRank = Jobs | Ping
FromRank = RankDone | LoadFailed | Pong


def frame(message: ToEngine | FromEngine | FromRank) -> bytes:
    """The bytes of one message."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


class Frames:
    """The engine's messages out of a stream of bytes, however it was cut."""

    def __init__(self) -> None:
        self._left = bytearray()

    def feed(self, data: bytes) -> Iterator[FromEngine]:
        """The messages that are whole with these bytes; a torn one at the end of the stream is none."""
        self._left += data
        while len(self._left) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._left)
            end = _LENGTH.size + length
            if len(self._left) < end:
                return
            with memoryview(self._left) as whole:
                message: FromEngine = pickle.loads(whole[_LENGTH.size : end])
            del self._left[:end]
            yield message


def receive(sock: socket.socket) -> ToEngine:
    """The front's next message, blocking.

    Raises:
        EOFError: the front is gone.
    """
    (length,) = _LENGTH.unpack(_receive_exactly(sock, _LENGTH.size))
    message: ToEngine = pickle.loads(_receive_exactly(sock, length))
    return message


def _receive_exactly(sock: socket.socket, length: int) -> bytes:
    body = bytearray()
    while len(body) < length:
        part = sock.recv(length - len(body))
        if not part:
            raise EOFError("the front closed the connection")
        body += part
    return bytes(body)
