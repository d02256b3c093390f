import asyncio
import pickle
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from vlmoe_serve.engine import protocol
from vlmoe_serve.engine.link import Link
from vlmoe_serve.engine.protocol import FromEngine, Ping, Pong

from ..waiting import PATIENCE_S


def linked(use: Callable[[Link, socket.socket, list[FromEngine]], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        told: list[FromEngine] = []
        with theirs:
            theirs.settimeout(PATIENCE_S)
            link = await Link.over(ours, told.append)
            async with asyncio.timeout(PATIENCE_S):
                await use(link, theirs, told)

    asyncio.run(main())


def test_what_is_sent_arrives_and_what_comes_is_told() -> None:
    async def use(link: Link, engine: socket.socket, told: list[FromEngine]) -> None:
        link.send(Ping(3))
        assert await asyncio.to_thread(protocol.receive, engine) == Ping(3)
        engine.sendall(protocol.frame(Pong(3)) + protocol.frame(Pong(4))[:5])
        while not told:
            await asyncio.sleep(0)
        engine.sendall(protocol.frame(Pong(4))[5:])
        engine.close()
        await link.end()
        assert told == [Pong(3), Pong(4)]
        assert link.ended

    linked(use)


def test_a_message_that_is_none_ends_the_link_with_its_error() -> None:
    async def use(link: Link, engine: socket.socket, told: list[FromEngine]) -> None:
        engine.sendall((8).to_bytes(8, "big") + b"no pickl")
        with pytest.raises(pickle.UnpicklingError):
            await link.end()
        assert told == []
        assert await asyncio.to_thread(engine.recv, 1) == b""

    linked(use)


def test_closing_does_not_wait_for_an_engine_that_reads_no_more() -> None:
    async def use(link: Link, engine: socket.socket, told: list[FromEngine]) -> None:
        for number in range(100_000):
            link.send(Ping(number))
        link.close()
        await link.end()

    linked(use)
