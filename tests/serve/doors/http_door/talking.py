"""A server on loopback for one test, and what talks to it in bytes."""

import asyncio
import contextlib

from vlmoe_serve.http_door.server import HttpServer, listen

from ...waiting import PATIENCE_S


class _Skipping(asyncio.SelectorEventLoop):
    """A loop whose clock can be put forward: what is about times needs no sleep, and no fast machine."""

    def __init__(self):
        super().__init__()
        self.skipped_s = 0.0

    def time(self):
        return super().time() + self.skipped_s


async def skip(seconds):
    """Let that much time go by at once, for everybody; what was sent before has arrived before."""
    await turns()
    asyncio.get_running_loop().skipped_s += seconds
    await turns()


async def turns():
    """Let the server, which is in this thread, do what it can do now."""
    for _ in range(20):
        await asyncio.sleep(0)


def talking(talk, app, limits=None, ways=None):
    """Run `talk(connect)` against a server of this app; connections that it opens are closed at the end.

    What it skips is part of its patience.
    """

    async def run():
        listener = listen("127.0.0.1", 0)
        server = HttpServer(app, limits=limits, ways=ways)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.001)
        async with contextlib.AsyncExitStack() as open_connections:

            async def connect(limit=2**16):
                """limit: bytes that the caller takes off the socket before it reads them."""
                reader, writer = await asyncio.open_connection(*listener.getsockname()[:2], limit=limit)
                open_connections.callback(writer.close)
                return reader, writer

            try:
                async with asyncio.timeout(PATIENCE_S):
                    await talk(connect)
            finally:
                server.end()
                await serving
                listener.close()

    with asyncio.Runner(loop_factory=_Skipping) as runner:
        runner.run(run())


async def answered(reader):
    """Status, fields and body of one answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
    return int(head.split()[1]), fields, await reader.readexactly(int(fields[b"content-length"]))
