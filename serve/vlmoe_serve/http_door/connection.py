"""One connection to the HTTP door: what must hold before there is a request.

    accept -> too many connections? -> head: in time, small enough, well formed? -> a short way, or ASGI

uvicorn bounds neither the time nor the size of a request's head, and lets a connection that sends nothing stay
forever; a few thousand of those would use up a server's file descriptors. Bodies are the concern of `limits.py`, the
short ways that of `short_ways.py`.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from vlmoe_serve.call import new_request_id
from vlmoe_serve.errors import (
    BadRequest,
    HeadTooLarge,
    RequestTooSlow,
    ServeError,
    TooManyConnections,
    UrlTooLong,
    retry_after,
)
from vlmoe_serve.http_door.disconnect import DEPARTURE, Departure
from vlmoe_serve.http_door.errors import error_bytes
from vlmoe_serve.http_door.joined_writes import JoinedWrites
from vlmoe_serve.http_door.wire import Answer, answer_bytes

_JSON = (b"content-type", b"application/json")
_MAX_URL = 8192
_MAX_HEAD = 65_536
_MAX_HEADERS = 100
# Requests that wait for the answers to those before them: so many are read, and more than so many end the connection,
# without a word, because the next answer would be taken for that of the first who waits.
_FEW_WAITING, _MAX_WAITING = 16, 256
# What a caller does not take off the socket for this long ends the connection, and frees the answer that waits for it.
_UNTAKEN_MS = 60_000


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What connections may do.

    max_connections: open at a time. head_s: for a request line and its headers to arrive.
    on_refusal: told the code of every refusal.
    """

    max_connections: int = 2048
    head_s: float = 15.0
    on_refusal: Callable[[str], None] = lambda why: None


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with a clock and a size on the head of every request."""

    limits: ClassVar[ConnectionLimits] = ConnectionLimits()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A caller has connected."""
        self._joined = JoinedWrites(transport, self.loop)
        super().connection_made(self._joined)  # type: ignore[arg-type]
        self._departure = Departure()
        self._in_head, self._begun, self._head_bytes, self._completed = True, False, 0, False
        self._refusal: ServeError | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        _drop_if_untaken(transport)
        if len(self.connections) > self.limits.max_connections:
            self._refuse(
                TooManyConnections(
                    f"there are {self.limits.max_connections} connections, as many as are allowed"
                )
            )
        else:
            self._expect_head()

    @property
    def is_answering(self) -> bool:
        """Whether a request has begun whose answer has not been given."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._stop_timer()
        super().connection_lost(exc)
        self._departure.happened()

    def data_received(self, data: bytes) -> None:
        """Some bytes of requests."""
        if self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
        self._completed = False
        super().data_received(data)
        # most requests come whole, and need no clock
        if self._in_head and (self._begun or not self._completed) and not self.transport.is_closing():
            self._expect_head()
        # a head of endless headers, or of one endless header, which the parser only hands over when it is whole
        if self._in_head and self._head_bytes > _MAX_HEAD and not self.transport.is_closing():
            self._refuse(_head_too_large())

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self.scope[DEPARTURE] = self._departure  # type: ignore[literal-required]
        self._begun = True

    def on_url(self, url: bytes) -> None:
        """A part of the request line's address."""
        super().on_url(url)
        if len(self.url) > _MAX_URL:
            self._fail(UrlTooLong(f"the address is longer than {_MAX_URL} bytes"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole header."""
        super().on_header(name, value)
        if len(self.headers) > _MAX_HEADERS:
            self._fail(HeadTooLarge(f"there are more than {_MAX_HEADERS} headers"))

    def on_headers_complete(self) -> None:
        """The head is whole."""
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > _MAX_HEAD:
            self._fail(_head_too_large())
        self._in_head = False
        self._stop_timer()
        self.on_head()

    def on_head(self) -> None:
        """The head is whole, and small enough."""
        super().on_headers_complete()
        if len(self.pipeline) > _MAX_WAITING:
            self._fail(BadRequest("too many requests wait on one connection", code="too_many_waiting"))

    def on_message_complete(self) -> None:
        """The request is whole; what follows is the next one's head."""
        self.on_whole()
        # a large body stops the reading, and a connection that is not read from does not tell that it has ended
        if len(self.pipeline) < _FEW_WAITING:
            self.flow.resume_reading()
        self._in_head, self._begun, self._head_bytes, self._completed = True, False, 0, True

    def on_whole(self) -> None:
        """The body is whole."""
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer has been given; the next one's turn."""
        super().on_response_complete()
        if len(self.pipeline) >= _FEW_WAITING:
            self.flow.pause_reading()

    def send_400_response(self, msg: str) -> None:
        """What could not be parsed, or was stopped while it was."""
        if len(self.pipeline) > _MAX_WAITING:
            self._stop_timer()
            self.limits.on_refusal("too_many_waiting")
            self.pipeline.clear()
            self.transport.abort()
            return
        self._refuse(self._refusal or BadRequest("this is not HTTP/1.1", code="malformed_request"))

    def _fail(self, error: ServeError) -> None:
        """Stop the parser from one of its callbacks; it answers through `send_400_response`."""
        self._refusal = error
        raise error

    def _refuse(self, error: ServeError) -> None:
        self._stop_timer()
        self.limits.on_refusal(error.code)
        self.transport.write(self._error_bytes(error, new_request_id(), close=True))
        self.transport.close()

    def _error_bytes(self, error: ServeError, request_id: str, *, close: bool = False) -> bytes:
        headers = [_JSON, (b"x-request-id", request_id.encode())]
        wait_s = retry_after(error)
        if wait_s is not None:
            headers.append((b"retry-after", b"%d" % wait_s))
        answer = Answer(error.status, headers, error_bytes(error))
        return answer_bytes(answer, self.server_state.default_headers, close=close)

    def _expect_head(self) -> None:
        if self._head_timer is None and self._in_head:
            self._head_timer = self.loop.call_later(self.limits.head_s, self._head_is_late)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if self.is_answering:
            # its last request is still being answered
            self._expect_head()
        elif not self._begun:
            self.limits.on_refusal("idle")
            self.transport.close()
        else:
            self._refuse(
                RequestTooSlow(f"the head of the request did not come within {self.limits.head_s:g} s")
            )


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(f"the head of the request is larger than {_MAX_HEAD} bytes")


def _drop_if_untaken(transport: asyncio.Transport) -> None:
    connection = transport.get_extra_info("socket")
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if connection is not None and option is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, option, _UNTAKEN_MS)
