"""How the small server misbehaves, for `server.next`."""

from __future__ import annotations

import time
from collections.abc import Callable

from .small_server import Handler


def refuse(status: int, code: str = "refused", **headers: str) -> Callable[[Handler], None]:
    """Answer once with this status."""
    error = {"error": {"code": code, "message": f"refused with {status}", "param": "image"}}
    return lambda handler: handler.answer(status, error, **headers)


def drop(handler: Handler) -> None:
    """Close the connection without a word."""
    handler.close_connection = True


def cut(handler: Handler) -> None:
    """Promise more bytes than are sent."""
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"model"')
    handler.close_connection = True


def raw(status: int, data: bytes, **headers: str) -> Callable[[Handler], None]:
    """Answer with any bytes."""
    return lambda handler: handler.answer(status, data, **headers)


def drip(handler: Handler) -> None:
    """Send a byte now and then, for longer than any test's patience."""
    handler.send_response(200)
    handler.send_header("content-length", "200")
    handler.end_headers()
    try:
        for _ in range(200):
            handler.wfile.write(b" ")
            time.sleep(0.02)
    except OSError:
        handler.close_connection = True
