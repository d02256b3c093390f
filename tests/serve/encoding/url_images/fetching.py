"""A web server, and one fetch from it."""

import asyncio
import contextlib

from vlmoe_serve.encoding.url_images import UrlImages

PICTURE = b"the bytes of a picture"


def ok(body=PICTURE, *headers):
    lines = [b"HTTP/1.1 200 OK", b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def redirect(place, status=302):
    return f"HTTP/1.1 {status} Found\r\nlocation: {place}\r\ncontent-length: 0\r\n\r\n".encode()


@contextlib.asynccontextmanager
async def serving(answers):
    """A web server; `answers` maps a path to the bytes of an answer. Yields (port, heads of requests)."""
    heads = []
    handlers = set()

    async def one(reader, writer):
        handlers.add(asyncio.current_task())
        try:
            await answer_one(reader, writer)
        finally:
            writer.close()

    async def answer_one(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        heads.append(head)
        answer = answers[head.split()[1].decode()]
        if callable(answer):
            await answer(writer)
        else:
            writer.write(answer)
        with contextlib.suppress(ConnectionError):
            await writer.drain()

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], heads
    finally:
        server.close()
        for handler in handlers:
            handler.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        # a transport lets go of its socket in the loop's next turn
        await asyncio.sleep(0)


def fetching(answers, path="/a.png", *, host="127.0.0.1", listed=None, **options):
    """What one fetch gives, and the heads that the web server saw."""

    async def run():
        async with serving(answers) as (port, heads):
            hosts = [f"{host}:{port}"] if listed is None else [one.format(port=port) for one in listed]
            images = UrlImages(hosts, **options)
            return await images.fetch(f"http://{host}:{port}{path}"), heads

    return asyncio.run(run())
