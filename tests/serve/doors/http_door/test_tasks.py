import base64
import concurrent.futures
import io
import json
import os
import signal
import socket
import time

import numpy as np
import pytest
from PIL import Image

from vlmoe_model.checkpoint.directory import open_directory
from vlmoe_model.images import open_image
from vlmoe_model.inputs import Job
from vlmoe_model.runner import Runner

QUESTION = "is there a red circle"


@pytest.fixture(scope="module")
def runner(checkpoint):
    return Runner.load(checkpoint, dtype="fp32", threads=1)


@pytest.fixture(scope="module")
def bare(runner, checkpoint):
    """bare(head, **inputs): what the network says without any server."""
    processor = open_directory(checkpoint).processor()

    def run(head, *, image=None, **texts):
        picture = None if image is None else open_image(image)
        return runner.run([Job(head, processor.example(head, image=picture, **texts))])[0]

    return run


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum()


def error(answer):
    assert set(answer.json()) == {"error"}
    assert set(answer.json()["error"]) == {"code", "message", "param"}
    assert answer.json()["error"]["message"]
    assert answer.headers["x-request-id"]
    return answer.status_code, answer.json()["error"]["code"], answer.json()["error"]["param"]


def test_vqa_says_what_the_network_says_and_where_the_time_went(client, bare, png, image):
    answer = client.post(
        "/vqa", json={"image": image, "question": QUESTION, "top_k": 3}, headers={"x-request-id": "r-1"}
    )
    assert answer.status_code == 200
    body = answer.json()
    expected = softmax(bare("questions", image=png(), text=QUESTION))
    order = np.argsort(-expected)[:3]
    assert [one["answer"] for one in body["answers"]] == [["yes", "no", "circle", "square"][i] for i in order]
    assert [one["score"] for one in body["answers"]] == pytest.approx(expected[order], abs=1e-5)
    assert body["model"] == "tiny"
    assert body["usage"] == {"image_tokens": 17, "text_tokens": len(QUESTION.split()) + 2}
    assert answer.headers["x-request-id"] == "r-1"
    assert answer.headers["x-model-id"] == client.get("/v1/models").json()["data"][0]["model_id"]
    assert int(answer.headers["x-batch-tokens"]) == 24
    assert all(float(answer.headers[f"x-{phase}-ms"]) >= 0 for phase in ("encode", "queue", "forward"))


def test_a_picture_is_the_same_in_every_form(client, png, image):
    answers = [
        client.post("/vqa", json={"image": image, "question": QUESTION}),
        client.post("/vqa", json={"image": f"data:image/png;base64,{image}", "question": QUESTION}),
        client.post("/vqa", json={"image": base64.encodebytes(png()).decode(), "question": QUESTION}),
        client.post("/vqa", files={"image": ("a.png", png())}, data={"question": QUESTION, "top_k": "5"}),
        client.post(
            "/vqa",
            content=json.dumps({"image": image, "question": QUESTION}),
            headers={"content-type": "x/y"},
        ),
    ]
    assert [answer.status_code for answer in answers] == [200] * 5
    assert all(answer.json() == answers[0].json() for answer in answers)
    assert len(answers[0].json()["answers"]) == 4


def test_classify_picks_the_head_by_what_it_is_given(client, bare, png, image):
    by_image = client.post("/classify", json={"image": image, "top_k": 1}).json()
    assert (by_image["head"], len(by_image["labels"])) == ("shapes", 1)
    assert by_image["labels"][0]["score"] == pytest.approx(
        softmax(bare("shapes", image=png())).max(), abs=1e-5
    )
    by_text = client.post("/classify", json={"text": "a cat", "text_pair": "a circle"}).json()
    expected = softmax(bare("entailment", text="a cat", text_pair="a circle"))
    assert by_text["head"] == "entailment"
    assert {one["label"]: one["score"] for one in by_text["labels"]} == pytest.approx(
        {"no": expected[0], "yes": expected[1]}, abs=1e-5
    )
    named = client.post("/classify", json={"image": image, "head": "shapes", "model": "tiny"})
    assert named.json()["labels"][0] == by_image["labels"][0]


def test_classify_with_labels_compares_in_the_embedding_space(client, runner, bare, png, image):
    labels = ["a sleeping cat", "a red circle", "two scissors"]
    found = client.post("/classify", json={"image": image, "labels": labels}).json()
    similar = [bare("matching", image=png()) @ bare("matching", text=label) for label in labels]
    expected = dict(zip(labels, softmax(runner.logit_scale * np.array(similar)), strict=True))
    assert found["head"] == "matching"
    assert {one["label"]: one["score"] for one in found["labels"]} == pytest.approx(expected, abs=1e-4)
    form = client.post("/classify", files={"image": ("a.png", png())}, data={"labels": labels})
    assert form.json() == found


def test_embeddings_have_unit_length_and_a_space(client, bare, png, image):
    for inputs, expected in (
        ({"image": image}, bare("matching", image=png())),
        ({"text": "a cat"}, bare("matching", text="a cat")),
    ):
        found = client.post("/embed", json=inputs).json()
        assert found["embedding"] == pytest.approx(expected, abs=1e-5)
        assert np.linalg.norm(found["embedding"]) == pytest.approx(1.0, abs=1e-5)
        assert found["space_id"] == client.get("/v1/models").json()["data"][0]["space_id"]


def test_of_several_inputs_each_fails_alone_and_in_its_place(client, image):
    inputs = [
        {"image": image, "question": QUESTION},
        {"image": "!", "question": QUESTION},
        {"question": QUESTION},
        {"image": image, "question": "cat " * 100},
        {"image": image, "question": QUESTION, "top_k": 0},
        {"image": image, "question": QUESTION, "model": "other"},
        "text",
        {"image": image, "question": "a cat", "top_k": 1},
    ]
    answer = client.post("/vqa", json={"inputs": inputs, "top_k": 2})
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [
        result["error"]["param"] if "error" in result else len(result["answers"]) for result in results
    ] == [
        2,
        "inputs.1.image",
        "inputs.2.image",
        "inputs.3.question",
        "inputs.4.top_k",
        "inputs.5.model",
        "inputs.6",
        1,
    ]
    assert [result["error"]["code"] for result in results if "error" in result] == [
        "invalid_base64",
        "invalid_field",
        "text_too_long",
        "invalid_field",
        "model_not_found",
        "invalid_field",
    ]
    assert results[0] == client.post("/vqa", json={**inputs[0], "top_k": 2}).json()
    assert float(answer.headers["x-forward-ms"]) > 0


def test_a_full_call_is_answered_in_order_and_a_fuller_one_refused(client):
    texts = [f"{'cat ' * (n % 20 + 1)}" for n in range(256)]
    found = client.post("/embed", json={"inputs": [{"text": text} for text in texts]}).json()["results"]
    assert [one["usage"]["text_tokens"] for one in found] == [n % 20 + 3 for n in range(256)]
    by_length = {one["usage"]["text_tokens"]: one["embedding"] for one in found[:20]}
    for one in found:
        assert one["embedding"] == pytest.approx(by_length[one["usage"]["text_tokens"]], abs=1e-5)
    refused = client.post("/embed", json={"inputs": [{"text": "a"}] * 257})
    assert error(refused) == (413, "too_many_inputs", "inputs")


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
        b'{"a":' * 100_000,
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


@pytest.mark.parametrize("text", ["\x00", "\u202e\ufeff", "\U0001f600" * 10, "\uffff", "[MASK] [PAD]"])
def test_odd_texts_are_texts(client, text):
    assert client.post("/embed", json={"text": text}).status_code == 200


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


def test_every_priority_is_served(client):
    for priority in ("interactive", "normal", "batch"):
        assert client.post("/embed", json={"text": "a"}, headers={"x-priority": priority}).status_code == 200


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


def test_a_deadline_is_kept_while_the_engine_stands_still(server, client):
    with server.engine_paused():
        answer = client.post("/embed", json={"text": "a"}, headers={"x-request-timeout-ms": "150"})
        both = client.post(
            "/embed", json={"inputs": [{"text": "a"}, {}]}, headers={"x-request-timeout-ms": "150"}
        )
    assert error(answer) == (504, "deadline_exceeded", None)
    assert [one["error"]["code"] for one in both.json()["results"]] == ["deadline_exceeded", "invalid_field"]
    assert client.post("/embed", json={"text": "a"}).status_code == 200


def test_a_caller_that_hangs_up_is_forgotten(server, client):
    line = 'vlmoe_disconnects_total{route="/embed"}'
    before = server.metric(line)
    body = b'{"text": "a"}'
    with server.engine_paused():
        with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as connection:
            connection.sendall(
                b"POST /embed HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
            )
            time.sleep(0.1)
        end_s = time.monotonic() + 10
        while server.metric(line) == before and time.monotonic() < end_s:
            time.sleep(0.02)
    assert server.metric(line) == before + 1
    assert client.post("/embed", json={"text": "a"}).status_code == 200


def test_killing_the_engine_costs_nobody_an_answer(server, client, image):
    restarts = server.metric('vlmoe_engine_restarts_total{model="tiny"}')
    expected = client.post("/vqa", json={"image": image, "question": QUESTION}).json()["answers"][0]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = [
            pool.submit(client.post, "/vqa", json={"image": image, "question": QUESTION}) for _ in range(64)
        ]
        next(concurrent.futures.as_completed(answers))
        os.kill(server.engine_pid, signal.SIGKILL)
    assert [answer.result().status_code for answer in answers] == [200] * 64
    for answer in answers:
        best = answer.result().json()["answers"][0]
        assert best == {"answer": expected["answer"], "score": pytest.approx(expected["score"], abs=1e-5)}
    assert server.metric('vlmoe_engine_restarts_total{model="tiny"}') == restarts + 1
    assert client.get("/readyz").status_code == 200
