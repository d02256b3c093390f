import resource

import pytest

from vlmoe_serve.errors import BadRequest, PayloadTooLarge
from vlmoe_serve.http_door.json import MAX_NAMES, MAX_VALUES, json_response, parse_json


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": [1, 2.5, true, null, "x"]}', {"a": [1, 2.5, True, None, "x"]}),
        (b'"\\u0000 \\ud83d\\ude00"', "\0 \U0001f600"),
        (b"[" * 100 + b"]" * 100, None),
        (b" 1 ", 1),
    ],
)
def test_what_is_json(body, value):
    parsed = parse_json(body)
    assert value is None or parsed == value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe{}",
        b"{'a': 1}",
        b'{"a": 1,}',
        b'{"a": 1} {}',
        b"[NaN]",
        b"[Infinity]",
        b"[-Infinity]",
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'"\xed\xa0\x80"',
        b'"a\x00b"',
        b'{"a": 1, "b": 2, "a": 3}',
        b'{"a": {"b": 1, "\\u0062": 2}}',
        b"1" * 5000,
        b"[" * 250,
        b'{"a":' * 250,
        b"[" * 240_000,
    ],
)
def test_what_is_not(body):
    with pytest.raises(BadRequest) as caught:
        parse_json(body)
    assert caught.value.code == "malformed_json"
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("part", [b"[],", b"{},", b"0,", b'"",', b'{"a":[{}]},'])
def test_millions_of_values_are_refused_before_they_take_memory(part):
    body = b"[" + part * (31_000_000 // len(part)) + b"0]"
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PayloadTooLarge) as caught:
        parse_json(body)
    assert caught.value.code == "too_many_values"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 20_000


@pytest.mark.parametrize("colon", [":", " :", "\n:", "\t:", "\r:", "\r\n\t :"])
def test_names_are_bounded_before_any_is_read(colon, monkeypatch):
    """Each is looked for among the others, which would hold the event loop."""

    def body(count):
        return ("{" + ",".join(f'"{number}"{colon}1' for number in range(count)) + "}").encode()

    assert len(parse_json(body(MAX_NAMES))) == MAX_NAMES
    monkeypatch.setattr("jiter.from_json", None)
    with pytest.raises(PayloadTooLarge, match="30000 names") as caught:
        parse_json(body(MAX_NAMES + 1))
    assert caught.value.code == "too_many_values"


def test_small_objects_are_counted_together():
    assert len(parse_json(b"[" + b",".join([b'{"":1}'] * MAX_NAMES) + b"]")) == MAX_NAMES
    with pytest.raises(PayloadTooLarge):
        parse_json(b"[" + b",".join([b'{"":1}'] * (MAX_NAMES + 1)) + b"]")


def test_colons_in_texts_are_no_names():
    text = "12:30, see https://example.com:80/, " * MAX_NAMES
    assert parse_json(f'{{"text": "{text}"}}'.encode()) == {"text": text}


def test_a_long_text_is_one_value():
    assert len(parse_json(b'"' + b"A" * 10_000_000 + b'"')) == 10_000_000
    assert len(parse_json(b"[" + b"0," * (MAX_VALUES - 2) + b"0]")) == MAX_VALUES - 1


def test_answers_hold_no_nan():
    assert json_response({"a": [float("nan"), float("inf"), 1.5]}).body == b'{"a":[null,null,1.5]}'
