import pytest

from vlmoe_serve.http_door.wire import Answer, answer_bytes


def test_an_answer_has_its_length_and_what_all_have_in_common():
    answer = Answer(422, [(b"x-a", b"1"), (b"x-b", b"2")], b"body")
    assert answer_bytes(answer, [(b"date", b"today")]) == (
        b"HTTP/1.1 422 Unprocessable Entity\r\ndate: today\r\nx-a: 1\r\nx-b: 2\r\ncontent-length: 4\r\n\r\nbody"
    )
    closing = answer_bytes(Answer(200, [], b""), [], close=True)
    assert closing == b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


@pytest.mark.parametrize("value", [b"a\r\nx-evil: 1", b"a\nb", b"a\rb", b"\n"])
def test_no_header_breaks_its_line(value):
    with pytest.raises(ValueError, match="line break"):
        answer_bytes(Answer(200, [(b"x-model-id", value)], b""), [])
