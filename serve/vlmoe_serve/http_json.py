"""JSON on the HTTP door: strict reading, fast writing."""

from collections.abc import Mapping
from typing import Any

import pydantic_core
from starlette.responses import Response

from vlmoe_serve.errors import BadRequest


def parse_json(body: bytes) -> Any:
    """A JSON text of any size and depth that a body may have.

    Raises:
        BadRequest: no JSON, or nested too deep.
    """
    try:
        return pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {error}", code="malformed_json") from None


def json_response(
    content: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Anything made of pydantic models, dicts, lists and scalars."""
    body = pydantic_core.to_json(content, inf_nan_mode="null")
    return Response(
        body, status, headers=None if headers is None else dict(headers), media_type="application/json"
    )
