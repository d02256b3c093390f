import socket
from pathlib import Path

import pytest

from vlmoe_serve.engine import protocol
from vlmoe_serve.engine.base import EngineOptions
from vlmoe_serve.engine.protocol import Batch, BatchDone, Load
from vlmoe_serve.engine.transport import ArrayRef, JobRef

TO_ENGINE = [
    Load("module:load", EngineOptions(Path("here"), threads=2)),
    Batch(
        7, 1, 4096, (JobRef("vqa", ArrayRef(0, (8, 8, 3)), ArrayRef(192, (5,))), JobRef("itc", None, None))
    ),
]
DONE = BatchDone(7, (bytes(300_000), b""), 1.5)


def test_messages_to_the_engine_arrive_whole() -> None:
    front, engine = socket.socketpair()
    with front, engine:
        front.sendall(b"".join(map(protocol.frame, TO_ENGINE)))
        assert [protocol.receive(engine) for _ in TO_ENGINE] == TO_ENGINE


@pytest.mark.parametrize("num_bytes", [0, 3, 20])
def test_the_engine_sees_the_front_hang_up_even_inside_a_message(num_bytes: int) -> None:
    front, engine = socket.socketpair()
    with front, engine:
        front.sendall(protocol.frame(TO_ENGINE[1])[:num_bytes])
        front.close()
        with pytest.raises(EOFError):
            protocol.receive(engine)


@pytest.mark.parametrize("size", [1, 7, 1000, 10_000_000])
def test_messages_to_the_front_arrive_whole_and_a_torn_one_is_none(size: int) -> None:
    small = BatchDone(8, (b"x",), 0.5)
    stream = b"".join(map(protocol.frame, [small, small, DONE, small])) + protocol.frame(small)[:-1]
    if size == 1:
        stream = stream[: 2 * len(protocol.frame(small)) + 5]
    frames = protocol.Frames()
    found = [
        message
        for start in range(0, len(stream), size)
        for message in frames.feed(stream[start : start + size])
    ]
    assert found == ([small, small] if size == 1 else [small, small, DONE, small])
