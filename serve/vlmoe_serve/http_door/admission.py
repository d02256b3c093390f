"""Overload is refused here, before routing, parsing or a byte of the body: a refusal must cost next to nothing.

At three times what the server can do, two requests of three end in this file. Other routes ask `Service.admit`
themselves.
"""

from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from vlmoe_serve.errors import ServeError
from vlmoe_serve.http_door.body import call_from
from vlmoe_serve.http_door.direct import Route
from vlmoe_serve.http_door.errors import error_response
from vlmoe_serve.service import Service


class Admission:
    """Lets POST requests of some paths in, or answers them; the call travels on in the scope."""

    def __init__(self, app: ASGIApp, service: Service, paths: Iterable[str]) -> None:
        self._app = app
        self._service = service
        self._routes = {path: Route(path) for path in paths}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        route = self._routes.get(scope["path"]) if scope["type"] == "http" else None
        if route is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            self._service.admit(call_from(scope))
        except ServeError as error:
            scope["route"] = route
            await error_response(error, path=scope["path"])(scope, receive, send)
            return
        await self._app(scope, receive, send)
