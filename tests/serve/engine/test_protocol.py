import asyncio
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
DONE = BatchDone(7, (bytes(1_000_000), b""), 1.5)


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


def read_from(*parts: bytes) -> list[object]:
    async def main() -> list[object]:
        reader = asyncio.StreamReader()
        for part in parts:
            reader.feed_data(part)
        reader.feed_eof()
        messages: list[object] = []
        while True:
            try:
                messages.append(await protocol.read(reader))
            except EOFError:
                return messages

    return asyncio.run(main())


def test_messages_to_the_front_arrive_whole_and_a_torn_one_counts_as_the_end() -> None:
    whole = protocol.frame(DONE)
    assert read_from(whole, whole[:3], whole[3:]) == [DONE, DONE]
    assert read_from(whole, whole[:-1]) == [DONE]
    assert read_from(whole[:5]) == []
