"""The short way of most requests: JSON for a task, from a caller whom the turnstile has let in.

    head, body -> Connection gathers them -> Express.answer -> bytes

The layers that other requests go through, and the messages that those pass on, cost every request processor time
(`serve/bench/front.py`). What they promise is kept here in one place: the request's id, metrics and log line, a net
under what nobody foresaw, a place among those in flight. Keys, lengths and overload have been the turnstile's. Forms,
packed bodies, callers with a share of their own, traced requests, other routes, and bodies that take long to come go
through the layers.
"""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Scope

from vlmoe_serve.call import Call, read_request_id
from vlmoe_serve.errors import ServeError
from vlmoe_serve.http_door.access_log import log_answer
from vlmoe_serve.http_door.body import leave_seats, seated_call
from vlmoe_serve.http_door.disconnect import Departure, unless_left
from vlmoe_serve.http_door.errors import CALLER_LEFT, error_response, internal_error
from vlmoe_serve.http_door.head import head_of
from vlmoe_serve.http_door.json import parse_json, to_json
from vlmoe_serve.http_door.wire import Answer
from vlmoe_serve.keys.access import Access
from vlmoe_serve.service import Service

_JSON = (b"content-type", b"application/json")
_log = logging.getLogger("vlmoe_serve.access")


@dataclass(frozen=True, slots=True, eq=False)
class Passenger:
    """A request on the short way, from its head on."""

    task: str
    path: str
    call: Call
    scope: Scope
    request_id: str
    start_s: float


class Express:
    """Answers POST to tasks' paths.

    Args:
        service: which computes.
        access: callers with a share of their own are not taken.
        tasks: their names; the paths are the same.
    """

    def __init__(self, service: Service, access: Access, tasks: Iterable[str]) -> None:
        self._service = service
        self._access = access
        self._tasks = {f"/{name}".encode(): (name, f"/{name}") for name in tasks}

    def board(self, url: bytes, scope: Scope) -> Passenger | None:
        """Take a request whose head is there, to be followed by `answer` or `leave`; None if it is not for here."""
        call = seated_call(scope)
        found = self._tasks.get(url)
        if call is None or found is None or self._access.has_shares:
            return None
        head = head_of(scope)
        if "content-encoding" in head or "multipart" in head.get("content-type", "").lower():
            return None
        self._service.metrics.on_start()
        self._service.in_flight.enter()
        return Passenger(*found, call, scope, read_request_id(head.get("x-request-id")), time.perf_counter())

    def leave(self, passenger: Passenger) -> None:
        """It goes through the layers after all, as if it came now."""
        self._service.in_flight.leave()
        self._service.metrics.on_handed_over()

    async def answer(self, passenger: Passenger, body: bytes, departure: Departure) -> Answer | None:
        """Answer it; None if nobody waits for an answer any more."""
        status = CALLER_LEFT
        try:
            answer = await self._answered(passenger, body, departure)
            if answer is not None:
                status = answer.status
                answer.headers.append((b"x-request-id", passenger.request_id.encode()))
            return answer
        finally:
            leave_seats(passenger.scope)
            self._service.in_flight.leave()
            seconds = time.perf_counter() - passenger.start_s
            if status == CALLER_LEFT:
                self._service.metrics.on_disconnect(passenger.path)
            else:
                self._service.metrics.on_answer(passenger.path, "POST", status, seconds)
            log_answer("POST", passenger.path, status, seconds, passenger.request_id)

    async def _answered(self, passenger: Passenger, body: bytes, departure: Departure) -> Answer | None:
        call = passenger.call
        try:
            found = await unless_left(departure, self._service.run(passenger.task, parse_json(body), call))
        except ServeError as error:
            return _failed(error_response(error, path=passenger.path))
        except ClientDisconnect:
            return None
        except Exception:
            _log.exception(
                "id=%s failed for a reason nobody foresaw",
                passenger.request_id,
                extra={"data": {"request_id": passenger.request_id}},
            )
            return _failed(internal_error(passenger.path))
        headers = [_JSON]
        headers += [
            (name.encode(), value.encode("latin-1")) for name, value in call.timings.headers().items()
        ]
        return Answer(200, headers, to_json(found))


def _failed(response: Response) -> Answer:
    headers = [header for header in response.raw_headers if header[0] != b"content-length"]
    return Answer(response.status_code, headers, bytes(response.body))
