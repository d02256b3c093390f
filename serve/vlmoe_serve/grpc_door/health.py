"""`grpc.health.v1.Health`: whether the server can answer, which is what /readyz says."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from vlmoe_serve.grpc_door.types import Context, Handler
from vlmoe_serve.service import Service

HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
# readiness is computed, nobody announces it; this is how late a watcher may hear of a change
_POLL_S = 0.1
_Request = health_pb2.HealthCheckRequest
_Response = health_pb2.HealthCheckResponse


class Health:
    """Readiness of the whole server, under the name "" and that of each service."""

    def __init__(self, service: Service, names: tuple[str, ...]) -> None:
        self._service = service
        self._names = frozenset(("", *names))
        self._closed = asyncio.Event()

    def handlers(self) -> dict[str, Handler]:
        """The protocol's methods."""
        how = {
            "request_deserializer": _Request.FromString,
            "response_serializer": _Response.SerializeToString,
        }
        return {
            "Check": grpc.unary_unary_rpc_method_handler(self.check, **how),
            "Watch": grpc.unary_stream_rpc_method_handler(self.watch, **how),
        }

    async def check(self, request: Any, context: Context) -> Any:
        """The present state."""
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service[:80]!r}")
        return _Response(status=self._status(request.service))

    async def watch(self, request: Any, context: Context) -> AsyncIterator[Any]:
        """The present state, and every change of it until the server ends."""
        told = None
        while not self._closed.is_set():
            status = self._status(request.service)
            if status != told:
                told = status
                yield _Response(status=status)
            try:
                async with asyncio.timeout(_POLL_S):
                    await self._closed.wait()
            except TimeoutError:
                continue

    def close(self) -> None:
        """End the watching."""
        self._closed.set()

    def _status(self, name: str) -> Any:
        if name not in self._names:
            return _Response.SERVICE_UNKNOWN
        return _Response.SERVING if self._service.ready else _Response.NOT_SERVING
