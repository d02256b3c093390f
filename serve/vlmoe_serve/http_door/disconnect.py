"""Work whose caller hangs up is cancelled: nobody is waiting for it."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

T = TypeVar("T")


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await the work, or cancel it when the caller goes. The request's body must have been read.

    Raises:
        ClientDisconnect: the caller is gone.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        watching.cancel()
        if not working.done():
            working.cancel()
            # its cleanup is part of the request: it takes the work out of the queue
            await asyncio.wait((working,))
        # the task holds its error, the error this frame, and the frame's callers the body: without this, megabytes
        # of refused requests would wait for the garbage collector
        del working


async def _gone(receive: Receive) -> None:
    # not the request: a cancelled task is a cycle, and the request holds the body
    while (await receive())["type"] != "http.disconnect":
        pass
