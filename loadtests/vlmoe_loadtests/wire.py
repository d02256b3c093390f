"""HTTP/1.1 on bare sockets: one request at a time on a connection, connections as many as it takes.

A client library costs more time a request than the server does; on a shared machine that would be measured.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field

import httptools


@dataclass(slots=True)
class Answer:
    """Status, the headers by their lower-case names, and the body."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer = Answer()
        self._done: asyncio.Future[Answer] | None = None
        self.usable = True
        # answers to nothing that was asked: a server that answers a request twice is not to go unseen
        self.num_unasked = 0

    async def ask(self, request: bytes) -> Answer:
        """Send a request and wait for the end of its answer.

        Raises:
            ConnectionError: the connection ended first.
        """
        assert self._transport is not None, "not connected"
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._done

    def close(self) -> None:
        """Hang up."""
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Some of an answer."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"not HTTP: {error}"))
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        """The other side, or we, hung up."""
        self.usable = False
        self._fail(ConnectionError("the connection ended before the answer"))

    def on_message_begin(self) -> None:
        """An answer begins."""
        self._answer = Answer()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._answer.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, data: bytes) -> None:
        """Some of the body."""
        self._answer.body = self._answer.body + data if self._answer.body else data

    def on_message_complete(self) -> None:
        """The answer is whole."""
        self._answer.status = self._parser.get_status_code()
        self.usable = self.usable and self._parser.should_keep_alive()
        # an early refusal, with the body still on its way, is an answer all the same
        if self._done is not None and not self._done.done():
            self._done.set_result(self._answer)
        else:
            self.num_unasked += 1

    def _fail(self, error: ConnectionError) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(error)


class Pool:
    """Connections to one server, opened when all others are busy."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._idle: deque[Connection] = deque()
        self._all: list[Connection] = []

    @property
    def num_unasked(self) -> int:
        """Answers that came to nothing that was asked, on all connections so far."""
        return sum(connection.num_unasked for connection in self._all)

    async def ask(self, request: bytes, timeout_s: float) -> Answer:
        """Send a request on a free connection.

        Raises:
            TimeoutError: no answer in time; the connection is closed, as a caller who gives up would do.
            ConnectionError, OSError: it could not be sent, or the connection ended.
        """
        async with asyncio.timeout(timeout_s):
            connection = await self._free()
            try:
                answer = await connection.ask(request)
            except BaseException:
                connection.close()
                raise
        if connection.usable:
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    def close(self) -> None:
        """Hang up everywhere."""
        while self._idle:
            self._idle.pop().close()

    async def _free(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, self._host, self._port)
        self._all.append(connection)
        return connection
