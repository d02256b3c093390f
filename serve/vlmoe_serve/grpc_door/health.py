"""`grpc.health.v1.Health`: whether the server can answer, which is what /readyz says.

Everybody may ask, without a key, so what asking can hold is little: a message has to come soon, and only so many watch.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from vlmoe_serve.grpc_door.types import Answer, Context, Handler
from vlmoe_serve.service import Service

HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
# readiness is computed, nobody announces it; this is how late a watcher may hear of a change
_POLL_S = 0.1
_MESSAGE_S = 5.0
_MAX_WATCHERS = 256
_Request = health_pb2.HealthCheckRequest
_Response = health_pb2.HealthCheckResponse


class Health:
    """Readiness of the whole server, under the name "" and that of each service."""

    def __init__(self, service: Service, names: tuple[str, ...]) -> None:
        self._service = service
        self._names = frozenset(("", *names))
        self._closed = asyncio.Event()
        self._num_watching = 0
        self._looking: asyncio.Task[None] | None = None
        # set and replaced when readiness changes
        self._change = asyncio.Event()

    def handlers(self) -> dict[str, Handler]:
        """The protocol's methods, which look the same on the wire as streams of one message."""
        return {name: _handler(answer) for name, answer in (("Check", self.check), ("Watch", self.watch))}

    async def check(self, requests: object, context: Context) -> None:
        """The present state."""
        name = await _name(context)
        if name not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {name[:80]!r}")
        await context.write(_Response(status=self._status(name)))

    async def watch(self, requests: object, context: Context) -> None:
        """The present state, and every change of it until the server ends."""
        if self._num_watching >= _MAX_WATCHERS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{_MAX_WATCHERS} callers watch already")
        self._num_watching += 1
        try:
            name = await _name(context)
            async for status in self._changes(name):
                await context.write(_Response(status=status))
        finally:
            self._num_watching -= 1

    def close(self) -> None:
        """End the watching."""
        self._closed.set()
        self._change.set()
        if self._looking is not None:
            self._looking.cancel()

    async def _changes(self, name: str) -> AsyncIterator[Any]:
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look())
        told = None
        while not self._closed.is_set():
            change = self._change
            status = self._status(name)
            if status != told:
                told = status
                yield status
            await change.wait()

    async def _look(self) -> None:
        """For all watchers."""
        ready = self._service.ready
        while True:
            await asyncio.sleep(_POLL_S)
            if self._service.ready != ready:
                ready = not ready
                change, self._change = self._change, asyncio.Event()
                change.set()

    def _status(self, name: str) -> Any:
        if name not in self._names:
            return _Response.SERVICE_UNKNOWN
        return _Response.SERVING if self._service.ready else _Response.NOT_SERVING


def _handler(answer: Answer) -> Handler:
    return grpc.stream_stream_rpc_method_handler(
        answer, request_deserializer=_Request.FromString, response_serializer=_Response.SerializeToString
    )


async def _name(context: Context) -> str:
    """Of the service that is asked about."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_MESSAGE_S):
            request: Any = await context.read()
            if isinstance(request, _Request):
                return str(request.service)
    await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the call has no message")
    raise AssertionError("abort raises")
