"""What a failed call is answered with: a canonical code, and google.rpc's details with our own code and the wait."""

from dataclasses import dataclass

import grpc

from vlmoe_client.proto.wire_pb2 import ErrorInfo, RetryInfo, Status
from vlmoe_serve.errors import ServeError

DOMAIN = "vlmoe"
# trailing metadata has a limit of 8 KiB at most peers, and the message is in it twice
_MAX_MESSAGE = 1000
_DETAILS = "grpc-status-details-bin"
_TYPES = "type.googleapis.com/google.rpc."


@dataclass(frozen=True, slots=True)
class Failure:
    """How a call ends. metadata: trailing."""

    code: grpc.StatusCode
    message: str
    metadata: tuple[tuple[str, str | bytes], ...]


def failure(error: ServeError) -> Failure:
    """The end of a call that an error stands for."""
    code = grpc.StatusCode[error.grpc_code]
    message = error.message[:_MAX_MESSAGE]
    status = Status(code=code.value[0], message=message)
    info = ErrorInfo(reason=error.code, domain=DOMAIN, metadata={"status": str(error.status)})
    if error.param is not None:
        info.metadata["param"] = error.param
    status.details.add(type_url=f"{_TYPES}ErrorInfo", value=info.SerializeToString())
    wait_s = getattr(error, "retry_after_s", None)
    if wait_s is not None:
        retry = RetryInfo()
        retry.retry_delay.FromMilliseconds(round(1000 * wait_s))
        status.details.add(type_url=f"{_TYPES}RetryInfo", value=retry.SerializeToString())
    return Failure(code, message, ((_DETAILS, status.SerializeToString()),))
