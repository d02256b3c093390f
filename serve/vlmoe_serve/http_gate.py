"""Who may come in, decided before a byte of the body is read: draining, then keys."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from vlmoe_serve.api_keys import ApiKeys
from vlmoe_serve.errors import ServeError, ShuttingDown, Unauthorized
from vlmoe_serve.http_errors import error_response
from vlmoe_serve.service import Service

# probes and the page's own files; everything else wants a key where keys are configured
_OPEN = frozenset({"/", "/healthz", "/readyz"})
_OPEN_BELOW = "/page/"
# answered to the last, so that probes and scrapes see the drain
_UNTIL_THE_END = frozenset({"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})


class Gate:
    """Refuses with 503 while draining and with 401 without a key."""

    def __init__(self, app: ASGIApp, service: Service, keys: ApiKeys) -> None:
        self._app = app
        self._service = service
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        error = self._refusal(scope) if scope["type"] == "http" else None
        if error is None and scope["type"] == "http" and scope["path"] not in _UNTIL_THE_END:
            with self._service.in_flight.one():
                await self._app(scope, receive, send)
        elif error is None:
            await self._app(scope, receive, send)
        else:
            closing = {"connection": "close"} if isinstance(error, ShuttingDown) else {}
            await error_response(error, closing, path=scope["path"])(scope, receive, send)

    def _refusal(self, scope: Scope) -> ServeError | None:
        path = scope["path"]
        if self._service.draining and path not in _UNTIL_THE_END:
            return ShuttingDown("the server is shutting down")
        if not self._keys or path in _OPEN or path.startswith(_OPEN_BELOW):
            return None
        if not self._keys.admit(_shown_key(Headers(scope=scope))):
            return Unauthorized("a valid key is needed: `Authorization: Bearer KEY` or `x-api-key: KEY`")
        return None


def _shown_key(headers: Headers) -> bytes | None:
    key = headers.get("x-api-key")
    if key is None:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
    # header values arrive as latin-1; the file is UTF-8
    return key.strip().encode("latin-1")
