import base64

import pytest

from vlmoe_serve.errors import BadRequest, InvalidField, UrlNotAllowed
from vlmoe_serve.tasks.inputs import image_bytes, one_of

DATA = bytes(range(256))
TEXT = base64.b64encode(DATA).decode()


@pytest.mark.parametrize(
    "source",
    [
        DATA,
        TEXT,
        base64.encodebytes(DATA).decode(),
        f"data:image/png;base64,{TEXT}",
        f"DATA:;Base64,{TEXT}",
        f"data:image/svg+xml;charset=utf-8;base64,{TEXT}",
    ],
)
def test_every_form_of_a_file(source):
    assert image_bytes(source) == DATA


@pytest.mark.parametrize(
    "source", ["http://a/b.png", "HTTPS://a", "file:///etc/passwd", "ftp://a", "s3://b/c"]
)
def test_links_are_refused(source):
    with pytest.raises(UrlNotAllowed) as caught:
        image_bytes(source)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "source",
    [
        "a",
        "a b==",
        TEXT[:-1],
        TEXT + "=",
        "caf\u00e9",
        "data:image/png,abc",
        "data:,",
        TEXT[:8] + " " + TEXT[8:],
    ],
)
def test_what_is_no_base64_is_refused(source):
    with pytest.raises(BadRequest) as caught:
        image_bytes(source)
    assert (caught.value.code, caught.value.param) == ("invalid_base64", "image")


def test_megabytes_that_are_no_base64_are_quoted_short():
    with pytest.raises(BadRequest) as caught:
        image_bytes("!" * 10**6)
    assert len(caught.value.message) < 300


def test_exactly_one_input():
    one_of("x", None)
    one_of(None, "x")
    for image, text in ((None, None), ("x", "x")):
        with pytest.raises(InvalidField):
            one_of(image, text)
