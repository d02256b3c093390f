import re
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from vlmoe_model.fields import build


@dataclass(frozen=True)
class Inner:
    count: int
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    name: str
    scale: float = 1.0
    flag: bool = False
    blocks: tuple[int, ...] = ()
    pair: tuple[float, float] = (0.0, 0.0)
    limit: float | None = None
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()


def test_every_kind_of_field_is_built() -> None:
    values = {
        "name": "x",
        "scale": 2,
        "flag": True,
        "blocks": [1, 2],
        "pair": [0.5, 1],
        "limit": 3,
        "inner": {"count": 1, "kind": "b"},
        "many": [{"count": 2}],
    }
    built = build(Outer, values)
    assert built == Outer("x", 2.0, True, (1, 2), (0.5, 1.0), 3.0, Inner(1, "b"), (Inner(2),))
    assert [type(built.scale), type(built.limit), type(built.pair[1])] == [float] * 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "the file must be an object, got []"),
        ({}, "key 'name' is missing"),
        ({"name": "x", "nmae": 1}, "unknown key 'nmae'; known are name, scale"),
        ({"name": 3}, "name must be of type str, got 3"),
        ({"name": None}, "name must be of type str, got None"),
        ({"name": "x", "scale": True}, "scale must be of type float, got True"),
        ({"name": "x", "scale": float("nan")}, "scale must be finite"),
        ({"name": "x", "flag": 1}, "flag must be of type bool, got 1"),
        ({"name": "x", "blocks": 1}, "blocks must be a list, got 1"),
        ({"name": "x", "blocks": [1, 2.0]}, "blocks[1] must be of type int, got 2.0"),
        ({"name": "x", "pair": [1]}, "pair must have 2 values, got 1"),
        ({"name": "x", "inner": {"count": True}}, "inner.count must be of type int, got True"),
        ({"name": "x", "inner": {"count": 1, "kind": "c"}}, "inner.kind must be one of a, b, got 'c'"),
        ({"name": "x", "inner": {"count": 1, "kind": ["a"]}}, "inner.kind must be one of a, b, got ['a']"),
        ({"name": "x", "many": [{"count": 1}, {}]}, "key 'many[1].count' is missing"),
        ({"name": "x", "many": [5]}, "many[0] must be an object, got 5"),
        ({"name": ["y" * 1000]}, "yyy..."),
    ],
)
def test_mistakes_name_the_field_and_what_is_allowed(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build(Outer, values)
