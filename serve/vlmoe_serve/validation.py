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
    if isinstance(body, dict) and len(body) > len(schema.model_fields):
        _refuse_unknown(schema, body, prefix)
    try:
        return schema.model_validate(body, strict=strict)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(_name(part) for part in first["loc"])
        param = f"{prefix}{path}".rstrip(".") or None
        raise InvalidField(
            _sentence(first, path or ("the input" if prefix else "the body")), param=param
        ) from None


def _refuse_unknown(schema: type[BaseModel], body: Mapping[str, object], prefix: str) -> None:
    """More fields than there are: pydantic would make an error of each, which takes it half a second for 200,000."""
    if schema.model_config.get("extra") == "forbid":
        path = _name(next(name for name in body if name not in schema.model_fields))
        raise InvalidField(_not_a_field(path), param=prefix + path)


def _name(part: object) -> str:
    """A part of a path; one that is no field of ours may be of any length."""
    text = str(part)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def checked_list(value: object, param: str, most: int) -> list[object]:
    """A list of 1 to `most`.

    Raises:
        InvalidField: no list, or an empty one. PayloadTooLarge: a longer one.
    """
    if not isinstance(value, list) or not value:
        raise InvalidField(f"{param} must be a list of 1 to {most}, got {_in_short(value)}", param=param)
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
    message = str(error["msg"])
    if error["type"] == "model_type":
        message = "Input should be an object"
    elif error["type"] == "too_short":
        message = f"Input should be a list of at least {error['ctx']['min_length']}"
    elif error["type"] == "too_long":
        message = f"Input should be a list of at most {error['ctx']['max_length']}"
    if error["type"] == "missing":
        return f"{path} is missing"
    if error["type"] == "extra_forbidden":
        return _not_a_field(path)
    return f"{path}: {message[:1].lower()}{message[1:]}, got {_in_short(error['input'])}"


def _in_short(value: object) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    return shown(value)


def _not_a_field(path: str) -> str:
    return f"{path} is not a field of this request"
