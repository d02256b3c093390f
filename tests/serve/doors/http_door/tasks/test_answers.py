"""Answers are the network's, whatever form the inputs come in."""

import base64
import json

import numpy as np
import pytest

from .reading import QUESTION


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum()


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


@pytest.mark.parametrize("text", ["\x00", "\u202e\ufeff", "\U0001f600" * 10, "\uffff", "[MASK] [PAD]"])
def test_odd_texts_are_texts(client, text):
    assert client.post("/embed", json={"text": text}).status_code == 200


def test_every_priority_is_served(client):
    for priority in ("interactive", "normal", "batch"):
        assert client.post("/embed", json={"text": "a"}, headers={"x-priority": priority}).status_code == 200
