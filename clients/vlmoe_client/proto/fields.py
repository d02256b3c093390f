"""Messages as plain fields, and back: what the rest of the code sees of protobuf, on both ends of the wire.

The fields have the names and the meaning of the JSON that travels over HTTP, except that pictures are bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value

M = TypeVar("M", bound=Message)

# beyond it, not every whole number is a double
EXACT = 2**53


def fields_of(message: Message) -> dict[str, Any]:
    """The fields that are set, as a request means them: what is empty was not given."""
    return {field.name: _value(field, value, fields_of) for field, value in message.ListFields()}


def all_fields_of(message: Message) -> dict[str, Any]:
    """Every field, as an answer means them: optional ones that are not set are None."""
    fields: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            fields[field.name] = None
        else:
            fields[field.name] = _value(field, getattr(message, field.name), all_fields_of)
    return fields


def message_of(kind: type[M], fields: Mapping[str, Any]) -> M:
    """A message with these fields; None leaves one out.

    Raises:
        TypeError, ValueError: a name or a value that the message does not have.
    """
    return kind(**fields)


def check_exact(value: object) -> None:
    """Whether a Struct holds a value as it is.

    Raises:
        ValueError: a whole number beyond 2^53, or one that is none.
    """
    if isinstance(value, Mapping):
        for each in value.values():
            check_exact(each)
    elif isinstance(value, list | tuple):
        for each in value:
            check_exact(each)
    elif isinstance(value, int) and abs(value) > EXACT:
        raise ValueError(f"whole numbers up to 2^53 can be sent, got {value}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"only finite numbers can be sent, got {value}")


def _value(field: Any, value: Any, read: Any) -> Any:
    if field.message_type is None:
        return list(value) if field.is_repeated else value
    if field.message_type.full_name == Struct.DESCRIPTOR.full_name:
        return _struct(value)
    return [read(each) for each in value] if field.is_repeated else read(value)


def _struct(struct: Struct) -> dict[str, Any]:
    return {name: _any(value) for name, value in struct.fields.items()}


def _any(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        return _number(value.number_value)
    if kind == "struct_value":
        return _struct(value.struct_value)
    if kind == "list_value":
        return _list(value.list_value)
    return None if kind in (None, "null_value") else getattr(value, kind)


def _list(values: ListValue) -> list[Any]:
    return [_any(value) for value in values.values]


def _number(number: float) -> int | float:
    # a Struct has only doubles; a year should come back as it was sent
    return int(number) if number.is_integer() and abs(number) <= EXACT else number
