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
    here = asyncio.current_task()
    assert here is not None, "a door's coroutines run in tasks"
    left = over = False

    def leave(watching: asyncio.Task[None]) -> None:
        nonlocal left
        if not over and not watching.cancelled():
            left = True
            here.cancel()

    watching = asyncio.get_running_loop().create_task(_gone(request.receive))
    watching.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        # whoever else cancels us at the same moment counts for more
        if left and here.uncancel() == 0:
            raise ClientDisconnect from None
        raise
    finally:
        over = True
        watching.cancel()


async def _gone(receive: Receive) -> None:
    # not the request: a cancelled task is a cycle, and the request holds the body
    while (await receive())["type"] != "http.disconnect":
        pass
