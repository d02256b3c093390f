"""What is wrong with a request is named."""

import base64
import io

import pytest
from PIL import Image

from .reading import error


@pytest.mark.parametrize(
    ("route", "body", "expected"),
    [
        ("/vqa", {"image": "IMAGE"}, (422, "invalid_field", "question")),
        ("/vqa", {"question": "a"}, (422, "invalid_field", "image")),
        ("/vqa", {"image": "IMAGE", "question": ""}, (422, "invalid_field", "question")),
        ("/vqa", {"image": "IMAGE", "question": 5}, (422, "invalid_field", "question")),
        ("/vqa", {"image": 5, "question": "a"}, (422, "invalid_field", "image")),
        ("/vqa", {"image": "IMAGE", "question": "a", "topk": 1}, (422, "invalid_field", "topk")),
        ("/vqa", {"image": "IMAGE", "question": "a", "top_k": 0}, (422, "invalid_field", "top_k")),
        ("/vqa", {"image": "IMAGE", "question": "a", "top_k": "5"}, (422, "invalid_field", "top_k")),
        ("/vqa", {"image": "IMAGE", "question": "a", "top_k": True}, (422, "invalid_field", "top_k")),
        ("/vqa", {"image": "IMAGE", "question": "a", "model": "x"}, (404, "model_not_found", "model")),
        ("/vqa", {"image": "https://a.b/c.png", "question": "a"}, (400, "url_not_allowed", "image")),
        ("/vqa", {"image": "file:///etc/passwd", "question": "a"}, (400, "url_not_allowed", "image")),
        ("/vqa", {"image": "data:image/png,%89PNG", "question": "a"}, (400, "invalid_base64", "image")),
        ("/vqa", {"image": "no base64", "question": "a"}, (400, "invalid_base64", "image")),
        ("/vqa", {"image": "", "question": "a"}, (415, "unsupported_image", "image")),
        ("/vqa", {"image": "IMAGE", "question": "cat " * 50}, (413, "text_too_long", "question")),
        ("/vqa", {"inputs": []}, (422, "invalid_field", "inputs")),
        ("/vqa", {"inputs": "a"}, (422, "invalid_field", "inputs")),
        ("/vqa", {"inputs": [{}], "top_k": -1}, (422, "invalid_field", "top_k")),
        ("/vqa", {"inputs": [{}], "extra": 1}, (422, "invalid_field", "extra")),
        ("/vqa", [], (422, "invalid_field", None)),
        ("/vqa", 5, (422, "invalid_field", None)),
        ("/classify", {}, (422, "invalid_field", "image")),
        ("/classify", {"image": "IMAGE", "text": "a"}, (422, "invalid_field", "text")),
        ("/classify", {"image": "IMAGE", "text_pair": "a"}, (422, "invalid_field", "text_pair")),
        ("/classify", {"text": "a", "text_pair": "a", "labels": ["b"]}, (422, "invalid_field", "text_pair")),
        ("/classify", {"text": "a", "head": "shapes"}, (422, "invalid_field", "head")),
        ("/classify", {"image": "IMAGE", "labels": []}, (422, "invalid_field", "labels")),
        ("/classify", {"image": "IMAGE", "labels": ["a", 5]}, (422, "invalid_field", "labels.1")),
        ("/classify", {"image": "IMAGE", "labels": ["a", "cat " * 50]}, (413, "text_too_long", "labels.1")),
        ("/embed", {"image": "IMAGE", "text": "a"}, (422, "invalid_field", "text")),
        ("/retrieve", {"text": "a"}, (422, "invalid_field", "collection")),
        ("/retrieve", {"collection": "none", "text": "a"}, (404, "collection_not_found", "collection")),
        ("/retrieve", {"collection": "../x", "text": "a"}, (404, "collection_not_found", "collection")),
        ("/retrieve", {"collection": "none"}, (422, "invalid_field", "text")),
        ("/retrieve", {"collection": "none", "text": "a", "rerank": True}, (422, "invalid_field", "rerank")),
        (
            "/retrieve",
            {"collection": "none", "text": "a", "rerank": "always"},
            (422, "invalid_field", "rerank"),
        ),
        ("/retrieve", {"collection": "none", "text": "a", "top_k": 1001}, (422, "invalid_field", "top_k")),
        (
            "/retrieve",
            {"collection": "none", "text": "a", "filter": {"a": []}},
            (422, "invalid_field", "filter.a"),
        ),
    ],
)
def test_what_is_wrong_is_named(client, image, route, body, expected):
    if isinstance(body, dict) and body.get("image") == "IMAGE":
        body = {**body, "image": image}
    assert error(client.post(route, json=body)) == expected


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b'{"a":' * 20_000,
        b'{"text": NaN}',
        b'{"text": "\\ud800"}',
        b'{"text": "\xff"}',
        b'{"text": ' + b"9" * 100_000 + b"}",
        b"\x00" * 1000,
    ],
    ids=["empty", "cut", "deep list", "deep object", "nan", "surrogate", "latin", "huge number", "zeros"],
)
def test_what_is_no_json_is_refused(client, content):
    assert error(client.post("/embed", content=content)) == (400, "malformed_json", None)


def test_broken_foreign_and_huge_pictures(client, png):
    header = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(header, "PNG")
    cases = {
        "cut.png": (png()[:-30], (400, "broken_image", "image")),
        "text.jpg": (b"this is no picture", (415, "unsupported_image", "image")),
        "page.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", (415, "unsupported_image", "image")),
        "bomb.png": (header.getvalue(), (413, "image_too_large", "image")),
    }
    for name, (content, expected) in cases.items():
        form = client.post("/classify", files={"image": (name, content)})
        assert error(form) == expected, name
        as_json = client.post("/classify", json={"image": base64.b64encode(content).decode()})
        assert error(as_json) == expected, name


@pytest.mark.parametrize(
    ("headers", "param"),
    [
        ({"x-priority": "urgent"}, "x-priority"),
        ({"x-request-timeout-ms": "0"}, "x-request-timeout-ms"),
        ({"x-request-timeout-ms": "1.5"}, "x-request-timeout-ms"),
        ({"x-request-timeout-ms": "-5"}, "x-request-timeout-ms"),
        ({"x-request-timeout-ms": "9" * 5000}, "x-request-timeout-ms"),
    ],
)
def test_headers_out_of_range(client, headers, param):
    assert error(client.post("/embed", json={"text": "a"}, headers=headers)) == (400, "bad_request", param)


def test_forms_that_are_wrong(client, png):
    files = {"image": ("a.png", png())}
    twice = [("image", ("a.png", png())), ("image", ("b.png", png()))]
    assert error(client.post("/classify", files=twice)) == (422, "invalid_field", "image")
    assert error(client.post("/classify", files=files, data={"top_k": "many"})) == (
        422,
        "invalid_field",
        "top_k",
    )
    assert error(client.post("/classify", files=files, data={"colour": "1"})) == (
        422,
        "invalid_field",
        "colour",
    )
    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert error(client.post("/classify", content=b"--y\r\nnothing", headers=headers))[0] in (400, 422)
    assert (
        error(client.post("/classify", content=b"a", headers={"content-type": "multipart/form-data"}))[0]
        == 400
    )
