"""A failed call over gRPC as the error that HTTP would have raised.

Our server says in the details which that is; without them somebody else answered, or nobody did.
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc

from ._course import Course
from ._errors import (
    ConnectFailed,
    ConnectionLost,
    ServerError,
    TooLarge,
    UnexpectedAnswer,
    VlmoeError,
    class_for,
)
from .proto.wire_pb2 import ErrorInfo, RetryInfo, Status

_DETAILS = "grpc-status-details-bin"
_ERROR_INFO, _RETRY_INFO = "google.rpc.ErrorInfo", "google.rpc.RetryInfo"
_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
}


def metadata_of(error: grpc.RpcError) -> dict[str, str | bytes]:
    """The trailing metadata of a failed call."""
    trailing = error.trailing_metadata() if isinstance(error, grpc.Call) else None
    return dict(trailing or ())


def to_error(error: grpc.RpcError, course: Course) -> VlmoeError:
    """What a failed call raises."""
    code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
    message = (error.details() if isinstance(error, grpc.Call) else None) or str(code)
    metadata = metadata_of(error)
    request_id = str(metadata.get("x-request-id", course.identity()["x-request-id"]))
    told = _told(metadata, message, request_id)
    if told is not None:
        return told
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return course.timed_out()
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        unreached = "failed to connect" in message.lower() or "name resolution" in message.lower()
        return course.error(
            ConnectFailed if unreached else ConnectionLost, f"no answer from {course.url}: {message}"
        )
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return course.error(UnexpectedAnswer, f"{course.url} is no vlmoe server: {message}")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in message:
        return TooLarge(message, status=413, code="body_too_large", request_id=request_id)
    status = _STATUS.get(code, 500)
    kind = class_for(status) if status < 500 else ServerError
    return kind(message, status=status, code=code.name.lower(), request_id=request_id)


def _told(metadata: Mapping[str, str | bytes], message: str, request_id: str) -> VlmoeError | None:
    details = metadata.get(_DETAILS)
    if not isinstance(details, bytes):
        return None
    info, retry_after_s = ErrorInfo(), None
    for detail in Status.FromString(details).details:
        kind = detail.type_url.rpartition("/")[2]
        if kind == _ERROR_INFO:
            info = ErrorInfo.FromString(detail.value)
        elif kind == _RETRY_INFO:
            retry_after_s = RetryInfo.FromString(detail.value).retry_delay.ToTimedelta().total_seconds()
    status = info.metadata.get("status", "")
    if not status.isdigit():
        return None
    return class_for(int(status))(
        message,
        status=int(status),
        code=info.reason,
        param=info.metadata.get("param"),
        request_id=request_id,
        retry_after_s=retry_after_s,
    )
