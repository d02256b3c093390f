"""No body larger or slower than allowed gets in: refused by its declared length before it is read, or while it arrives.

Nor does one that is packed, which could become any size.

An answer that closes the connection before all of the body has come, for whatever reason, is given time to arrive.
Pure ASGI, because it must stand between the socket and whoever reads the body.
"""

import asyncio

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlmoe_serve.errors import (
    BadRequest,
    PayloadTooLarge,
    RequestTooSlow,
    ServeError,
    UnsupportedEncoding,
)
from vlmoe_serve.http_door.errors import error_response
from vlmoe_serve.http_door.head import head_of
from vlmoe_serve.validation import shown

# Closing a connection while bytes still arrive resets it, and the caller may lose the answer. So the answer
# is sent, and what arrives is thrown away for a moment before the connection ends.
_LINGER_S = 2.0
# A body has this long to arrive, and a second more for every so many bytes that have: whoever sends a byte now and
# then cannot hold a place for long, and a slow line can still send a picture.
_GRACE_S = 20.0
_BYTES_A_SECOND = 4096


class BodyLimit:
    """Refuses bodies over `max_bytes` with 413, and those that do not arrive in time with 408."""

    def __init__(self, app: ASGIApp, max_bytes: int, grace_s: float = _GRACE_S) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._grace_s = grace_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(receive, send, self._max_bytes, self._grace_s)
        head = head_of(scope)
        error = self._by_length(head.get("content-length")) or _packed(head.get("content-encoding"))
        if error is None:
            await self._app(scope, body.receive, body.send)
        else:
            headers = {"connection": "close"}
            if error.status == UnsupportedEncoding.status:
                headers["accept-encoding"] = "identity"
            answer = error_response(error, headers, path=scope["path"])
            await answer(scope, receive, body.send)

    def _by_length(self, declared: str | None) -> ServeError | None:
        if declared is None:
            return None
        if not (declared.isascii() and declared.isdigit()):
            return BadRequest("content-length must be a whole number", param="content-length")
        # no body has a length of 19 digits, and Python refuses to read a number of thousands
        if len(declared) > 18 or int(declared) > self._max_bytes:
            return too_large(self._max_bytes)
        return None


def _packed(encoding: str | None) -> ServeError | None:
    if encoding is None or encoding.strip().lower() in ("", "identity"):
        return None
    return UnsupportedEncoding(
        f"bodies are taken as they are, not packed: content-encoding is {shown(encoding)}",
        param="content-encoding",
    )


def too_large(max_bytes: int) -> PayloadTooLarge:
    """The refusal."""
    return PayloadTooLarge(f"the body is larger than the limit of {max_bytes} bytes", code="body_too_large")


class _Body:
    """One request's stream of bytes, counted and timed."""

    def __init__(self, receive: Receive, send: Send, max_bytes: int, grace_s: float) -> None:
        self._receive = receive
        self._send = send
        self._left = max_bytes
        self._max_bytes = max_bytes
        self._closing = False
        self._more = True
        self._due_s = asyncio.get_running_loop().time() + grace_s

    async def receive(self) -> Message:
        if not self._more:
            # after the body, whoever waits here waits for the caller to leave
            return await self._receive()
        async with asyncio.timeout_at(self._due_s) as clock:
            try:
                message = await self._receive()
            except asyncio.CancelledError:
                if not clock.expired():
                    raise
                self._closing = True
                raise RequestTooSlow("the body of the request did not come in time") from None
        self._more = message.get("more_body", False)
        size = len(message.get("body", b""))
        self._left -= size
        self._due_s += size / _BYTES_A_SECOND
        if self._left < 0:
            self._closing = True
            raise too_large(self._max_bytes)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if self._closing:
                MutableHeaders(scope=message)["connection"] = "close"
            self._closing = (b"connection", b"close") in message.get("headers", ())
        elif self._closing and self._more and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    async def _linger(self) -> None:
        try:
            async with asyncio.timeout(_LINGER_S):
                while (await self._receive()).get("more_body", False):
                    pass
        except TimeoutError:
            return
