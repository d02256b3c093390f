"""JSON on the HTTP door: strict reading, fast writing."""

from collections.abc import Mapping
from typing import Any

import jiter
import pydantic_core
from starlette.responses import Response

from vlmoe_serve.errors import BadRequest, PayloadTooLarge

# A list of empty lists takes 25 times the memory of its text. This many values take about 50 MB at most, and no request
# that makes sense has as many.
MAX_VALUES = 250_000
# A name costs twenty times what a number does: it is looked for among its object's others, and made to last. The event
# loop stands still meanwhile, for 25 ms at most. A full call may still carry items of a hundred fields each.
MAX_NAMES = 30_000
# the shortest member of an object, with what parts it from the next
_MEMBER_BYTES = 5
_WHITE_SPACE = b" \t\r\n"


def parse_json(body: bytes) -> Any:
    """A JSON text of at most `MAX_VALUES` values and `MAX_NAMES` names of fields, at most 200 levels deep.

    No name stands twice in one object:
    two programs that read a repeated name may each take another of its values, which is how checks are passed by.

    Raises:
        BadRequest: no JSON, too deep, a repeated name, NaN or an infinity, half of a surrogate pair.
        PayloadTooLarge: too many values or names.
    """
    # counted as bytes, before anything is built; what stands inside texts is counted too, and each takes a byte
    if len(body) > _MEMBER_BYTES * MAX_NAMES:
        members = body.count(b",") + body.count(b"{")
        if members + body.count(b"[") > MAX_VALUES:
            raise PayloadTooLarge(f"the body has more than {MAX_VALUES} values", code="too_many_values")
        if members > MAX_NAMES and body.count(b":") > MAX_NAMES and _num_names(body) > MAX_NAMES:
            raise PayloadTooLarge(
                f"the body has more than {MAX_NAMES} names of fields", code="too_many_values"
            )
    try:
        return jiter.from_json(body, allow_inf_nan=False, catch_duplicate_keys=True, cache_mode="keys")
    except ValueError as error:
        # the reason may quote a name of any length
        raise BadRequest(f"the body is not JSON: {str(error)[:200]}", code="malformed_json") from None


def to_json(content: object) -> bytes:
    """Anything made of pydantic models, dataclasses, dicts, lists and scalars; what JSON has no number for is null."""
    return pydantic_core.to_json(content, inf_nan_mode="null")


def _num_names(body: bytes) -> int:
    """At least as many as there are. Colons of texts do not count, unless a quotation mark stands before them."""
    return body.translate(None, _WHITE_SPACE).count(b'":')


def json_response(
    content: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """What `to_json` writes."""
    return Response(
        to_json(content),
        status,
        headers=None if headers is None else dict(headers),
        media_type="application/json",
    )
