"""The connection's limits, over real sockets, in front of an app that answers everything."""

import asyncio
import contextlib
import dataclasses
import json

import pytest

from vlmoe_serve.http_door.connection import ConnectionLimits
from vlmoe_serve.http_door.limits import BodyLimit

from . import talking as server

# Far more than a test needs between two of its skips.
HEAD_S = 20.0
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def echo(scope, receive, send):
    """Answers how many bytes the body had."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    body = str(size).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def talking(talk, limits, app=echo):
    """Run `talk(connect, refused)` against a server; `refused` collects why connections were refused."""

    refused = []
    limits = dataclasses.replace(limits, on_refusal=refused.append)
    server.talking(lambda connect: talk(connect, refused), app, limits)


async def answered(reader):
    """The status of one answer, its JSON if it is an error, and its fields."""
    status, fields, body = await server.answered(reader)
    return status, json.loads(body) if status >= 400 else body, fields


@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 414, "url_too_long"),
        (b"GET /" + b"a" * 300_000, 414, "url_too_long"),
        (b"GET / HTTP/1.1\r\na: " + b"b" * 70_000 + b"\r\n\r\n", 431, "head_too_large"),
        (b"GET / HTTP/1.1\r\na: " + b"b" * 300_000, 431, "head_too_large"),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 101 + b"\r\n", 431, "head_too_large"),
        (b"\r\n" * 40_000, 431, "head_too_large"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "malformed_request"),
        (b"GET / HTTP/9.9\r\nhost: x\r\n\r\n", 400, "malformed_request"),
        (b"GET / HTTP/1.1\r\nhost: x\r\na\x00b: c\r\n\r\n", 400, "malformed_request"),
        (b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n", 400, "malformed_request"),
        (b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n", 400, "malformed_request"),
        # two lengths: what one proxy takes for a body, another takes for the next request
        (
            b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "malformed_request",
        ),
        (
            b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcd",
            400,
            "malformed_request",
        ),
    ],
)
def test_heads_that_are_refused(head, status, code):
    async def talk(connect, refused):
        reader, writer = await connect()
        writer.write(head)
        answer = await answered(reader)
        assert (answer[0], answer[1]["error"]["code"]) == (status, code)
        assert answer[2][b"connection"] == b"close"
        assert answer[2][b"x-request-id"]
        assert refused == [code]
        other, writer = await connect()
        writer.write(GET)
        assert (await answered(other))[0] == 200

    talking(talk, ConnectionLimits())


def test_the_largest_head_is_taken():
    async def talk(connect, refused):
        reader, writer = await connect()
        headers = b"".join(b"a%d: %s\r\n" % (i, b"b" * 500) for i in range(98))
        writer.write(b"GET /" + b"a" * 8000 + b" HTTP/1.1\r\nhost: x\r\n" + headers + b"\r\n")
        assert (await answered(reader))[0] == 200
        assert refused == []

    talking(talk, ConnectionLimits())


def test_who_says_nothing_is_sent_away_and_who_says_it_slowly_is_told():
    async def talk(connect, refused):
        silent, _ = await connect()
        slow, slowly = await connect()
        slowly.write(GET[:5])
        await server.skip(HEAD_S / 2)
        # a byte now and then does not make it longer
        slowly.write(GET[5:-2])
        await server.skip(HEAD_S / 2)
        answer = await answered(slow)
        assert (answer[0], answer[1]["error"]["code"]) == (408, "request_too_slow")
        assert await silent.read() == b""
        assert sorted(refused) == ["idle", "request_too_slow"]

    talking(talk, ConnectionLimits(head_s=HEAD_S))


def test_the_clock_runs_for_every_request_of_a_connection():
    async def talk(connect, refused):
        reader, writer = await connect()
        for _ in range(2):
            writer.write(GET)
            assert (await answered(reader))[0] == 200
            await server.skip(0.75 * HEAD_S)
        writer.write(GET[:10])
        await server.skip(HEAD_S)
        assert (await answered(reader))[0] == 408
        other, writer = await connect()
        writer.write(GET + GET[:10])
        assert (await answered(other))[0] == 200
        await server.skip(HEAD_S)
        assert (await answered(other))[0] == 408

    talking(talk, ConnectionLimits(head_s=HEAD_S))


def test_an_answer_that_takes_long_is_not_cut_by_the_next_head():
    go = asyncio.Event()

    async def slow(scope, receive, send):
        await go.wait()
        await echo(scope, receive, send)

    async def talk(connect, refused):
        reader, writer = await connect()
        writer.write(GET + GET[:10])
        for _ in range(2):
            await server.skip(HEAD_S)
        go.set()
        assert (await answered(reader))[0] == 200
        # from here on it counts
        await server.skip(HEAD_S)
        assert (await answered(reader))[0] == 408

    talking(talk, ConnectionLimits(head_s=HEAD_S), slow)


def test_requests_that_are_sent_ahead_are_answered_in_their_order():
    async def talk(connect, refused):
        reader, writer = await connect()
        for size in range(100):
            writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size + b"a" * size)
        assert [(await answered(reader))[1] for _ in range(100)] == [b"%d" % size for size in range(100)]
        assert refused == []

    talking(talk, ConnectionLimits())


def test_more_than_anybody_sends_ahead_ends_the_connection_and_no_other():
    begun, go = [], asyncio.Event()

    async def waiting(scope, receive, send):
        begun.append(1)
        await go.wait()
        await echo(scope, receive, send)

    async def talk(connect, refused):
        reader, writer = await connect()
        # in pieces: only so many are read while others wait
        with contextlib.suppress(ConnectionError):
            for _ in range(40):
                writer.write(GET * 10)
                await writer.drain()
                await asyncio.sleep(0.002)
            writer.write(GET * 2000)
            await writer.drain()
        other, more = await connect()
        more.write(GET)
        go.set()
        assert (await answered(other))[0] == 200
        with contextlib.suppress(ConnectionError):
            assert len(await reader.read()) < 100_000
        assert refused == ["too_many_waiting"]
        assert len(begun) < 400

    talking(talk, ConnectionLimits(), waiting)


def test_connections_over_the_limit_are_told_when_to_come_back():
    async def talk(connect, refused):
        held = [await connect() for _ in range(3)]
        reader, _ = await connect()
        answer = await answered(reader)
        assert (answer[0], answer[1]["error"]["code"]) == (503, "too_many_connections")
        assert int(answer[2][b"retry-after"]) >= 1
        held[0][1].close()
        await held[0][1].wait_closed()
        await server.turns()
        reader, writer = await connect()
        writer.write(GET)
        assert (await answered(reader))[0] == 200
        assert refused == ["too_many_connections"]

    talking(talk, ConnectionLimits(max_connections=3))


def test_a_body_that_trickles_is_refused_and_one_that_flows_is_not():
    async def answering(scope, receive, send):
        # what FastAPI does with a refusal that is raised while the body is read
        try:
            await echo(scope, receive, send)
        except Exception as error:
            body = error.code.encode()
            headers = [(b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": error.status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    async def talk(connect, refused):
        reader, writer = await connect()
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n")
        for _ in range(3):
            writer.write(b"a")
            await server.skip(0.35 * HEAD_S)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408")
        assert b"connection: close" in head
        assert await reader.readexactly(16) == b"request_too_slow"

        other, writer = await connect()
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 40000\r\n\r\n")
        # for longer than the grace, and not longer than so many bytes may take
        for _ in range(20):
            writer.write(b"a" * 2000)
            await server.skip(0.06 * HEAD_S)
        assert (await answered(other))[1] == b"40000"

    talking(talk, ConnectionLimits(), BodyLimit(answering, 10**6, grace_s=HEAD_S))
