"""The course of one call over its attempts: shared by both clients, and free of I/O.

start -> headers, limits -> (the client exchanges) -> reply -> wait_s after a failure -> start ...
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from ._call import Call, CallOptions, Reply
from ._errors import CallTimeout, ConnectFailed, ConnectionLost, UnexpectedAnswer, VlmoeError
from ._settings import Settings, check_priority, check_request_id, check_timeout

# servers refuse to be told of more
LONGEST_DEADLINE_S = 3600.0


class Course:
    """Attempts so far and time left of one call."""

    def __init__(self, settings: Settings, call: Call[Any], options: CallOptions) -> None:
        self._settings = settings
        self._call = call
        self.url = settings.base_url + call.path
        self._timeout = options.get("timeout", settings.timeout)
        self._priority = options.get("priority") or settings.priority
        self._request_id = options.get("request_id") or uuid.uuid4().hex
        check_timeout(self._timeout)
        check_priority(self._priority)
        check_request_id(self._request_id)
        self._deadline = None if self._timeout is None else time.monotonic() + self._timeout
        self._attempt = 0

    def start(self) -> None:
        """Begin the next attempt."""
        self._attempt += 1
        self.check()

    def check(self) -> None:
        """Raise `CallTimeout` when the call's time is over."""
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise self.timed_out()

    def headers(self) -> dict[str, str]:
        """Headers of this attempt."""
        headers = self.identity()
        if self._call.body is not None:
            headers["content-type"] = "application/json"
        remaining = self.remaining_s()
        if remaining is not None and remaining <= LONGEST_DEADLINE_S:
            # the server need not start what nobody will wait for
            headers["x-request-timeout-ms"] = str(max(1, int(remaining * 1000)))
        return headers

    def identity(self) -> dict[str, str]:
        """What every attempt tells of the call."""
        headers = {"x-request-id": self._request_id}
        if self._priority is not None:
            headers["x-priority"] = self._priority
        return headers

    def progressed(self) -> None:
        """Something was answered: the next attempt is a first one again."""
        self._attempt = 0

    def limits(self) -> httpx.Timeout:
        """Socket timeouts of this attempt."""
        remaining, connect = self.remaining_s(), self._settings.connect_timeout
        return httpx.Timeout(remaining, connect=connect if remaining is None else min(connect, remaining))

    def reply(self, response: httpx.Response, chunks: list[bytes]) -> Reply:
        """The answer as a value."""
        return Reply(
            status=response.status_code,
            headers=dict(response.headers),
            content=b"".join(chunks),
            request_id=response.headers.get("x-request-id", self._request_id),
            received_s=time.time(),
        )

    def wait_s(self, error: VlmoeError) -> float | None:
        """Seconds to wait before another attempt, or None: the error is the call's end."""
        return self._settings.retry.wait_s(
            error,
            attempt=self._attempt,
            remaining_s=self.remaining_s(),
            repeatable=self._call.repeatable,
            uniform=random.uniform,
        )

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn httpx's errors into ours."""
        try:
            yield
        except httpx.ConnectTimeout:
            self.check()
            raise self.error(
                ConnectFailed, f"no connection to {self.url} within {self._settings.connect_timeout:g} s"
            ) from None
        except httpx.TimeoutException:
            raise self.timed_out() from None
        except (httpx.ConnectError, httpx.ProxyError) as error:
            raise self.error(ConnectFailed, f"cannot connect to {self.url}: {error}") from error
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise self.error(ConnectionLost, f"the connection to {self.url} broke: {reason}") from error
        except httpx.DecodingError as error:
            raise self.error(
                UnexpectedAnswer, f"the answer of {self.url} cannot be decoded: {error}"
            ) from error

    def remaining_s(self) -> float | None:
        """What is left of the call's timeout, None without one."""
        return None if self._deadline is None else max(0.001, self._deadline - time.monotonic())

    def timed_out(self) -> VlmoeError:
        """The end of a call whose time is over."""
        return self.error(
            CallTimeout, f"no answer from {self.url} within {self._timeout:g} s ({self._attempt} attempts)"
        )

    def error(self, cls: type[VlmoeError], message: str) -> VlmoeError:
        """An error of this call."""
        return cls(message, request_id=self._request_id)
