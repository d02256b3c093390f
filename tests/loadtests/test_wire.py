"""Answers on bare sockets: bodies, and answers that nobody asked for."""

import asyncio

from vlmoe_loadtests.wire import Pool

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nX-Name: Value\r\n\r\n"


def asked(*said):
    """The first answer of a server that says this to one request, and how many were not asked for."""

    over = asyncio.Event()

    async def handle(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        for part in said:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.close()
        over.set()

    async def main():
        async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()[:2]
            pool = Pool(host, port)
            answer = await pool.ask(b"GET / HTTP/1.1\r\n\r\n", 120.0)
            await over.wait()
            # what was sent is there, and is read within a few turns of the loop
            for _ in range(20):
                await asyncio.sleep(0)
            pool.close()
            return answer, pool.num_unasked

    return asyncio.run(main())


def test_a_body_comes_in_pieces():
    answer, unasked = asked(OK + b"o", b"k")
    assert (answer.status, answer.headers["x-name"], answer.body, unasked) == (200, "Value", b"ok", 0)


def test_a_second_answer_to_one_request_is_counted():
    answer, unasked = asked(OK + b"ok", OK + b"no")
    assert (answer.body, unasked) == (b"ok", 1)
