"""The filter language of searches: a JSON value -> a predicate on an item's metadata.

    {"colour": "red"}                      equal; a list in the metadata matches if any of its values does
    {"colour": {"in": ["red", "blue"]}}    equal to any
    {"year": {"gte": 1990, "lt": 2000}}    in a range, of numbers or of texts; also gt, lte
    {"and": [F, ...]} {"or": [F, ...]} {"not": F}

Several keys in one object must all hold. `a.b` reaches into nested objects where no field is called `a.b`.
null matches a field that is null or missing. A number never equals a text or a boolean.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any

from vlmoe_serve.errors import InvalidField

Metadata = Mapping[str, Any]
Predicate = Callable[[Metadata], bool]
_Test = Callable[[object], bool]

MAX_DEPTH = 16
# of a list, and of all of a filter: each is held against every item of a collection
MAX_VALUES = 1000
MAX_ALL_VALUES = 4000

_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


def compile_filter(source: object, param: str = "filter") -> Predicate:
    """Check a filter once and turn it into a function.

    Raises:
        InvalidField: with the path of what is wrong below `param`.
    """
    _check_size(source, param)
    return _all([_clause(key, value, f"{param}.{key}", 1) for key, value in _object(source, param).items()])


def _check_size(source: object, param: str) -> None:
    num_values, left = 0, [source]
    while left:
        value = left.pop()
        if isinstance(value, dict | list):
            num_values += len(value)
            # looked at before what it holds is: it may hold very much
            if num_values > MAX_ALL_VALUES:
                raise InvalidField(f"a filter may hold {MAX_ALL_VALUES} values in all", param=param)
            left += value.values() if isinstance(value, dict) else value


def _nested(source: object, param: str, depth: int) -> Predicate:
    if depth > MAX_DEPTH:
        raise InvalidField(f"a filter may be {MAX_DEPTH} levels deep", param=param)
    clauses = _object(source, param).items()
    return _all([_clause(key, value, f"{param}.{key}", depth) for key, value in clauses])


def _clause(key: str, value: object, param: str, depth: int) -> Predicate:
    if key in ("and", "or"):
        parts = [_nested(part, f"{param}.{i}", depth + 1) for i, part in enumerate(_list(value, param))]
        return _all(parts) if key == "and" else lambda metadata: any(part(metadata) for part in parts)
    if key == "not":
        inner = _nested(value, param, depth + 1)
        return lambda metadata: not inner(metadata)
    tests = _tests(value, param)
    return lambda metadata: _holds(tests, _find(metadata, key))


def _tests(value: object, param: str) -> list[_Test]:
    if not isinstance(value, dict):
        return [_equal(_scalar(value, param))]
    if not value:
        raise InvalidField(
            "an empty object is no condition; use a value, in, gt, gte, lt or lte", param=param
        )
    tests: list[_Test] = []
    for name, operand in value.items():
        where = f"{param}.{name}"
        if name == "in":
            options = [_equal(_scalar(one, f"{where}.{i}")) for i, one in enumerate(_list(operand, where))]
            tests.append(_any(options))
        elif name in _ORDER:
            tests.append(_compare(_ORDER[name], operand, where))
        else:
            raise InvalidField(f"unknown condition {name!r}; known are in, gt, gte, lt, lte", param=where)
    return tests


def _equal(wanted: object) -> _Test:
    if isinstance(wanted, bool) or wanted is None:
        return lambda found: found is wanted
    if isinstance(wanted, str):
        return lambda found: found == wanted
    return lambda found: not isinstance(found, bool) and found == wanted


def _compare(order: Callable[[Any, Any], bool], bound: object, param: str) -> _Test:
    if isinstance(bound, str):
        return lambda found: isinstance(found, str) and order(found, bound)
    if isinstance(bound, bool) or not isinstance(bound, int | float):
        raise InvalidField(f"a range is bounded by a number or a text, got {_kind(bound)}", param=param)
    return lambda found: (
        isinstance(found, int | float) and not isinstance(found, bool) and order(found, bound)
    )


def _any(tests: list[_Test]) -> _Test:
    return lambda found: any(test(found) for test in tests)


def _holds(tests: list[_Test], found: object) -> bool:
    if isinstance(found, list):
        return any(all(test(one) for test in tests) for one in found)
    return all(test(found) for test in tests)


def _find(metadata: Metadata, key: str) -> object:
    if key in metadata or "." not in key:
        return metadata.get(key)
    found: object = metadata
    for part in key.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(part)
    return found


def _all(parts: list[Predicate]) -> Predicate:
    return lambda metadata: all(part(metadata) for part in parts)


def _object(value: object, param: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidField(f"a filter is an object, got {_kind(value)}", param=param)
    return value


def _list(value: object, param: str) -> list[Any]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_VALUES:
        size = f"a list of {len(value)}" if isinstance(value, list) else _kind(value)
        raise InvalidField(f"takes a list of 1 to {MAX_VALUES}, got {size}", param=param)
    return value


def _scalar(value: object, param: str) -> object:
    if isinstance(value, dict | list):
        raise InvalidField(f"takes a text, a number, true, false or null, got {_kind(value)}", param=param)
    return value


def _kind(value: object) -> str:
    return {dict: "an object", list: "a list", str: "a text", bool: "a boolean", type(None): "null"}.get(
        type(value), "a number"
    )
