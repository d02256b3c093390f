"""The outermost layer of the HTTP door: request ids, metrics, one log line, and a net under everything.

uvicorn -> Exchange -> BodyLimit -> Gate -> Direct -> FastAPI; what takes one of `short_ways.py` never comes here.
"""

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlmoe_serve.call import read_request_id
from vlmoe_serve.http_door.access_log import log_answer
from vlmoe_serve.http_door.body import leave_seats
from vlmoe_serve.http_door.errors import CALLER_LEFT, internal_error
from vlmoe_serve.http_door.head import head_of
from vlmoe_serve.metrics import Metrics
from vlmoe_serve.telemetry.trace import Attributes, Trace, Traces, traced

_log = logging.getLogger("vlmoe_serve.access")
# asked every few seconds by machines, and of no interest in a trace
_UNTRACED = frozenset({"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})


class Exchange:
    """Counts, names and logs every request, and answers what raised unforeseen."""

    def __init__(self, app: ASGIApp, metrics: Metrics, traces: Traces | None = None) -> None:
        self._app = app
        self._metrics = metrics
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start_s = time.perf_counter()
        shown = head_of(scope)
        request_id = read_request_id(shown.get("x-request-id"))
        trace: Trace | None = None
        if self._traces is not None and scope["path"] not in _UNTRACED:
            trace = self._traces.begin(scope["method"], shown.get)
        status = 0

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                named_headers = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                if trace is not None:
                    named_headers.append((b"traceparent", trace.traceparent.encode()))
                message = {**message, "headers": named_headers}
            await send(message)

        self._metrics.on_start()
        try:
            try:
                with traced(trace):
                    await self._app(scope, receive, named)
            except Exception:
                _log.exception(
                    "id=%s failed for a reason nobody foresaw",
                    request_id,
                    extra={"data": {"request_id": request_id}},
                )
                if status == 0:
                    await internal_error(scope["path"])(scope, receive, named)
        finally:
            leave_seats(scope)
            seconds = time.perf_counter() - start_s
            route, method = _route(scope), scope["method"]
            if status in (0, CALLER_LEFT):
                self._metrics.on_disconnect(route)
            else:
                self._metrics.on_answer(route, method, status, seconds)
            code = status or CALLER_LEFT
            log_answer(method, route, code, seconds, request_id)
            if trace is not None:
                _end(trace, method, route, code, request_id)


def _end(trace: Trace, method: str, route: str, status: int, request_id: str) -> None:
    attributes: Attributes = {
        "http.request.method": method,
        "http.route": route,
        "http.response.status_code": status,
        "vlmoe.request_id": request_id,
    }
    trace.end(f"{method} {route}", attributes, failed=status >= 500)


def _route(scope: Scope) -> str:
    """The route's pattern; every unknown path counts as one."""
    return getattr(scope.get("route"), "path_format", None) or "other"
