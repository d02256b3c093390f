"""Everything that can go wrong with a call. Catch `VlmoeError` for all of it, or the leaf you can act on.

VlmoeError
├── NetworkError               no whole answer arrived
│   ├── ConnectFailed          nobody was reached: refused, unknown host, TLS, no connection in time
│   ├── ConnectionLost         the connection broke before the answer was whole
│   └── CallTimeout            the call's `timeout` ran out, waiting and retries included
├── UnexpectedAnswer           an answer arrived that is not a vlmoe server's
└── ApiError                   the server said no: `status`, `code`, `message`, `param`
    ├── BadRequest        400  malformed, a broken image, or a URL that is not allowed
    ├── Unauthorized      401  the API key is missing or wrong
    ├── Forbidden         403  only an admin key may do this
    ├── NotFound          404  unknown model, collection or item
    ├── Conflict          409  the collection holds another model's embeddings (`space_id`)
    ├── TooLarge          413  the body, the picture or the text is over the server's limits
    ├── UnsupportedImage  415  the bytes are not an image of an allowed format
    ├── Unprocessable     422  a field is missing, unknown or has a wrong value
    ├── Overloaded        429  the queue is too long; `retry_after_s` says when to come back
    └── ServerError       5xx  the server's own fault
        ├── Unavailable       503  not ready, or restarting; `retry_after_s`
        └── DeadlineExceeded  504  the deadline passed while the request waited

Mistakes seen before anything is sent are plain `ValueError`, `TypeError` and `OSError` (a missing file).
"""

from __future__ import annotations


class VlmoeError(Exception):
    """Base of everything a call can raise once it was sent.

    Attributes:
        request_id: The `x-request-id` of the call; the server's log has it too.
    """

    def __init__(self, message: str, *, request_id: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.request_id = request_id

    def __reduce__(self) -> tuple[object, ...]:
        # keyword-only arguments are lost by the default, and pools send exceptions between processes
        return _restore, (type(self), self.args, self.__dict__)


def _restore(cls: type[VlmoeError], args: tuple[object, ...], state: dict[str, object]) -> VlmoeError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class NetworkError(VlmoeError):
    """No whole answer arrived."""


class ConnectFailed(NetworkError):
    """Nobody was reached, so nothing was done."""


class ConnectionLost(NetworkError):
    """The connection broke before the answer was whole; the server may have done the work."""


class CallTimeout(NetworkError):
    """The call's `timeout` ran out, waiting and retries included."""


class UnexpectedAnswer(VlmoeError):
    """An answer arrived that is not a vlmoe server's: something else listens at that URL."""


class ApiError(VlmoeError):
    """The server said no.

    Attributes:
        status: The HTTP status.
        code: A stable snake_case name for the reason.
        message: One sentence with the value and what is allowed.
        param: Path of the field that is meant, if one is.
        retry_after_s: Seconds the server asks to wait before another try, if it does.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str,
        param: str | None = None,
        request_id: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, request_id=request_id)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        where = f" [{self.param}]" if self.param else ""
        return f"{self.status} {self.code}: {self.message}{where}"


class BadRequest(ApiError):
    """400: malformed, a broken image, or a URL that is not allowed."""


class Unauthorized(ApiError):
    """401: the API key is missing or wrong."""


class Forbidden(ApiError):
    """403: only an admin key may do this."""


class NotFound(ApiError):
    """404: unknown model, collection or item."""


class Conflict(ApiError):
    """409: the collection holds embeddings of another model."""


class TooLarge(ApiError):
    """413: the body, the picture or the text is over the server's limits."""


class UnsupportedImage(ApiError):
    """415: the bytes are not an image of an allowed format."""


class Unprocessable(ApiError):
    """422: a field is missing, unknown or has a wrong value."""


class Overloaded(ApiError):
    """429: the queue is too long; `retry_after_s` says when to come back."""


class ServerError(ApiError):
    """5xx: the server's own fault."""


class Unavailable(ServerError):
    """503: not ready, or restarting."""


class DeadlineExceeded(ServerError):
    """504: the deadline passed while the request waited."""


BY_STATUS: dict[int, type[ApiError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    415: UnsupportedImage,
    422: Unprocessable,
    429: Overloaded,
    503: Unavailable,
    504: DeadlineExceeded,
}


def class_for(status: int) -> type[ApiError]:
    """The documented status' own class, else the general one."""
    return BY_STATUS.get(status, ServerError if status >= 500 else ApiError)
