"""Around every call of the gRPC door: who may come in, the request's id, metrics, one log line, and a net.

    call -> Exchange (draining, keys; ids, metrics, log, errors) -> the service's handler

What is refused is refused before its message is read. Health is open to everybody, and reflection to whoever has
a key; neither is counted, because their streams stay open for as long as the caller likes.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import grpc

from vlmoe_serve.call import read_request_id
from vlmoe_serve.errors import ServeError, ShuttingDown
from vlmoe_serve.grpc_door.errors import failure
from vlmoe_serve.grpc_door.metadata import Metadata, value_of
from vlmoe_serve.grpc_door.types import Answer, Context, Handler
from vlmoe_serve.keys.access import Access, shown_key
from vlmoe_serve.service import Service
from vlmoe_serve.telemetry.trace import Attributes, Trace, traced

_log = logging.getLogger("vlmoe_serve.access")
_HEALTH = "/grpc.health.v1.Health/"
_REFLECTION = "/grpc.reflection."
# these ask for another key themselves
_ADMINS = frozenset({"/vlmoe.v1.VLMoE/LoadModel", "/vlmoe.v1.VLMoE/UnloadModel"})
_CALLER_LEFT = 499


class Exchange(grpc.aio.ServerInterceptor):
    """Counts, names and logs calls, and turns errors into status codes. Our handlers stream both ways."""

    def __init__(self, service: Service, access: Access) -> None:
        self._service = service
        self._access = access

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The handler of one call, wrapped, or one that refuses it."""
        method, metadata = handler_call_details.method, handler_call_details.invocation_metadata
        handler = await continuation(handler_call_details)
        if handler is None or method.startswith(_HEALTH):
            return handler
        key: str | None = None
        refused: ServeError | None = None
        try:
            key = self._enter(method, metadata)
        except ServeError as error:
            refused = error
        if method.startswith(_REFLECTION) and refused is None:
            return handler
        request_id = read_request_id(value_of(metadata, "x-request-id"))
        if refused is not None:
            answer = self._refusing(refused, method, metadata, request_id)
        else:
            # the type checker knows only the handlers of servers with threads
            answer = self._counted(cast(Answer, handler.stream_stream), method, metadata, request_id, key)
        return grpc.stream_stream_rpc_method_handler(cast(Any, answer))

    def _enter(self, method: str, metadata: Metadata) -> str | None:
        """The name of the caller's key."""
        if self._service.draining:
            raise ShuttingDown("the server is shutting down")
        if method in _ADMINS:
            return None
        return self._access.check(shown_key(lambda name: value_of(metadata, name)))

    def _refusing(self, error: ServeError, method: str, metadata: Metadata, request_id: str) -> Answer:
        async def work() -> None:
            raise error

        async def refuse(requests: object, context: Context) -> None:
            await self._run(method, metadata, request_id, context, work)

        return refuse

    def _counted(
        self, answer: Answer, method: str, metadata: Metadata, request_id: str, key: str | None
    ) -> Answer:
        async def counted(requests: object, context: Context) -> None:
            async def work() -> None:
                with self._access.one(key):
                    await answer(requests, context)

            with self._service.in_flight.one():
                await self._run(method, metadata, request_id, context, work)

        return counted

    async def _run(
        self,
        method: str,
        metadata: Metadata,
        request_id: str,
        context: Context,
        work: Callable[[], Awaitable[None]],
    ) -> None:
        metrics, traces = self._service.metrics, self._service.traces
        trace = None if traces is None else traces.begin(method[1:], lambda name: value_of(metadata, name))
        ours = [("x-request-id", request_id)]
        if trace is not None:
            ours.append(("traceparent", trace.traceparent))
        start_s, status = time.perf_counter(), 0
        metrics.on_start()
        try:
            try:
                with traced(trace):
                    await work()
                status = 200
                given = context.trailing_metadata() or ()
                context.set_trailing_metadata((*given, *ours))
                return
            # only what is said of it stays: an error holds this frame, and with the frame the call's message
            except ServeError as error:
                status, end = error.status, failure(error)
            except grpc.aio.InternalError:
                # nothing can be sent or read: the caller left, and the cancellation that says so is on its way
                raise asyncio.CancelledError from None
            except Exception:
                _log.exception("id=%s failed for a reason nobody foresaw", request_id)
                unforeseen = ServeError("internal error")
                status, end = unforeseen.status, failure(unforeseen)
            await context.abort(end.code, end.message, (*end.metadata, *ours))
        finally:
            seconds = time.perf_counter() - start_s
            if status:
                metrics.on_answer(method, "GRPC", status, seconds)
            else:
                metrics.on_disconnect(method)
            _log.info("GRPC %s %d %.1f ms id=%s", method, status or _CALLER_LEFT, 1000 * seconds, request_id)
            if trace is not None:
                _end(trace, method, status or _CALLER_LEFT, request_id)


def _end(trace: Trace, method: str, status: int, request_id: str) -> None:
    service, _, name = method[1:].rpartition("/")
    attributes: Attributes = {
        "rpc.system": "grpc",
        "rpc.service": service,
        "rpc.method": name,
        # of HTTP, as everywhere here; the codes of gRPC follow from it
        "http.response.status_code": status,
        "vlmoe.request_id": request_id,
    }
    trace.end(method[1:], attributes, failed=status >= 500)
