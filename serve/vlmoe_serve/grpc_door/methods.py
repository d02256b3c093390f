"""The service's methods as gRPC wants them: bytes in, bytes out, one handler a method of the .proto file."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from vlmoe_client.proto.fields import fields_of, message_of
from vlmoe_client.proto.vlmoe.v1 import vlmoe_pb2
from vlmoe_serve.answers import Result
from vlmoe_serve.call import Call
from vlmoe_serve.catalog.model_admin import ModelAdmin
from vlmoe_serve.errors import BadRequest, PayloadTooLarge, RequestTooSlow, ServeError
from vlmoe_serve.grpc_door.calls import RPCS, STREAMS, Fields, Rpc, admin_rpcs
from vlmoe_serve.grpc_door.metadata import call_from, timing_metadata, value_of
from vlmoe_serve.grpc_door.stream import Stream
from vlmoe_serve.grpc_door.types import Answer, Context, Handler
from vlmoe_serve.grpc_door.values import holds_more_than
from vlmoe_serve.keys.access import shown_key
from vlmoe_serve.keys.admin_keys import AdminKeys
from vlmoe_serve.service import Service, error_body

_log = logging.getLogger(__name__)
# as over HTTP (`http_door.json`); what is one value in JSON may be four in a message
MAX_VALUES = 250_000
# For the one message of a call, of any size: nobody tells how much has come. Calls without one use up what may be open.
_MESSAGE_S = 60.0
SERVICE = vlmoe_pb2.DESCRIPTOR.services_by_name["VLMoE"]


def vlmoe_handlers(
    service: Service,
    draining: asyncio.Event,
    max_body_bytes: int,
    admin: ModelAdmin,
    admin_keys: AdminKeys,
) -> dict[str, Handler]:
    """A handler for every method of `vlmoe.v1.VLMoE`."""
    admins = admin_rpcs(admin)
    handlers: dict[str, Handler] = {}
    for method in SERVICE.methods:
        name = method.name
        if name in STREAMS:
            answer = _stream(service, method, RPCS[STREAMS[name]], draining, max_body_bytes)
        elif name in admins:
            answer = _for_admins(_unary(service, method, admins[name]), admin_keys)
        else:
            answer = _unary(service, method, RPCS[name])
        # unary methods too: they look the same on the wire, and can be refused before the message is read
        handlers[name] = grpc.stream_stream_rpc_method_handler(answer)
    return handlers


def parse(kind: type[Message], content: bytes) -> Message:
    """A message of that kind.

    Raises:
        BadRequest: the bytes are none. PayloadTooLarge: too many values.
    """
    # no message has more values than bytes
    if len(content) > MAX_VALUES and holds_more_than(MAX_VALUES, content, kind.DESCRIPTOR):
        raise PayloadTooLarge(f"the message has more than {MAX_VALUES} values", code="too_many_values")
    try:
        return kind.FromString(content)
    except DecodeError as error:
        raise BadRequest(
            f"the message is not a {kind.DESCRIPTOR.full_name}: {error}", code="malformed_message"
        ) from None


async def _read(kind: type[Message], context: Context) -> Message:
    """The one message of a unary call.

    Raises:
        BadRequest: there is none, or its bytes are none. RequestTooSlow: it does not come.
    """
    try:
        async with asyncio.timeout(_MESSAGE_S):
            content = await context.read()
    except TimeoutError:
        raise RequestTooSlow("the message of the call did not come in time") from None
    if not isinstance(content, bytes):
        raise BadRequest("the call has no message", code="malformed_message")
    return parse(kind, content)


def request_fields(request: Message) -> Fields:
    """What a request asks, as JSON would say it, but for pictures as bytes."""
    fields = fields_of(request)
    for each in (fields, *fields.get("items", ())):
        # with both, the schema refuses the one that it does not know
        if "image_url" in each and "image" not in each:
            each["image"] = each.pop("image_url")
    return fields


def _unary(service: Service, method: MethodDescriptor, rpc: Rpc) -> Answer:
    gives = GetMessageClass(method.output_type)

    async def run(request: Message, call: Call) -> Message:
        result = await rpc.run(service, request_fields(request), call)
        return message_of(gives, _answer_fields(result))

    return unary(method, lambda call: rpc.admit(service, call), run)


def _for_admins(answer: Answer, keys: AdminKeys) -> Answer:
    async def answer_admins(requests: object, context: Context) -> None:
        keys.check(shown_key(lambda name: value_of(context.invocation_metadata(), name)))
        await answer(requests, context)

    return answer_admins


def unary(
    method: MethodDescriptor,
    admit: Callable[[Call], None],
    run: Callable[[Any, Call], Awaitable[Message]],
) -> Answer:
    """The handler of a unary method: admission, then its message, then its answer and where the time went."""
    takes = GetMessageClass(method.input_type)

    async def answer(requests: object, context: Context) -> None:
        call = call_from(context)
        admit(call)
        response = await run(await _read(takes, context), call)
        context.set_trailing_metadata(timing_metadata(call))
        await context.write(response.SerializeToString())

    return answer


def _stream(
    service: Service, method: MethodDescriptor, rpc: Rpc, draining: asyncio.Event, max_body_bytes: int
) -> Answer:
    takes, gives = GetMessageClass(method.input_type), GetMessageClass(method.output_type)

    async def answer(content: bytes, call: Call) -> bytes:
        asked: Any = parse(takes, content)
        outcome: Fields = {}
        try:
            result = await rpc.run(service, request_fields(asked.request), call)
            outcome["response"] = _answer_fields(result)
        except ServeError as error:
            outcome["error"] = error_body(error).model_dump()
        except Exception:
            _log.exception("a request of a stream failed for a reason nobody foresaw")
            outcome["error"] = error_body(ServeError("internal error")).model_dump()
        return message_of(gives, {"id": asked.id, "timings": _timings(call), **outcome}).SerializeToString()

    async def answer_all(requests: object, context: Context) -> None:
        call = call_from(context)
        rpc.admit(service, call)
        stream = Stream(context, answer, call, max_body_bytes)
        await stream.run(draining)
        context.set_trailing_metadata(timing_metadata(call))

    return answer_all


def _answer_fields(result: Result | Fields) -> Fields:
    return result.model_dump() if isinstance(result, Result) else result


def _timings(call: Call) -> Fields | None:
    timings = call.timings
    if not timings.model_id:
        return None
    return {
        "encode_ms": timings.encode_ms,
        "queue_ms": timings.queue_ms,
        "forward_ms": timings.forward_ms,
        "batch_tokens": timings.batch_tokens,
        "routing_mode": timings.routing_mode or None,
    }
