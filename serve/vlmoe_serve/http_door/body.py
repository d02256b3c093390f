"""What a request carries: its body as JSON or as a form, and the headers that say how to treat it."""

import re
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Scope

from vlmoe_serve.call import Call, read_priority
from vlmoe_serve.errors import BadRequest, InvalidField
from vlmoe_serve.http_door.head import head_of
from vlmoe_serve.http_door.json import parse_json
from vlmoe_serve.validation import shown

# fields of forms that hold several values, and those whose text is JSON
_LISTS = frozenset({"labels", "images", "texts"})
_JSON = frozenset({"filter"})
_FLAGS = {"rerank": {"true": True, "false": False}}
_MAX_PARTS = 1100
_CALL = "vlmoe.call"
_MAX_TIMEOUT_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Body:
    """A parsed body. strict: False for a form, where every value is text."""

    fields: Any
    strict: bool


def call_from(scope: Scope) -> Call:
    """The call of a request, with the caller's deadline and priority: always the same one for the same request.

    Raises:
        BadRequest: a header out of range.
    """
    known: Call | None = scope.get(_CALL)
    if known is not None:
        return known
    head = head_of(scope)
    timeout_ms = _timeout_ms(head.get("x-request-timeout-ms"))
    priority = read_priority(head.get("x-priority"))
    call = scope[_CALL] = Call.within(None if timeout_ms is None else timeout_ms / 1000, priority)
    return call


def seated_call(scope: Scope) -> Call | None:
    """The call of a request that has been let in; None if nobody has decided upon it."""
    call: Call | None = scope.get(_CALL)
    return call if call is not None and call.seats else None


def leave_seats(scope: Scope) -> None:
    """The request is over: what its call did not use of what it was admitted to is free."""
    call: Call | None = scope.get(_CALL)
    if call is not None:
        while call.seats:
            call.seats.pop().leave()


async def read_body(request: Request, max_bytes: int) -> Body:
    """Read and parse a body. A form's file arrives as bytes in its field.

    Raises:
        BadRequest, InvalidField
    """
    kind = head_of(request.scope).get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        try:
            return Body(await _form(request, max_bytes), strict=False)
        except MultiPartException as error:
            raise BadRequest(error.message) from None
    # every other type is taken for JSON: curl -d says form-urlencoded whatever it sends
    return Body(parse_json(await _whole(request)), strict=True)


async def _whole(request: Request) -> bytes:
    # most bodies are one message, for which starlette's stream of pieces is a long way
    pieces: list[bytes] = []
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def read_json(request: Request, *, if_empty: object = None) -> Any:
    """Read and parse a body of JSON.

    Raises:
        BadRequest: it is none.
    """
    if head_of(request.scope).get("content-type", "").lower().startswith("multipart/"):
        raise BadRequest("this route takes JSON, got a form", code="malformed_json")
    body = await request.body()
    return if_empty if not body and if_empty is not None else parse_json(body)


async def _form(request: Request, max_bytes: int) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    async with request.form(max_files=8, max_fields=_MAX_PARTS, max_part_size=max_bytes) as form:
        for name, part in form.multi_items():
            value = await part.read() if isinstance(part, UploadFile) else _from_text(name, part)
            if name in _LISTS:
                fields.setdefault(name, []).append(value)
            elif name in fields:
                raise InvalidField(f"{shown(name)} is given twice", param=name)
            else:
                fields[name] = value
    return fields


def _from_text(name: str, text: str) -> Any:
    return parse_json(text.encode()) if name in _JSON else _FLAGS.get(name, {}).get(text, text)


def _timeout_ms(text: str | None) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,7}", text) or not 1 <= int(text) <= _MAX_TIMEOUT_MS:
        raise BadRequest(
            f"x-request-timeout-ms must be a whole number from 1 to {_MAX_TIMEOUT_MS}, got {shown(text)}",
            param="x-request-timeout-ms",
        )
    return int(text)
