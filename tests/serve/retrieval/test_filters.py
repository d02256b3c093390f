import pytest

from vlmoe_serve.errors import InvalidField
from vlmoe_serve.retrieval.filters import MAX_DEPTH, compile_filter

SHOE = {
    "kind": "shoe",
    "year": 1999,
    "new": True,
    "tags": ["red", "sale"],
    "maker": {"city": "Rome"},
    "none": None,
}


@pytest.mark.parametrize(
    ("source", "matches"),
    [
        ({}, True),
        ({"kind": "shoe"}, True),
        ({"kind": "hat"}, False),
        ({"kind": "shoe", "year": 2000}, False),
        ({"year": 1999.0}, True),
        ({"year": "1999"}, False),
        ({"new": True}, True),
        ({"new": 1}, False),
        ({"tags": "sale"}, True),
        ({"tags": "blue"}, False),
        ({"tags": {"in": ["blue", "red"]}}, True),
        ({"kind": {"in": ["hat", "scarf"]}}, False),
        ({"maker.city": "Rome"}, True),
        ({"maker.city.street": "x"}, False),
        ({"none": None}, True),
        ({"missing": None}, True),
        ({"kind": None}, False),
        ({"year": {"gte": 1999, "lt": 2000}}, True),
        ({"year": {"gt": 1999}}, False),
        ({"year": {"lte": 1999}}, True),
        ({"kind": {"gte": "s", "lt": "t"}}, True),
        ({"kind": {"gte": 1}}, False),
        ({"new": {"gte": 0}}, False),
        ({"missing": {"lt": 5}}, False),
        ({"and": [{"kind": "shoe"}, {"year": {"gt": 1990}}]}, True),
        ({"and": [{"kind": "shoe"}, {"year": {"gt": 2000}}]}, False),
        ({"or": [{"kind": "hat"}, {"year": 1999}]}, True),
        ({"or": [{"kind": "hat"}, {"year": 1}]}, False),
        ({"not": {"kind": "hat"}}, True),
        ({"not": {"or": [{"kind": "shoe"}]}}, False),
        ({"or": [{"kind": "shoe"}], "year": 1}, False),
    ],
)
def test_filters_match(source, matches):
    assert compile_filter(source)(SHOE) is matches


def deep(levels):
    return {"not": deep(levels - 1)} if levels else {"kind": "shoe"}


@pytest.mark.parametrize(
    ("source", "param"),
    [
        (["kind"], "filter"),
        ("kind", "filter"),
        ({"kind": {}}, "filter.kind"),
        ({"kind": {"like": "s%"}}, "filter.kind.like"),
        ({"kind": ["shoe"]}, "filter.kind"),
        ({"kind": {"in": "shoe"}}, "filter.kind.in"),
        ({"kind": {"in": []}}, "filter.kind.in"),
        ({"kind": {"in": [["shoe"]]}}, "filter.kind.in.0"),
        ({"kind": {"in": ["x"] * 1001}}, "filter.kind.in"),
        ({"or": [{"a": {"in": ["x"] * 900}}] * 5}, "filter"),
        ({f"field-{i}": 1 for i in range(4001)}, "filter"),
        ({"year": {"gte": None}}, "filter.year.gte"),
        ({"year": {"gte": True}}, "filter.year.gte"),
        ({"and": {}}, "filter.and"),
        ({"or": [{"a": 1}, 5]}, "filter.or.1"),
        ({"not": [{}]}, "filter.not"),
        (deep(100), "filter" + ".not" * MAX_DEPTH),
    ],
)
def test_what_is_no_filter_is_refused_by_path(source, param):
    with pytest.raises(InvalidField) as caught:
        compile_filter(source)
    assert caught.value.param == param


def test_the_deepest_allowed_filter_works():
    assert compile_filter(deep(MAX_DEPTH - 2))(SHOE) is True
