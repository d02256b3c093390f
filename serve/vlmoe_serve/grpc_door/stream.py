"""A bidirectional stream: many requests on one call, each answered as soon as it is done.

    read (while there is room) -> answer, side by side -> write, one at a time -> room again

A request keeps its place until its answer is written, so a caller who does not read stops being read, and what a
stream holds is bounded in number and in bytes.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from vlmoe_serve.call import Call, Timings
from vlmoe_serve.errors import ShuttingDown
from vlmoe_serve.grpc_door.types import Context

# enough to fill batches, few enough for many streams
MAX_CONCURRENT = 64


class Window:
    """How many requests of a stream are under way; one alone may be larger than `max_bytes`."""

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self.num_requests = 0
        self.num_bytes = 0
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._left = asyncio.Event()

    @property
    def has_room(self) -> bool:
        """Whether another may be read."""
        return self.num_requests < self._max_requests and self.num_bytes < self._max_bytes

    async def room(self) -> None:
        """Wait until another may be read."""
        while not self.has_room:
            self._left.clear()
            await self._left.wait()

    def enter(self, num_bytes: int) -> None:
        """One was read."""
        self.num_requests += 1
        self.num_bytes += num_bytes

    def leave(self, num_bytes: int) -> None:
        """Its answer is written."""
        self.num_requests -= 1
        self.num_bytes -= num_bytes
        self._left.set()


class Stream:
    """One call's requests and answers.

    answer: from a request's bytes to its answer's; fails only if the bytes are no request, and the stream with it.
    call: of all of them; each is answered under one with times of its own.
    """

    def __init__(
        self,
        context: Context,
        answer: Callable[[bytes, Call], Awaitable[bytes]],
        call: Call,
        max_bytes: int,
        max_concurrent: int = MAX_CONCURRENT,
    ) -> None:
        self._context = context
        self._answer = answer
        self._call = call
        self._window = Window(max_concurrent, max_bytes)
        self._writing = asyncio.Lock()

    async def run(self, draining: asyncio.Event) -> None:
        """Answer until the caller has said the last, or the server drains.

        Raises:
            ShuttingDown: nothing more is read; what was read has been answered.
        """
        drained: asyncio.Future[Any] = asyncio.ensure_future(draining.wait())
        try:
            async with asyncio.TaskGroup() as group:
                while (content := await self._read(drained)) is not None:
                    self._window.enter(len(content))
                    group.create_task(self._one(content))
        except ExceptionGroup as group_error:
            # the first is why the others were cancelled
            raise group_error.exceptions[0] from None
        finally:
            drained.cancel()
        if draining.is_set():
            raise ShuttingDown("the server is shutting down")

    async def _read(self, drained: asyncio.Future[Any]) -> bytes | None:
        await _unless(drained, self._window.room())
        if drained.done():
            return None
        content = await _unless(drained, self._context.read())
        return content if isinstance(content, bytes) else None

    async def _one(self, content: bytes) -> None:
        try:
            call = replace(self._call, timings=Timings())
            answer = await self._answer(content, call)
            async with self._writing:
                await self._context.write(answer)
            times = call.timings
            if times.model_id:
                total = self._call.timings
                total.model_id = total.model_id or times.model_id
                total.add(
                    times.encode_ms,
                    times.queue_ms,
                    times.forward_ms,
                    times.batch_tokens,
                    times.routing_mode,
                )
        finally:
            self._window.leave(len(content))


async def _unless(ended: asyncio.Future[Any], work: Awaitable[object]) -> object:
    """What the work gives, or None if `ended` comes first."""
    working = asyncio.ensure_future(work)
    try:
        await asyncio.wait((working, ended), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        if not working.done():
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await working
