"""Overload is refused here, from a request's head alone: a refusal must cost next to nothing.

    head -> Turnstile -> refused: a few bytes, and the body is thrown away as it comes
                      -> let in: its call, with a seat, waits in the scope for the handler

At three times what the server can do, two requests of three end in this file: without a task, a body, a route or a
layer. What it does not decide upon goes the long way, where handlers ask `Service.admit` themselves: other routes,
requests that are wrong in any way, and all of them while the server drains or where calls are traced.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from starlette.types import Scope

from vlmoe_serve.call import read_request_id
from vlmoe_serve.errors import Overloaded, ServeError, ShuttingDown
from vlmoe_serve.http_door.access_log import log_answer
from vlmoe_serve.http_door.body import call_from
from vlmoe_serve.http_door.head import head_of
from vlmoe_serve.keys.access import Access, shown_key
from vlmoe_serve.service import Service

# A refusal stands for those who come right after it, for as long as the queue needs to get short enough, and no longer
# than this: others may leave the queue before their turn.
_CLOSED_S = 0.005
# Kinds of callers, by priority and deadline, of whom that is remembered.
_MAX_KINDS = 64
_Kind = tuple[str | None, str | None]


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
        self._closed: dict[_Kind, tuple[float, ServeError]] = {}

    def refused(self, method: bytes, url: bytes, scope: Scope) -> Refusal | None:
        """Whether this request is refused. scope: of the connection; only its headers are known yet."""
        path = self._paths.get(url)
        if path is None or method != b"POST" or self._service.traces is not None:
            return None
        head = head_of(scope)
        if not self._skippable(head.get("content-length")) or not self._access.lets_in(shown_key(head.get)):
            return None
        start_s = time.perf_counter()
        error = self._as_before(head, start_s) or self._decided(scope, head, start_s)
        return None if error is None else self._told(error, path, head.get("x-request-id"), start_s)

    def _as_before(self, head: Mapping[str, str], now_s: float) -> ServeError | None:
        until_s, error = self._closed.get(_kind(head), (0.0, None))
        if error is None or now_s >= until_s or self._service.draining:
            return None
        self._service.metrics.on_refused_again(model.name for model in self._service.models)
        return error

    def _decided(self, scope: Scope, head: Mapping[str, str], now_s: float) -> ServeError | None:
        try:
            call = call_from(scope)
        except ServeError:
            return None
        try:
            self._service.admit(call)
        except ShuttingDown:
            return None
        except Overloaded as error:
            if len(self._closed) >= _MAX_KINDS:
                self._closed.clear()
            # without the frames it was raised in, which hold the call
            self._closed[_kind(head)] = now_s + min(error.closed_s, _CLOSED_S), error.with_traceback(None)
            return error
        except ServeError as error:
            return error
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


def _kind(head: Mapping[str, str]) -> _Kind:
    return head.get("x-priority"), head.get("x-request-timeout-ms")
