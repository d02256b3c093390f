"""How a call travels over gRPC: one channel, which connects when it is first used and again when it must."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
from google.protobuf.message import Message

from ._call import Call, CallOptions, Reply
from ._course import Course
from ._errors import NetworkError
from ._grpc_errors import to_error
from ._grpc_messages import MessageReply, Rpc, answered, request_of, requests_of
from ._retry import Retry
from ._settings import Settings, api_key_of
from ._transport import Blocking
from ._version import __version__
from .proto.fields import all_fields_of
from .proto.wire_pb2 import HealthCheckRequest, HealthCheckResponse

DEFAULT_URL = "grpc://127.0.0.1:8001"
_TLS = {"grpc": False, "http": False, "grpcs": True, "https": True}
_HEALTH = "/grpc.health.v1.Health/Check"


class GrpcTransport(Blocking):
    """Sends calls over gRPC and waits for them."""

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float | None = 60.0,
        connect_timeout: float = 5.0,
        retry: Retry | None = None,
        priority: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """Prepare a client; nothing is sent yet.

        Args:
            url: Of the server's gRPC door: grpc://HOST:PORT, or grpcs://HOST:PORT for TLS. Default: the
                environment's VLMOE_GRPC_URL, else grpc://127.0.0.1:8001.
            api_key: Sent as a bearer token. Default: the environment's VLMOE_API_KEY, else none.
            timeout: Seconds for a whole call, its retries included; None waits for ever.
            connect_timeout: Seconds for one attempt to connect.
            retry: How often and how patiently a call is tried again. Default: `Retry()`.
            priority: "interactive", "normal" or "batch", for calls that do not say their own.
            credentials: For TLS with other authorities than the usual ones, or with a certificate of the
                client's own: `grpc.ssl_channel_credentials(...)`.
        """
        given = url or os.environ.get("VLMOE_GRPC_URL") or DEFAULT_URL
        target, tls = parse_url(given)
        self._settings = Settings(
            base_url=f"{'grpcs' if tls or credentials else 'grpc'}://{target}",
            api_key=api_key_of(api_key),
            timeout=timeout,
            connect_timeout=connect_timeout,
            retry=retry or Retry(),
            priority=priority,
        )
        options = [
            ("grpc.primary_user_agent", f"vlmoe-client/{__version__}"),
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.min_reconnect_backoff_ms", int(1000 * connect_timeout)),
            # retries wait by themselves; the channel should be ready to connect when they come
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2000),
            # clients of one process do not share connections: each has its own to spread over replicas
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if credentials is None and tls:
            credentials = grpc.ssl_channel_credentials()
        if credentials is None:
            self._channel = grpc.insecure_channel(target, options)
        else:
            self._channel = grpc.secure_channel(target, credentials, options)

    @property
    def url(self) -> str:
        """The server's URL."""
        return self._settings.base_url

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r}, timeout={self._settings.timeout})"

    def close(self) -> None:
        """Close the connections."""
        self._channel.close()

    def _metadata(self, course: Course) -> tuple[tuple[str, str], ...]:
        key = self._settings.api_key
        return (*course.identity().items(), *((("authorization", f"Bearer {key}"),) if key else ()))

    def _content(self, call: Call[Any]) -> Message | list[Message]:
        if call.rpc == "Health":
            return HealthCheckRequest()
        if call.body is not None and "inputs" in call.body:
            shared = {name: value for name, value in call.body.items() if name != "inputs"}
            return requests_of(call.rpc, call.body["inputs"], shared)
        return request_of(call)

    def _exchange(self, call: Call[Any], content: Message | list[Message], course: Course) -> Reply:
        try:
            if call.rpc == "Health":
                return self._health(call, content, course)
            if isinstance(content, list):
                return self._many(call, content, course)
            rpc = Rpc.named(call.rpc)
            invoke = self._channel.unary_unary(rpc.path, rpc.takes.SerializeToString, rpc.gives.FromString)
            answer, ended = invoke.with_call(
                content, timeout=course.remaining_s(), metadata=self._metadata(course)
            )
            return self._reply(all_fields_of(answer), ended, course)
        except grpc.RpcError as error:
            raise to_error(error, course) from None

    def _many(self, call: Call[Any], requests: list[Message], course: Course) -> Reply:
        stream = self._open(call.rpc, iter(requests), course)
        results: dict[int, Mapping[str, Any]] = {}
        for answer in stream:
            result = answered(answer)
            if "error" in result and result["error"]["param"] is not None:
                result["error"]["param"] = f"inputs.{answer.id}.{result['error']['param']}"
            results[int(answer.id)] = result
        fields = {"results": [results[place] for place in sorted(results)]}
        return self._reply(fields, stream, course)

    def _open(self, rpc: str, requests: Iterator[Message], course: Course) -> Any:
        """A stream's call: an iterator of answers."""
        method = Rpc.named(f"{rpc}Stream")
        invoke = self._channel.stream_stream(
            method.path, method.takes.SerializeToString, method.gives.FromString
        )
        return invoke(requests, timeout=course.remaining_s(), metadata=self._metadata(course))

    def _health(self, call: Call[Any], content: Any, course: Course) -> Reply:
        invoke = self._channel.unary_unary(
            _HEALTH, HealthCheckRequest.SerializeToString, HealthCheckResponse.FromString
        )
        answer, ended = invoke.with_call(
            content, timeout=course.remaining_s(), metadata=self._metadata(course)
        )
        well = call.path == "/healthz" or answer.status == HealthCheckResponse.SERVING
        return self._reply({}, ended, course, status=200 if well else 503)

    def _reply(
        self, fields: Mapping[str, Any], ended: grpc.Call, course: Course, status: int = 200
    ) -> MessageReply:
        headers = {name: value for name, value in (ended.trailing_metadata() or ()) if isinstance(value, str)}
        request_id = headers.get("x-request-id", course.identity()["x-request-id"])
        return MessageReply(status=status, headers=headers, content=b"", request_id=request_id, fields=fields)

    def _check(self, call: Call[bool], options: CallOptions) -> bool:
        course = Course(self._settings, call, options)
        try:
            course.start()
            return call.result(self._exchange(call, self._content(call), course))
        except NetworkError:
            return False


def parse_url(given: str) -> tuple[str, bool]:
    """HOST:PORT, and whether it is spoken to by TLS.

    Raises:
        ValueError: another form.
    """
    scheme, found, rest = given.partition("://")
    if not found:
        scheme, rest = "grpc", given
    target = rest.rstrip("/")
    host, _, port = target.rpartition(":")
    if scheme not in _TLS or not host or not port.isdigit() or "/" in target or "@" in target:
        raise ValueError(
            f"the server's gRPC URL must be grpc://HOST:PORT or grpcs://HOST:PORT, got {given!r}"
        )
    return target, _TLS[scheme]
