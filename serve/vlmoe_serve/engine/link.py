"""The front's end of the socket to an engine process: a message is handed over in the loop's turn in which it came."""

import asyncio
import socket
from collections.abc import Callable
from typing import cast

from vlmoe_serve.engine.protocol import Frames, FromEngine, ToEngine, frame


class Link(asyncio.Protocol):
    """Make it with `over`; it ends when the other side is gone, when it is closed, or at the first bad message.

    Args:
        tell: called with each message; what it raises ends the link.
    """

    def __init__(self, tell: Callable[[FromEngine], None]) -> None:
        self._tell = tell
        self._frames = Frames()
        self._over = asyncio.Event()
        self._error: Exception | None = None
        self._transport: asyncio.Transport

    @classmethod
    async def over(cls, sock: socket.socket, tell: Callable[[FromEngine], None]) -> "Link":
        """A link over one end of a pair, which it owns from here on."""
        _, link = await asyncio.get_running_loop().create_connection(lambda: cls(tell), sock=sock)
        return link

    @property
    def ended(self) -> bool:
        """Whether no message will come any more."""
        return self._over.is_set()

    def send(self, message: ToEngine) -> None:
        """Send this; lost if the other side is gone."""
        self._transport.write(frame(message))

    async def end(self) -> None:
        """Wait until it has ended.

        Raises:
            Exception: the message that ended it was none, or was not expected.
        """
        await self._over.wait()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End it. What the other side has not taken yet is thrown away: it may hang."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The loop has taken the socket."""
        # uvloop's is one in all but name
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """A piece of a message, or several messages."""
        try:
            for message in self._frames.feed(data):
                self._tell(message)
        except Exception as error:
            self._error = error
            self._over.set()
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side is gone, or we have closed."""
        self._over.set()
