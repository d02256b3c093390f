"""Every error of the HTTP door has one shape, whoever raised it: we, FastAPI, or the router.

Below /v2 it is the Open Inference Protocol's, a bare sentence, because that is what its clients show.
"""

import logging
from collections.abc import Mapping

import pydantic_core
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from vlmoe_serve.errors import BadRequest, InvalidField, MethodNotAllowed, NotFound, ServeError, retry_after
from vlmoe_serve.http_door.json import json_response
from vlmoe_serve.service import error_body

_log = logging.getLogger(__name__)
# what nginx calls it; nobody sees this answer, the metrics and the log do
CALLER_LEFT = 499
_METHODS = frozenset({"get", "put", "post", "delete", "patch", "head"})


def error_response(
    error: ServeError, headers: Mapping[str, str] | None = None, *, path: str = ""
) -> Response:
    """The answer that an error stands for, on the route of this path."""
    extra = dict(headers or {})
    wait_s = retry_after(error)
    if wait_s is not None:
        extra["retry-after"] = str(wait_s)
    if error.status == 401:
        extra["www-authenticate"] = "Bearer"
    content = error.message if _is_open_inference(path) else error_body(error)
    return json_response({"error": content}, status=error.status, headers=extra)


def internal_error(path: str = "") -> Response:
    """What callers see of a failure that nobody foresaw."""
    return error_response(ServeError("internal error"), path=path)


def _is_open_inference(path: str) -> bool:
    return path == "/v2" or path.startswith("/v2/")


def _methods(request: Request, named: str) -> list[str]:
    """Every method of this path: those that the router names, which are the first route's, and the document's."""
    pattern = getattr(request.scope.get("route"), "path_format", "")
    documented = request.app.openapi()["paths"].get(pattern, {})
    return sorted(
        {*filter(None, named.split(", ")), *(name.upper() for name in documented if name in _METHODS)}
    )


def error_bytes(error: ServeError) -> bytes:
    """The body of the answer, for refusals before there is a request."""
    return pydantic_core.to_json({"error": error_body(error)})


def install_error_handlers(app: FastAPI) -> None:
    """Let the app answer each kind of error in our shape."""

    def answer(request: Request, error: ServeError, headers: Mapping[str, str] | None = None) -> Response:
        return error_response(error, headers, path=request.scope["path"])

    async def on_serve_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ServeError)
        return answer(request, error)

    async def on_validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        # the first part says where it stood: path, query or header
        name = ".".join(str(part) for part in first["loc"][1:])
        message = f"{first['msg'][:1].lower()}{first['msg'][1:]}"
        return answer(request, InvalidField(f"{name}: {message}, got {first['input']!r:.80}", param=name))

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 404:
            return answer(request, NotFound("no such route; see /docs"))
        if error.status_code == 405:
            allowed = ", ".join(_methods(request, (error.headers or {}).get("Allow", "")))
            return answer(request, MethodNotAllowed(f"this route takes {allowed}"), {"Allow": allowed})
        return answer(request, BadRequest(str(error.detail)), error.headers)

    async def on_disconnect(request: Request, error: Exception) -> Response:
        return Response(status_code=CALLER_LEFT)

    app.add_exception_handler(ServeError, on_serve_error)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(ClientDisconnect, on_disconnect)
