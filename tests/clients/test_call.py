import json

import pytest

from vlmoe_client import Timings, UnexpectedAnswer
from vlmoe_client._call import Call, Reply, retry_after_s, segment, to_error
from vlmoe_client._images import Picture


def reply(status=200, content=b"{}", **headers) -> Reply:
    return Reply(
        status, {name.replace("_", "-"): value for name, value in headers.items()}, content, "r-1", 1000.0
    )


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("3", 3.0),
        ("0", 0.0),
        ("Thu, 01 Jan 1970 00:16:45 GMT", 5.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("soon", None),
        ("-1", None),
        ("\N{SUPERSCRIPT TWO}", None),
    ],
)
def test_retry_after(value, seconds):
    assert retry_after_s(value, now_s=1000.0) == seconds


def test_pictures_are_encoded_with_the_body_and_not_before(tmp_path):
    call = Call(
        "POST", "/vqa", lambda reply: None, {"image": Picture(tmp_path / "later.png"), "question": "é?"}
    )
    (tmp_path / "later.png").write_bytes(b"abc")
    assert json.loads(call.content()) == {"image": "YWJj", "question": "é?"}


def test_what_json_lacks_is_refused():
    with pytest.raises(TypeError, match="set cannot be sent"):
        Call("POST", "/", lambda reply: None, {"a": {1}}).content()
    with pytest.raises(ValueError, match="not JSON compliant"):
        Call("POST", "/", lambda reply: None, {"a": float("nan")}).content()


def test_timings_that_are_missing_or_strange_are_none():
    assert reply().timings == Timings()
    assert reply(x_queue_ms="2.5", x_forward_ms="?").timings == Timings(queue_ms=2.5)


def test_an_error_body_of_another_shape_is_shown_by_its_first_line():
    for content in (b'"text"', b'{"error": "text"}', b"[1]", b"plain\nmore"):
        error = to_error(reply(500, content))
        assert (error.code, error.message) == ("http_error", content.decode().splitlines()[0])
    assert to_error(reply(500, b"")).message == "no reason given"


def test_a_wrong_field_is_an_unexpected_answer():
    call = Call("GET", "/x", lambda reply: int(reply.json()["count"]))
    assert call.result(reply(content=b'{"count": 3}')) == 3
    with pytest.raises(UnexpectedAnswer, match="GET /x") as caught:
        call.result(reply(content=b'{"count": "many"}'))
    assert caught.value.request_id == "r-1"


@pytest.mark.parametrize(
    ("name", "quoted"),
    [("a b/c", "a%20b%2Fc"), ("..", "%2E%2E"), (".", "%2E"), ("a.png", "a.png"), ("é", "%C3%A9")],
)
def test_names_are_one_segment_of_a_path(name, quoted):
    assert segment(name) == quoted


def test_an_empty_name_is_refused():
    with pytest.raises(ValueError, match="empty"):
        segment("")
