"""Overload is refused here, from a request's head alone: a refusal must cost next to nothing.

    head -> Turnstile -> refused: a few bytes, and the body is thrown away as it comes
                      -> let in: its call, with a seat, waits in the scope for the handler

At three times what the server can do, two requests of three end in this file: without a task, a body, a route or a
layer. What it does not decide upon goes the long way, where handlers ask `Service.admit` themselves: other routes,
requests that are wrong in any way, and all of them while the server drains or where calls are traced.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.types import Scope

from vlmoe_serve.call import read_request_id
from vlmoe_serve.errors import ServeError, ShuttingDown
from vlmoe_serve.http_door.access_log import log_answer
from vlmoe_serve.http_door.body import call_from
from vlmoe_serve.http_door.head import head_of
from vlmoe_serve.keys.access import Access, shown_key
from vlmoe_serve.service import Service


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a request is answered with at once."""

    error: ServeError
    request_id: str


class Turnstile:
    """Decides upon POST requests of some paths.

    Args:
        service: which admits them, or not.
        access: who has no key is not refused for the length of a queue.
        paths: of what asks `Service.admit`.
        max_body_bytes: larger bodies, and those of unknown length, go the long way.
    """

    def __init__(self, service: Service, access: Access, paths: Iterable[str], max_body_bytes: int) -> None:
        self._service = service
        self._access = access
        self._paths = {path.encode(): path for path in paths}
        self._max_body_bytes = max_body_bytes

    def refused(self, method: bytes, url: bytes, scope: Scope) -> Refusal | None:
        """Whether this request is refused. scope: of the connection; only its headers are known yet."""
        path = self._paths.get(url)
        if path is None or method != b"POST" or self._service.traces is not None:
            return None
        head = head_of(scope)
        if not self._skippable(head.get("content-length")) or not self._access.lets_in(shown_key(head.get)):
            return None
        try:
            call = call_from(scope)
        except ServeError:
            return None
        start_s = time.perf_counter()
        try:
            self._service.admit(call)
        except ShuttingDown:
            return None
        except ServeError as error:
            return self._told(error, path, head.get("x-request-id"), start_s)
        return None

    def _skippable(self, length: str | None) -> bool:
        return (
            length is not None
            and len(length) < 18
            and length.isascii()
            and length.isdigit()
            and int(length) <= self._max_body_bytes
        )

    def _told(self, error: ServeError, path: str, shown_id: str | None, start_s: float) -> Refusal:
        refusal = Refusal(error, read_request_id(shown_id))
        seconds = time.perf_counter() - start_s
        self._service.metrics.on_start()
        self._service.metrics.on_answer(path, "POST", error.status, seconds)
        log_answer("POST", path, error.status, seconds, refusal.request_id)
        return refusal
