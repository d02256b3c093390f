"""One call as a value: what is sent, and how its answer is read. No sockets here.

build (`_tasks`, `_store`) -> Call -> content() -> a client's transport -> Reply -> result() -> typed result
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Generic, TypedDict, TypeVar
from urllib.parse import quote

from ._errors import ApiError, UnexpectedAnswer, class_for
from ._images import Picture, as_string
from ._results import Timings

T = TypeVar("T")


class CallOptions(TypedDict, total=False):
    """What any call may be given.

    Attributes:
        timeout: Seconds for the whole call, retries included; None waits for ever.
        priority: "interactive", "normal" or "batch".
        request_id: Echoed by the server and found in its log; a random one otherwise.
    """

    timeout: float | None
    priority: str | None
    request_id: str


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole HTTP answer. Header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    request_id: str
    received_s: float = 0.0

    def json(self) -> Any:
        """The body, or `UnexpectedAnswer`."""
        try:
            return json.loads(self.content)
        except ValueError:
            start = self.content[:80].decode("utf-8", "replace")
            raise UnexpectedAnswer(
                f"the answer ({self.status}) is not JSON; it starts with {start!r}",
                request_id=self.request_id,
            ) from None

    @property
    def timings(self) -> Timings:
        """Where the server's time went."""
        tokens = self._number("x-batch-tokens")
        return Timings(
            encode_ms=self._number("x-encode-ms"),
            queue_ms=self._number("x-queue-ms"),
            forward_ms=self._number("x-forward-ms"),
            batch_tokens=None if tokens is None else int(tokens),
            routing_mode=self.headers.get("x-routing-mode"),
        )

    def _number(self, header: str) -> float | None:
        try:
            return float(self.headers[header])
        except (KeyError, ValueError):
            return None


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request and the reading of its answer.

    Attributes:
        method: HTTP method.
        path: Below the base URL, quoted.
        read: Turns a 2xx reply into the result.
        body: JSON fields; `Picture`s in it are read by `content`.
        repeatable: Doing it twice is the same as once, so a lost connection may be tried again.
        ok: Statuses beside 2xx that `read` wants to see.
        rpc: The same call's method over gRPC.
        names: What is in the path, as fields of the method's request.
    """

    method: str
    path: str
    read: Callable[[Reply], T]
    body: Mapping[str, Any] | None = None
    repeatable: bool = True
    ok: frozenset[int] = frozenset()
    rpc: str = ""
    names: Mapping[str, Any] = field(default_factory=dict)

    def content(self) -> bytes:
        """The encoded body; reads the pictures, so it may block and raise `OSError`."""
        if self.body is None:
            return b""
        return json.dumps(self.body, default=_string, allow_nan=False, separators=(",", ":")).encode()

    def result(self, reply: Reply) -> T:
        """The typed result, or the error that the reply stands for."""
        if not 200 <= reply.status < 300 and reply.status not in self.ok:
            raise to_error(reply)
        try:
            return self.read(reply)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"{type(error).__name__} {error}"
            raise UnexpectedAnswer(
                f"{self.method} {self.path} answered otherwise than documented: {what}",
                request_id=reply.request_id,
            ) from error


def _string(value: object) -> str:
    if isinstance(value, Picture):
        return value.to_string()
    if isinstance(value, bytes):
        return as_string(value)
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON")


def segment(name: str) -> str:
    """A name as one segment of a path."""
    if not name:
        raise ValueError("a name or an id must not be empty")
    # "." and ".." would be taken for steps through the path
    return name.replace(".", "%2E") if name in (".", "..") else quote(name, safe="")


def to_error(reply: Reply) -> ApiError | UnexpectedAnswer:
    """The error that a refusing reply stands for, whoever wrote it: server or a proxy in between."""
    if reply.status < 400:
        target = reply.headers.get("location", "nowhere")
        return UnexpectedAnswer(
            f"the server redirects ({reply.status}) to {target}; give that as the base URL",
            request_id=reply.request_id,
        )
    code, message, param = "http_error", _first_line(reply.content) or "no reason given", None
    try:
        error = json.loads(reply.content)["error"]
        code, message, param = str(error["code"]), str(error["message"]), error.get("param")
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # a proxy's page: its first line is all there is to say
    return class_for(reply.status)(
        message,
        status=reply.status,
        code=code,
        param=param,
        request_id=reply.request_id,
        retry_after_s=retry_after_s(reply.headers.get("retry-after"), now_s=reply.received_s),
    )


def _first_line(content: bytes) -> str:
    text = content[:200].decode("utf-8", "replace").strip()
    return text.splitlines()[0] if text else ""


def retry_after_s(value: str | None, *, now_s: float) -> float | None:
    """Seconds to wait, from `Retry-After` in either of its forms.

    Args:
        value: Seconds, or an HTTP date.
        now_s: The present as Unix time, for the second form.
    """
    if value is None:
        return None
    try:
        seconds = (
            float(value) if value.strip().isdigit() else parsedate_to_datetime(value).timestamp() - now_s
        )
    except ValueError:
        return None
    return max(0.0, seconds)
