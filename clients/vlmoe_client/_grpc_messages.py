"""Calls as the messages that carry them, and answers as the fields that the readers of JSON know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from ._call import Call, Reply
from ._images import Picture
from .proto.fields import all_fields_of, check_exact, message_of
from .proto.vlmoe.v1 import vlmoe_pb2

SERVICE = vlmoe_pb2.DESCRIPTOR.services_by_name["VLMoE"]
# what a Struct carries
_STRUCTS = frozenset({"filter", "metadata"})


@dataclass(frozen=True, slots=True)
class MessageReply(Reply):
    """An answer whose fields did not travel as JSON."""

    fields: Mapping[str, Any] = field(default_factory=dict)

    def json(self) -> Any:
        """The fields."""
        return self.fields


@dataclass(frozen=True, slots=True)
class Rpc:
    """A method: where it is called, what it takes, what it gives."""

    path: str
    takes: type[Message]
    gives: type[Message]

    @classmethod
    def named(cls, name: str) -> Rpc:
        """The service's method of that name."""
        method = SERVICE.methods_by_name[name]
        return cls(
            f"/{SERVICE.full_name}/{name}",
            GetMessageClass(method.input_type),
            GetMessageClass(method.output_type),
        )


def request_of(call: Call[Any]) -> Message:
    """The message of a unary call; reads its pictures.

    Raises:
        ValueError, TypeError: a value that the message cannot hold.
    """
    return message_of(Rpc.named(call.rpc).takes, wired({**call.names, **(call.body or {})}))


def requests_of(rpc: str, inputs: Iterable[Mapping[str, Any]], shared: Mapping[str, Any]) -> list[Message]:
    """The messages of a stream, with their positions as ids."""
    takes = Rpc.named(f"{rpc}Stream").takes
    return [
        message_of(takes, {"id": str(place), "request": wired({**shared, **fields})})
        for place, fields in enumerate(inputs)
    ]


def wired(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a JSON body as a message's: pictures as bytes or by URL, and no value that would change."""
    found: dict[str, Any] = {}
    for name, given in fields.items():
        value: Any = given.load() if isinstance(given, Picture) else given
        if name == "image" and isinstance(value, str):
            found["image_url"] = value
        elif name == "images":
            found[name] = [_file(each) for each in value]
        elif name == "items":
            found[name] = [wired(each) for each in value]
        elif name == "rerank" and value == "auto":
            continue
        else:
            if name in _STRUCTS:
                check_exact(value)
                value = None if value is None else dict(value)
            found[name] = value
    return found


def answered(answer: Any) -> dict[str, Any]:
    """One answer of a stream as an entry of `results`."""
    if answer.HasField("error"):
        return {"error": all_fields_of(answer.error)}
    return all_fields_of(answer.response)


def timing_headers(answer: Any) -> dict[str, str]:
    """The times of one answer of a stream, as those of a call travel."""
    if not answer.HasField("timings"):
        return {}
    times = answer.timings
    mode = {"x-routing-mode": times.routing_mode} if times.HasField("routing_mode") else {}
    return {
        "x-encode-ms": str(times.encode_ms),
        "x-queue-ms": str(times.queue_ms),
        "x-forward-ms": str(times.forward_ms),
        "x-batch-tokens": str(times.batch_tokens),
        **mode,
    }


def _file(given: Any) -> bytes:
    value = given.load() if isinstance(given, Picture) else given
    if isinstance(value, bytes):
        return value
    raise ValueError(f"several pictures are sent as files over gRPC, got the URL {value[:80]!r}")
