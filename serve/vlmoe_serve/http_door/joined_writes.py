"""The head and the body of an answer in one write.

uvicorn writes them one after the other, each of which is a system call and wakes the caller.
"""

import asyncio
from typing import Any


class JoinedWrites:
    """A transport that holds a write back until the next one, or the end of the loop's turn."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""

    def __getattr__(self, name: str) -> Any:
        # what is no matter of writing
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Hold this, or send it behind what is held."""
        if self._held:
            self.send(data)
        elif data:
            self._held = data
            self._loop.call_soon(self.flush)

    def send(self, data: bytes) -> None:
        """Write this at once, behind what is held; nothing, if the caller has gone."""
        held, self._held = self._held, b""
        # uvloop raises for a transport that is closed, and tells the protocol only in its next turn
        if not self._transport.is_closing():
            self._transport.write(held + data)

    def flush(self) -> None:
        """Send what is held."""
        if self._held:
            self.send(b"")

    def close(self) -> None:
        """Close behind what is held."""
        self.flush()
        self._transport.close()
