"""A body as parsed -> a checked request, or the one error that says what is wrong and where."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from vlmoe_serve.errors import InvalidField, PayloadTooLarge

M = TypeVar("M", bound=BaseModel)
_SHOWN = 60


def check(schema: type[M], body: object, *, strict: bool = True, prefix: str = "") -> M:
    """Check a parsed body.

    Args:
        schema: what it must be.
        body: from JSON (`strict`: a text is no number), or from a form, where everything is text.
        strict: see above.
        prefix: path of the body inside the whole, such as "inputs.3.".

    Raises:
        InvalidField: the first thing that is wrong.
    """
    try:
        return schema.model_validate(body, strict=strict)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        # a name that is no field of ours may be of any length
        path = ".".join(
            str(part) if len(str(part)) <= _SHOWN else f"{str(part)[:_SHOWN]}..." for part in first["loc"]
        )
        param = f"{prefix}{path}".rstrip(".") or None
        raise InvalidField(_sentence(first, path), param=param) from None


def checked_list(value: object, param: str, most: int) -> list[object]:
    """A list of 1 to `most`.

    Raises:
        InvalidField: no list, or an empty one. PayloadTooLarge: a longer one.
    """
    if not isinstance(value, list) or not value:
        raise InvalidField(f"{param} must be a list of 1 to {most}", param=param)
    if len(value) > most:
        raise PayloadTooLarge(
            f"{param} has {len(value)} entries, the limit is {most}", param=param, code=f"too_many_{param}"
        )
    return value


def shown(value: object) -> str:
    """A value as an error message quotes it, however long it is."""
    text = repr(value[: 2 * _SHOWN] if isinstance(value, str | bytes) else value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _sentence(error: Mapping[str, Any], path: str) -> str:
    message = "Input should be an object" if error["type"] == "model_type" else str(error["msg"])
    if error["type"] == "missing":
        return f"{path} is missing"
    if error["type"] == "extra_forbidden":
        return f"{path} is not a field of this request"
    name = path or "the input"
    value = error["input"]
    if isinstance(value, dict | list):
        value_shown = "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    else:
        value_shown = shown(value)
    return f"{name}: {message[:1].lower()}{message[1:]}, got {value_shown}"
