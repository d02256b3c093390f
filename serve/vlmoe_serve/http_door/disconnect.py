"""Work whose caller hangs up is cancelled: nobody is waiting for it."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

# where a connection leaves its `Departure` for whoever answers its requests
DEPARTURE = "vlmoe.departure"

T = TypeVar("T")


class Departure:
    """Of the caller at the other end of a connection; one request at a time waits for it."""

    def __init__(self) -> None:
        self._gone = False
        self._tell: Callable[[], None] | None = None

    def happened(self) -> None:
        """The caller is gone."""
        self._gone = True
        if self._tell is not None:
            self._tell()

    def watch(self, tell: Callable[[], None]) -> None:
        """Call this when it happens, or soon if it has."""
        self._tell = tell
        if self._gone:
            asyncio.get_running_loop().call_soon(self.happened)

    def ignore(self) -> None:
        """Nobody need be told any more."""
        self._tell = None


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await the work, or cancel it when the request's caller goes.

    Raises:
        ClientDisconnect: the caller is gone.
    """
    return await unless_left(request.scope[DEPARTURE], work)


async def unless_left(departure: Departure, work: Coroutine[Any, Any, T]) -> T:
    """Await the work, or cancel it when the caller goes.

    Raises:
        ClientDisconnect: the caller is gone.
    """
    here = asyncio.current_task()
    assert here is not None, "a door's coroutines run in tasks"
    left = False

    def leave() -> None:
        nonlocal left
        left = True
        here.cancel()

    departure.watch(leave)
    try:
        return await work
    except asyncio.CancelledError:
        # whoever else cancels us at the same moment counts for more
        if left and here.uncancel() == 0:
            raise ClientDisconnect from None
        raise
    finally:
        departure.ignore()
