"""POST to a task's path goes straight to its handler; everything else goes to the app.

The app's routing, its dependencies and its layers cost a request as much processor time as half a picture, and the task
routes use none of them: they read their bodies themselves. The app keeps the routes for its OpenAPI document and for
every other method.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from vlmoe_serve.errors import ServeError
from vlmoe_serve.http_door.errors import CALLER_LEFT, error_response

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """What the metrics and the log call it, as they find it in the scope."""

    path_format: str


class Direct:
    """A table of handlers in front of an app.

    Args:
        app: what answers everything else.
        handlers: by path, of POST.
    """

    def __init__(self, app: ASGIApp, handlers: Mapping[str, Handler]) -> None:
        self._app = app
        self._handlers = {path: (handler, Route(path)) for path, handler in handlers.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        found = self._handlers.get(scope["path"]) if scope["type"] == "http" else None
        if found is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        handler, scope["route"] = found
        try:
            response = await handler(Request(scope, receive))
        except ServeError as error:
            response = error_response(error, path=scope["path"])
        except ClientDisconnect:
            response = Response(status_code=CALLER_LEFT)
        await response(scope, receive, send)
