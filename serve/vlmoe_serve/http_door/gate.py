"""Who may come in, decided before a byte of the body is read: draining, then keys, then each key's share."""

import contextlib
import re

from starlette.types import ASGIApp, Receive, Scope, Send

from vlmoe_serve.errors import ServeError, ShuttingDown
from vlmoe_serve.http_door.errors import error_response
from vlmoe_serve.http_door.head import head_of
from vlmoe_serve.keys.access import Access, shown_key
from vlmoe_serve.service import Service

# probes and the page's own files; everything else wants a key where keys are configured
_OPEN = frozenset({"/", "/healthz", "/readyz"})
_OPEN_BELOW = "/page/"
# these ask for another key themselves
_ADMINS = re.compile(r"/v1/models/[^/]+/(load|unload)")
# answered to the last, so that probes and scrapes see the drain
_UNTIL_THE_END = frozenset({"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})


class Gate:
    """Refuses with 503 while draining, with 401 without a key, and with 429 a key that has had its share."""

    def __init__(self, app: ASGIApp, service: Service, access: Access) -> None:
        self._app = app
        self._service = service
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        held = contextlib.ExitStack()
        try:
            if scope["type"] == "http":
                self._enter(scope, held)
        except ServeError as error:
            closing = {"connection": "close"} if isinstance(error, ShuttingDown) else {}
            await error_response(error, closing, path=scope["path"])(scope, receive, send)
            return
        with held:
            await self._app(scope, receive, send)

    def _enter(self, scope: Scope, held: contextlib.ExitStack) -> None:
        path = scope["path"]
        if self._service.draining and path not in _UNTIL_THE_END:
            raise ShuttingDown("the server is shutting down")
        if not (path in _OPEN or path.startswith(_OPEN_BELOW) or _ADMINS.fullmatch(path)):
            key = self._access.check(shown_key(head_of(scope).get))
            if path not in _UNTIL_THE_END:
                held.enter_context(self._access.one(key))
        if path not in _UNTIL_THE_END:
            held.enter_context(self._service.in_flight.one())
