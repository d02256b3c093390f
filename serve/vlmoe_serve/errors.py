"""Everything that can go wrong with a request.

ServeError
├── BadRequest            400  malformed: not JSON, not base64, a header out of range
│   ├── UrlNotAllowed     400  an image given by URL, and no allow-list admits its host
│   └── BrokenImage       400  an allowed image format whose bytes do not decode
├── Unauthorized          401  no key, or not one of ours
├── Forbidden             403  not with this key, or not outside the model root
├── NotFound              404  no such route, model, collection or item
├── MethodNotAllowed      405  the route exists, not with this method
├── RequestTooSlow        408  the head or the body does not arrive in time
├── Conflict              409  what is asked for does not go with what is served
│   └── SpaceConflict     409  a collection's vectors and the model's are of different spaces
├── PayloadTooLarge       413  a body, image, text or request that could never fit
├── UrlTooLong            414  the request line's address
├── UnsupportedImage      415  not an image of an allowed format
├── UnsupportedEncoding   415  a body that is packed
├── InvalidField          422  the body is not what the task's schema says
├── Overloaded            429  predicted wait over the limit, or a key's share is used up; retry later
├── HeadTooLarge          431  the request line and headers together
├── EngineUnavailable     503  the engine does not come back
│   ├── Starting          503  the model is being loaded
│   ├── RequestFailed     503  the engine failed twice on this request alone
│   ├── ShuttingDown      503  this server takes no new requests
│   ├── TooManyConnections 503 as many as are allowed are open
│   └── StoreUnavailable  503  the disk does not take or give what a collection needs
└── DeadlineExceeded      504  the caller's deadline passed while it waited

Raise the leaf where the fact is known. Only the doors catch; anything else answers "internal error".
"""

import math

from vlmoe_model.errors import (
    BrokenImageError,
    ImageFormatError,
    ImageTooLargeError,
    InputError,
    TextTooLongError,
)


class ServeError(Exception):
    """Base of the tree.

    message: one sentence with the value and what is allowed. param: path of the field it is about.
    """

    status: int = 500
    code: str = "internal_error"
    grpc_code: str = "INTERNAL"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), dict(self.__dict__))


def _rebuild(kind: type[ServeError], state: dict[str, object]) -> ServeError:
    error = kind.__new__(kind, state["message"])
    error.__dict__.update(state)
    return error


class BadRequest(ServeError):
    """Malformed before any schema applies."""

    status = 400
    code = "bad_request"
    grpc_code = "INVALID_ARGUMENT"


class UrlNotAllowed(BadRequest):
    """An image by URL whose host is on no allow-list."""

    code = "url_not_allowed"


class BrokenImage(BadRequest):
    """The image's format is allowed but its bytes do not decode."""

    code = "broken_image"


class Unauthorized(ServeError):
    """No key, or not one of ours."""

    status = 401
    code = "unauthorized"
    grpc_code = "UNAUTHENTICATED"


class Forbidden(ServeError):
    """Not with this key, or not outside the model root."""

    status = 403
    code = "forbidden"
    grpc_code = "PERMISSION_DENIED"


class NotFound(ServeError):
    """No such route, model, collection or item; `code` says which."""

    status = 404
    code = "not_found"
    grpc_code = "NOT_FOUND"


class MethodNotAllowed(ServeError):
    """The route exists, but not with this method."""

    status = 405
    code = "method_not_allowed"
    grpc_code = "UNIMPLEMENTED"


class RequestTooSlow(ServeError):
    """The head or the body of a request does not arrive in time."""

    status = 408
    code = "request_too_slow"
    grpc_code = "DEADLINE_EXCEEDED"


class Conflict(ServeError):
    """What is asked for does not go with what is served; `code` says why."""

    status = 409
    code = "conflict"
    grpc_code = "FAILED_PRECONDITION"


class SpaceConflict(Conflict):
    """A collection's vectors and the model's lie in different spaces."""

    code = "space_conflict"


class PayloadTooLarge(ServeError):
    """A body, image, text or request that could never fit."""

    status = 413
    code = "payload_too_large"
    grpc_code = "INVALID_ARGUMENT"


class UrlTooLong(ServeError):
    """The request line's address is longer than any of ours."""

    status = 414
    code = "url_too_long"
    grpc_code = "INVALID_ARGUMENT"


class UnsupportedImage(ServeError):
    """Not an image of an allowed format."""

    status = 415
    code = "unsupported_image"
    grpc_code = "INVALID_ARGUMENT"


class UnsupportedEncoding(ServeError):
    """The body is packed: what it grows to would have to be bounded too, and pictures are packed already."""

    status = 415
    code = "unsupported_encoding"
    grpc_code = "INVALID_ARGUMENT"


class InvalidField(ServeError):
    """The body is not what the task's schema says."""

    status = 422
    code = "invalid_field"
    grpc_code = "INVALID_ARGUMENT"


class HeadTooLarge(ServeError):
    """The request line and the headers are larger than any of ours."""

    status = 431
    code = "head_too_large"
    grpc_code = "INVALID_ARGUMENT"


class Overloaded(ServeError):
    """The predicted wait is over the limit, or a key has had its share; `code` says which.

    retry_after_s: when it is worth trying again, as far as we can tell. closed_s: nobody like this caller can be let in
    sooner, since a queue gets shorter by a second in a second.
    """

    status = 429
    code = "overloaded"
    grpc_code = "RESOURCE_EXHAUSTED"

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float = 1.0,
        closed_s: float = 0.0,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.retry_after_s = retry_after_s
        self.closed_s = closed_s


class EngineUnavailable(ServeError):
    """The engine does not come back."""

    status = 503
    code = "engine_unavailable"
    grpc_code = "UNAVAILABLE"
    retry_after_s: float | None = 1.0


class Starting(EngineUnavailable):
    """The model is being loaded."""

    code = "starting"


class RequestFailed(EngineUnavailable):
    """The engine failed twice on this request alone; sending it again will not help."""

    code = "request_failed"
    retry_after_s = None


class ShuttingDown(EngineUnavailable):
    """This server takes no new requests."""

    code = "shutting_down"


class TooManyConnections(EngineUnavailable):
    """As many connections as are allowed are open."""

    code = "too_many_connections"


class StoreUnavailable(EngineUnavailable):
    """The disk does not take or give what a collection needs."""

    code = "store_unavailable"


class DeadlineExceeded(ServeError):
    """The caller's deadline passed while the request waited."""

    status = 504
    code = "deadline_exceeded"
    grpc_code = "DEADLINE_EXCEEDED"


def retry_after(error: ServeError) -> int | None:
    """Whole seconds for the `Retry-After` header, or None where waiting does not help."""
    seconds = getattr(error, "retry_after_s", None)
    return None if seconds is None else max(1, math.ceil(seconds))


def from_input_error(error: InputError, param: str | None) -> ServeError:
    """The answer to an image or a text that a head cannot take; `param` is the field it came in."""
    message = str(error)
    if isinstance(error, ImageFormatError):
        return UnsupportedImage(message, param=param)
    if isinstance(error, BrokenImageError):
        return BrokenImage(message, param=param)
    if isinstance(error, ImageTooLargeError):
        return PayloadTooLarge(message, param=param, code="image_too_large")
    if isinstance(error, TextTooLongError):
        return PayloadTooLarge(message, param=param, code="text_too_long")
    return InvalidField(message, param=param)
