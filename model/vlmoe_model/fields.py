"""JSON -> frozen dataclass, with every field's type checked: Python's own constructor would take anything."""

import dataclasses
import math
import types
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def build(cls: type[T], values: Any, where: str = "") -> T:
    """Make a dataclass from a JSON object.

    Args:
        cls: a dataclass of int, float, bool, str, Literal, tuples, optional values or further dataclasses.
        values: what json.loads gave.
        where: dotted name of `values` within the file, for messages.

    Raises:
        ValueError: an unknown or missing key, or a value of the wrong type; names field and allowed type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{where or 'the file'} must be an object, got {_show(values)}")
    prefix = f"{where}." if where else ""
    hints = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise ValueError(f"unknown key {prefix + key!r}; known are {', '.join(fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ValueError(f"key {prefix + name!r} is missing")
    return cls(**{key: _value(hints[key], value, prefix + key) for key, value in values.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        return _value(next(option for option in options if option is not type(None)), value, where)
    if origin is Literal:
        if value not in options:
            raise ValueError(f"{where} must be one of {', '.join(map(str, options))}, got {_show(value)}")
        return value
    if origin is tuple:
        return _tuple(options, value, where)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return build(hint, value, where)
    # JSON writes 1.0 as 1 where it likes, and Python takes True for an int
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float and is_number and math.isfinite(value):
        return float(value)
    if type(value) is not hint:
        raise ValueError(f"{where} must be of type {hint.__name__}, got {_show(value)}")
    if hint is float:
        raise ValueError(f"{where} must be finite, got {value}")
    return value


def _tuple(options: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{where} must be a list, got {_show(value)}")
    if options[-1] is Ellipsis:
        options = (options[0],) * len(value)
    if len(value) != len(options):
        raise ValueError(f"{where} must have {len(options)} values, got {len(value)}")
    return tuple(
        _value(option, item, f"{where}[{i}]")
        for i, (option, item) in enumerate(zip(options, value, strict=True))
    )


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
